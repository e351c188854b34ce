// Package bench compares a cluster of three nodes with one plain node of the
// engine, both in this process and in the same run: make bench prints the
// table. Figures of two runs or two machines do not compare; ratios do.
package bench
