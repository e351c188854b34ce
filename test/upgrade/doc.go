// Package upgrade runs clusters of processes of the previous version and of this one, on the same folders. The previous
// version is built from a commit of this repository's history. Run it with `make upgrade`.
package upgrade
