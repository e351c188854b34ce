// Package campaign breaks a cluster of separate processes in every way that a
// seed comes up with, while writers write, overwrite, delete and read, and then
// compares every owner point by point with the record of what was acknowledged:
//
//	make campaign                      # 500 faults
//	make campaign SEED=7 FAULTS=50     # a replay: the same cluster, faults and operations
//
// The record keeps for each operation when it began and when its answer came. A point may hold at the end what the last
// operation leaves there in some order of all that keeps to these times (package history); all owners must hold the
// same.
//
// The writes of a point go through any node, so that one out of the hinted handoff of one node may arrive after a newer
// one through another. With CAMPAIGN='-through one' they go through one node, as long as it answers. With
// CAMPAIGN='-shared' all writers write to the same series, so that operations on a point overlap.
//
// Faults: kill -9, restart, pause (SIGSTOP), cut links (reset, stalled, or with
// the answers held), slow links, calls between data nodes that arrive twice (the second at once, or behind
// later calls), a full disk (but for some kB, or for less than the 5 % that repairs leave free; at times
// the node is killed and started while it is full), a power cut of all data nodes, and kills,
// pauses and cuts of a meta node. One data node at a time is in trouble, so a quorum
// of the owners of every shard stays and writes must go on. Faults follow the seed
// exactly; how they meet the writers' requests depends on the machine.
//
// Disks are full for real: each data node has a small file system of its own, in memory, which takes
// Linux and root. Elsewhere these faults are skipped, and the log says so.
package campaign
