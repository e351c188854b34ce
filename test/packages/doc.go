// Package packages tries the packages for Debian in roots of their own, each with its own network and processes. It
// needs root, debootstrap, and a mirror of Debian: `make test-packages` runs it.
package packages
