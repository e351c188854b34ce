// Package copystate knows which copies of shards are whole.
//
// A copy is whole when it has every acknowledged write and delete that the
// cluster knows of and that is not under way. Whoever reads a copy asks this
// package first: queries, backups, copies of shards, removals, and repairs.
//
// A copy is not whole while one of these holds:
//
//   - Another node still keeps writes or deletes for it (hinted handoff).
//     Each node has a table of what it owes to others. Once a second, and
//     before a write is acknowledged that a copy missed, every node tells
//     every other node its own table and the tables that it heard of. So an
//     owner that comes back learns what it missed even when the node that
//     keeps it is away.
//
//   - It lacks something for good: its disk is new or older than it was, the
//     shard was lost, hints for it were dropped, it did not take part in a
//     restore, or it was copied and not compared since. That is noted on
//     disk, until a repair has brought what it lacks.
//
//   - Some of its files are damaged, or the engine cannot open it.
//
//   - Its node has just started, or was silent, and has not heard of the
//     others since; or it can reach less than half of the data nodes that are
//     not known to be down.
//
// A write that node 2 misses, and how the others learn of it:
//
//	        write               hint                     ack
//	client ─────► coordinator ─────► its own queue ─ ─ ─ ─► client
//	                   │  table: "node 2 lacks writes of shard 7"
//	                   ├─────────────► node 1 ─────► node 2
//	                   └─────────────► node 3 ─────► node 2   (passed on at once)
//
// What survives a restart is in one bbolt file, copies.db, which
// docs/format/copies.md describes. A name in the data folder and in that file
// ties the two together: when one of them is lost or replaced, every copy
// that other nodes have too counts as lost.
//
// The code has layers, and none knows those above it: knowledge is in memory,
// ledger keeps copies.db in step with it, exchanges talk to the other nodes,
// and Service is what the rest of the node asks.
//
// A node whose folders were rolled back finds out from the others. They remember
// a later mark of the node, a start that it does not know, or that its folders
// have got another name since. Until enough nodes have answered, the node is
// not ready, and its copies take no part in repairs. What it kept for others is
// set aside.
//
// The copies of such a node are stale: they may hold deleted points and old
// values. The node asks all other nodes which deletes it lacks, and runs them.
// Then its copies are outdated: they may still hold old values. A repair makes
// those that differ anew, where the other copies have all that was acknowledged.
// Elsewhere it merges the copies, once all owners are there. While a copy is
// stale, the repair waits. Where it can make the copy anew, it waits for two
// attempts only.
//
// Copies are also stale when deletes that were kept for their node are lost, or
// when the node that keeps them is away for longer than awayFor. The node asks
// the others for these deletes, and runs them. Then its copies lack what they
// lacked before, and possibly some writes. When some of the deletes must not
// run, because the node has forgotten which points are newer, its copies are
// outdated.
package copystate
