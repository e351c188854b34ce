// Package campaign breaks a cluster of separate processes in every way that a
// seed comes up with, while writers write, overwrite, delete and read, and then
// compares every owner point by point with the record of what was acknowledged:
//
//	make campaign                      # 500 faults
//	make campaign SEED=7 FAULTS=50     # a replay: the same cluster, faults and operations
//
// The seed chooses the numbers of nodes, two or three copies of each shard, and whether anti-entropy repairs what
// differs by itself, or when it is asked to.
//
// # What is checked
//
// The record keeps for each operation when it began and when its answer came. For each point there must be a linear
// order of its writes and deletes that respects these times and ends in what an owner holds (package history). An
// operation that was not acknowledged may come anywhere after its begin in that order, or not at all. All owners must
// hold the same. All writes ask for a quorum: two of three copies, and both of two. At level one, two writes through
// nodes that do not reach each other have the order of their clocks (docs/adr/0011-one-order.md), which no record
// knows.
//
// The writes of a point go through any node, so that one out of the hinted handoff of one node may arrive after a newer
// one through another. With CAMPAIGN='-through one' they go through one node, as long as it answers. With
// CAMPAIGN='-shared' all writers write to the same series, so that operations on a point overlap.
//
// # Faults
//
//   - a data node is killed (kill -9), restarted or paused (SIGSTOP)
//   - links are cut (reset, stalled, or with the answers held) or slow
//   - calls between data nodes arrive twice, the second at once or behind later calls
//   - a disk is full, but for some kB, or for less than the 5 % that repairs leave free; at times the node is killed
//     and started while it is full
//   - the power of all data nodes is cut
//   - a node is wiped: all its folders are gone, and update-data gives it its place back
//   - a node is replaced: update-data gives its place to an empty one at another address
//   - the clock of a data node goes off by up to ten minutes, and comes back
//   - a meta node is killed, paused or cut off
//
// One data node at a time is in trouble. Of the three owners of a shard a quorum stays, and writes must go on. Of two
// owners it does not, and writes to the shards of that node wait. Clocks and meta nodes are in trouble beside the other
// faults, one at a time. Faults follow the seed exactly; how they meet the writers' requests depends on the machine.
//
// A wipe takes a copy away for ever. What was acknowledged at a quorum is on two copies, and the other one may be
// all that is left of it. So a node is wiped or replaced only when nothing else is missing: no data node is down or
// cut off, nobody has hints for anybody, every node knows its copies to be whole, and anti-entropy has found nothing
// to repair for two checks. Writers go on meanwhile. What is acknowledged after that is safe, too: the other owners of
// the shard are reached. Other faults come at once, while the copies are made anew.
//
// Disks are full for real: each data node has a small file system of its own, in memory, which takes
// Linux and root. Elsewhere these faults are skipped, and the log says so. To move clocks, all of Go's library is
// compiled anew, once, which takes minutes; with CAMPAIGN='-clocks=false' these faults are skipped.
package campaign
