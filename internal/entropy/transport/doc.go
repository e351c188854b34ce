// Package transport carries anti-entropy between data nodes. It implements the interfaces of package entropy, Replica
// and Control, for other nodes: a call of a method here becomes a call of the same method there. It decides nothing.
//
// # The two sides
//
//	the node that compares or repairs              the node that is asked
//	┌──────────────────────────────────┐           ┌─────────────────────────────────────────┐
//	│ check, repair, service, view     │           │                                         │
//	│   Transport.Replica(node) ─ peer ┼── gRPC ──►│ Server ─► entropy.Replica: local.Local  │
//	│   Transport.Control(node) ─ peer ┼── 8088 ──►│ Server ─► entropy.Control: the service  │
//	└──────────────────────────────────┘           └─────────────────────────────────────────┘
//
// Replica is about a node's copies of shards. Control is about its anti-entropy service: its queue, its settings, dry
// runs. Where the service is off, Server has no Control: Status says so, and other calls are answered with
// ErrDisabled. The copies can be compared and repaired by others all the same.
//
// The calls are of these services of package rpc:
//
//	Entropy     states of copies, roots and digests, points to read and to write, and most of Control
//	Reconcile   a summary of a copy, over one stream that stays open
//	Points      coded symbols and sums of points, and the versions of points
//	Scrub       damaged files are set aside, and the damage is forgotten after a repair
//	Resolve     a field gets another type
//	Shards      Fill alone: package shardcopy answers it
//
// # A summary
//
// Most calls are one question with one answer, or with a stream of parts of 256 KiB. A summary is a conversation: the
// other node makes it of a whole shard, and keeps it in a temporary file until the stream ends.
//
//	peer                                     Server
//	 │ Open (shard, until, key)                │
//	 ├────────────────────────────────────────►│ makes the summary
//	 │◄─────────── how many windows it has ────┤
//	 │ Symbols [from, to)                      │
//	 ├────────────────────────────────────────►│
//	 │◄──────────────────── coded symbols ─────┤   again, with more of them
//	 │ Names (hashes)                          │
//	 ├────────────────────────────────────────►│
//	 │◄──────── series and fields, in parts ───┤   the last part says that there are no more
//	 ╳ end of the stream                       │ removes it
//
// A node holds 32 summaries at most, and refuses others until one ends. Package reconcile says what symbols are.
//
// # What both sides check
//
// Neither trusts the other one. Server refuses questions that are too large, have no shard, or have names that would
// leave the folder of the engine. The peer refuses answers that it did not ask for, or whose parts are out of order.
//
// Errors keep their meaning: failure turns each error that callers test for into a status code. peer.fail turns the
// code back into that error, with the address of the node.
//
// Each call has a limit: 10 seconds for what is answered from memory, 2 minutes for a batch of points, and 30 minutes
// for what may read a whole shard. A stream may be silent for 5 minutes, and a summary for 30. A node whose link
// breaks is noticed earlier, by the pool.
//
// # The files
//
//	client.go          peer: the calls of Entropy, and how errors and silence are handled
//	server.go          Server: the answers to them
//	wire.go            how values of package entropy become messages and back, and the bounds of what is taken
//	points.go          Points, both sides
//	scrub.go           Scrub, both sides
//	resolve.go         Resolve, both sides
//	fill.go            Fill
//	summary_client.go  a summary, as the peer asks it
//	summary_server.go  a summary, as Server answers
//
// Read client.go beside server.go: a method of the one answers each call of the other.
package transport
