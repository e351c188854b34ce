// Package handoff is hinted handoff: it keeps on disk what a data node misses while it is away, and sends it when the
// node is back. It knows neither the network nor the storage engine. The caller gives it functions (Deps) that deliver
// entries, that say whether an entry is still wanted, and that hear of entries which were lost.
//
// # The queues
//
// There is one queue for each pair of a node and a shard. Its entries are writes of that shard, as the coordinator
// would have sent them. Queue 0 of a node (WholeDatabase) has deletes, which concern all shards of a database. Below
// [hinted-handoff] dir:
//
//	7/                  what data node 7 misses
//	  0/                deletes
//	    00000001.hh
//	  22/               writes of shard 22
//	    00000003.hh     a full segment, 10 MiB
//	    00000004.hh     appends go here
//	    head            "segment 3, byte 1,048,576": the first entry that is still due
//	damaged/            segments that were given up
//
// docs/format/handoff.md draws the bytes.
//
//	Append ─► last segment, fsync ─► … ─► first segment ─► peek ─► Deliver ─► advance
//	                                           ▲   up to batch-size bytes        │
//	                                           └── head: what is still due ◄─────┘
//
// # The order of sending
//
// The entries of one queue are sent in their order. Queues of one node are sent beside each other, retry-concurrency at
// the same time. While queue 0 has entries, it is sent alone: a node runs the deletes that it missed before it gets
// anything else. Nothing depends on the order between senders, because writes and deletes have versions (package
// order).
//
// Two things pause:
//
//   - All queues of a node, when none of them got on in a round: the node is away. The pause is retry-interval at
//     first, and doubles with each round up to retry-max-interval. Back ends it. So does Heard, once half a second has
//     passed, as it comes with each message of the node.
//   - One queue alone, when it fails while others get on, or when its own files cannot be read (setback). Its pause
//     doubles in the same way. Back ends it, unless the files are the reason.
//
// A node that was heard of may refuse for some moments what it takes later. The next pause is half a second then, or
// retry-interval where that is shorter, and doubles from there.
//
// An error that Deliver wraps into a PermanentError drops the entry. Any other error is tried again for ever.
//
// # What is dropped
//
//   - Writes older than max-age, by all clocks that may be right (Deps.Now). Deletes do not age.
//   - Writes that do not fit into max-size bytes for one node. Deletes may take 16 MiB more; then Append fails.
//   - Queues of a node or a shard that is gone, as far as the metadata says so (Deps.Due).
//
// Deps.Dropped hears of each shard that lost something in one of the first two ways, by an append that failed, or by
// damage. Anti-entropy checks it then. Entries are found to be too old when they are sent, and every purge-interval.
//
// # What a crash or damage leads to
//
//   - A crash while entries are appended may leave a part of them. They were not acknowledged. The next Open cuts them
//     off, and reports the shard as dropped, because damage looks the same.
//   - The head is stored without fsync. After a crash of the machine some entries are sent again, which changes
//     nothing.
//   - A record with a wrong checksum: the segment is moved to damaged/, with those before it, and the shard is
//     reported. A segment that cannot be read at all counts as damaged after eight attempts.
//   - A segment of another version stops Open: it is not damaged, and is not given up.
//   - A full disk: Append fails, and what was written of it is cut off or overwritten. Delivered segments are still
//     removed, which frees space.
//
// # What counts as acknowledged
//
// A hint of a write whose client was told that it failed is sent like any other. But a copy is incomplete only while
// something waits for it whose client was told that it succeeded. Owe marks all entries of a queue as such, before the
// client has its answer. Owed lists these queues, for package copystate. The mark is not on disk: after a start, every
// entry counts as acknowledged.
package handoff
