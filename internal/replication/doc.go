// Package replication is the write path. The node that a client asked brings each point to all owners of its shard,
// and the consistency level decides when the client gets its answer. What an owner misses is kept for it. The package
// also takes what other nodes, hinted handoff and repairs write to this node's copies.
//
// # Terms
//
//   - The coordinator is the node that a client asked. An owner has a copy of the shard; the coordinator may be one.
//   - A version is the place of a write in the order of all writes and deletes (package order). Of two writes to the
//     same field of a point the greater version wins, in whatever order they arrive.
//   - A write is late when its client has its answer already, or when it comes out of hinted handoff or of a repair. A
//     late write is written without the points of which the owner has something newer.
//   - A write that is not late is behind when an owner has something newer. Nothing of it is written there, and the
//     coordinator sends it to all owners again with a greater version, up to three times, and the last time as a late
//     write.
//   - The floor is the version below which nothing of a node reaches another one any more. The journal forgets what is
//     below the floors of all nodes.
//
// # A write, step by step
//
//	client         coordinator                       owner A                        owner B (away)
//	  │  points        │                                │                               ╳
//	  ├───────────────►│ 1  points to shards            │                               ╳
//	  │                │ 2  a version                   │                               ╳
//	  │                │ 3  types of new fields         │                               ╳
//	  │                │ 4  WriteBatch ────────────────►│ deletes, journal, engine      ╳
//	  │                │    WriteBatch ─────────────────┼──────────────────────────────►╳
//	  │                │◄────────────────── written ────┤                               ╳
//	  │                │ 5  hint for B: on disk         │                               ╳
//	  │                │ 6  "B lacks it", to all nodes  │                               ╳
//	  │◄───── done ────┤                                │                               │ is back
//	  │                │ 7  out of hinted handoff: WriteShard ─────────────────────────►│ as late
//
// The steps:
//
//  1. mapShards finds the shard of each point, and makes shard groups where there are none. Points that the retention
//     policy does not take are dropped: the answer is a partial write. Subscriptions get a copy of the points.
//  2. lanes registers the write as under way to each owner, and gives it one version for all of them.
//  3. The first value of a field gives it its type, at each owner for itself. So a write with a field that the shard
//     is not known to have goes to one owner first, which decides. The others get what that owner took (types.go).
//  4. The owner asks what it knows of deletes, and its journal, for what is newer. Then it writes to the engine, and
//     tells the journal (ownCopies.accept). The coordinator does the same with its own copy.
//  5. An owner that fails, or does not answer within WriteTimeout, gets the write by hinted handoff. While its queue
//     for the shard has entries, later writes go there, too. The own copy of the coordinator does not wait for its
//     queue.
//  6. Before the client has its answer, all copies that lack the write are noted (Copies.Missed). Until the level is
//     decided no copy lacks it: a write that fails was never acknowledged (verdict.go).
//  7. Package handoff sends the entries when the node is back (DeliverWrites). Entries that were written together go
//     as one message, with the version of each.
//
// The client has its answer as soon as its level is met, or cannot be met any more. The other owners go on in the
// background. Without hinted handoff, what is missed is noted and logged, and left to anti-entropy.
//
// # When a node goes down
//
// What the coordinator had under way goes down with it: some owners may have a write that others do not. So each owner
// remembers the writes of other nodes until their sender says that they have arrived (received.go). When a process is
// gone, the owners send each other what they have of it, with the versions that it had (relay.go). An owner that lacks
// one of these writes even then notes that its copy is not whole.
//
// # The files
//
//	writer.go       Writer, which clients ask: it is made of the other parts
//	mapping.go      points to shards; newgroups.go has the limit on new shard groups
//	shardwrite.go   one write to the owners of one shard
//	level.go        consistency levels, and the errors of writes
//	verdict.go      which copies lack a write that was acknowledged
//	lanes.go        the writes that are under way to each owner; a slow node gets its writes by hinted handoff
//	owner.go        outgoing: one write to one owner; batches.go sends it as one run of bytes
//	hints.go        outgoing: into hinted handoff, and out of it; hintedwrites.go waits for a message that comes twice
//	types.go        typeDecider: types of new fields; timefield.go strips fields called time
//	accept.go       ownCopies: writes to this node's copies
//	server.go       Server: writes of other nodes
//	repairs.go      Repairs: writes of repairs, and the versions that these ask for
//	moved.go        writes to a shard that was moved: what its former owner refuses
//	floors.go       floors, and what the journal may forget
//	received.go     what came from other nodes lately; relay.go sends it on when its sender is gone
//	missed.go       the log of what nodes miss
//	statistics.go   the statistic write
//
// Begin with place and writeShard, then read accept.
package replication
