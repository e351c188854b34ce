// Package order says which of two operations on a point is the later one.
//
// Each write and each delete has a Version, which a Clock gives it. Clocks of nodes hear of each other with every
// message: what happens after something else, anywhere in the cluster, gets a greater version, although the clocks of
// the machines are minutes apart.
//
// Owners may receive writes in any order: one that waited in hinted handoff arrives hours late. So each owner has a
// Journal, which knows with which version it wrote each point lately. A write is written without the points that
// have a greater version already:
//
//	arrives        journal of the point      written
//	v2  temp=20    v2                        temp=20
//	v1  temp=10    v2 (greater than v1)      nothing
//	v3  temp=30    v3                        temp=30
//
// Nodes tell each other below which version nothing of theirs will arrive any more. What is below is forgotten, after
// two seconds in a healthy cluster. While a node is away the journal grows, and goes to disk.
//
// The package knows no network. docs/format/order.md describes its files.
package order
