// Package e2e drives a cluster of separate processes as an operator would: it
// builds the binaries, writes configuration files, and uses HTTP, influxd-ctl
// and signals alone. Run it with `make e2e`.
package e2e
