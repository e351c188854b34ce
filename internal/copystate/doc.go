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
//     restore, or it was copied and not compared since. Such marks are on
//     disk. A repair removes them.
//
//   - Some of its files are damaged, or the engine cannot open it.
//
//   - Its node has just started, or was silent, and has not heard of the
//     others since; or it can reach less than half of the data nodes.
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
// A node whose folders were rolled back to an older state finds out from the
// others: they remember a later mark of it, a start that it does not know, or
// that its folders have got another name since. Until enough of them have
// answered it is not ready: no repair takes its copies for right. Its copies
// may then hold deleted points and old values: they are stale. What it kept for
// others is set aside. It asks all nodes for the deletes that they remember
// since the moment to which it went back, and runs them. From then on its
// copies are outdated: they hold nothing that was deleted. A repair makes them
// anew from the other copies, where these have all that was acknowledged.
// Elsewhere it merges them with the others, when all owners are there. It waits
// while copies are stale, and not for long where others replace them.
//
// Copies are stale, too, when deletes are lost that were kept for their node.
// Others ran these: the node asks them, and runs what it lacks. From then on
// its copies lack what they lacked before, and some writes at most. When it
// cannot run all of them, its copies are outdated.
package copystate
