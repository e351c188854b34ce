// Package reconcile finds the windows in which the owners of a shard differ.
//
// # The problem
//
// Each owner can list its digests: for every series-field the sums of up to 64 windows (package digest). A shard with a
// million windows has a list of some 30 MB. Most of the time a few windows differ, or none, and whole lists would cost
// the same each time. Here the cost is that of the difference.
//
// # Rateless
//
// Every window with points is an element of a set, of 16 bytes:
//
//	 63                                9 8       3 2    0     47                    0
//	+-----------------------------------+---------+------+   +-----------------------+
//	| hash of the series-field, 55 bits | window  | type |   | digest.Sum.Fold       |
//	+-----------------------------------+---------+------+   +-----------------------+
//
// A window that differs is one or two elements that only one of two owners has. They are found by coded symbols:
// package riblt, after Yang, Gilad and Alizadeh, "Practical Rateless Set Reconciliation" (SIGCOMM 2024). About 1.35 to
// 1.7 symbols of some 23 bytes are needed for each of them, however large the sets are.
//
//	this node                                         another owner
//	list of digests ──► Spool, a temporary file       list of digests ──► Spool
//	a random key for this comparison ────────────────►
//	                 ◄─────────────────────────────── how many elements
//	                 ◄─────────────────────────────── symbols 0 to 31
//	subtracts its own symbols; reads off elements
//	all of it? if not, 32 more, later a sixth more ──►
//	                 ◄─────────────────────────────── …
//	series that this node does not have, by hash ────►
//	                 ◄─────────────────────────────── their names
//
// This happens with every other owner at the same time. The results are then put together. An owner for which
// no difference was found holds what this node holds. So each Difference says what every owner holds. Of three owners,
// of which the second has nothing in window 3, and the others the same:
//
//	Windows = 1<<3    Groups = 1 0 1    (the place of the first owner with the same, plus 1; 0 for nothing)
//
// # Flat
//
// Flat reads all lists and merges them. It compares whole sums. Rateless hands over to it when
//
//   - this node has no copy, so that nothing can be subtracted;
//   - so much differs that the symbols would cost as much as the list, or more than 2^18 symbols;
//   - what a peer sends does not decode, or does not fit together: two series-fields with the same hash, for example;
//   - a shard has more than 2^28 windows.
//
// # What can be missed
//
// Rateless compares 48 bits of each sum. A difference that it misses shows in the roots, which the caller compares
// after a repair; the last round of a repair uses Flat. Differences are in ascending order of (series, field). Rateless
// holds all of them in memory. Flat holds 128 digests of each owner at most.
//
// # What a crash or bad input leads to
//
// Nothing is stored: a Spool is a file without a name, which ends with the process. Symbols, names and lists of peers
// are not trusted. A list out of order is an error. When symbols do not decode to a set, Flat takes over. What a peer
// may ask for at once is bounded (MaxSymbols, MaxHashes).
package reconcile
