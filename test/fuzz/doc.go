// Package fuzz sends requests of every kind to a cluster of processes that have little memory: statements that are
// deep, wide, long and wrong, line protocol and compressed bodies that no client means to send, and connections that
// stall and break. Request n of a seed is always the same. No process may end, no answer may take longer than its
// limit, and the memory must come back down. A client that behaves reads and writes beside it.
package fuzz
