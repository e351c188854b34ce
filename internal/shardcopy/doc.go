// Package shardcopy moves whole copies of shards between nodes, as files. Backups, restores and rebalances use it, and
// so do repairs, which make a copy that an owner lacks out of the files of another owner. Repairs of single points are
// not here: see package patch.
//
// # Terms
//
//   - The source is the node whose copy is read.
//   - A copy is whole when it has all that was acknowledged (package copystate). A source refuses to send a copy that
//     is not whole, with the code DataLoss, so that the caller can take another owner's. The flag incomplete asks for
//     what there is.
//   - A copy is begun when this node notes that it may lack points (Server.Begun). It does so before there is a shard
//     with the files: writes of the time in between may have gone to the other owners alone. Anti-entropy brings these
//     later.
//   - Files gather in a folder that the engine does not read. Only when all of them are there, and every block of them
//     has been read and found sound, do they become those of a shard.
//
// # Two ways
//
//	             Export and Import                      Files and Fill
//	used by      backup, restore, copies, rebalance     a repair of a missing copy
//	what goes    one tar of TSM files                   file by file: TSM files and tombstones
//	deletes      carried out on the files that leave    go along as tombstones
//	checksum     one behind the stream                  one for each file
//	broken off   begins anew                            goes on where it ended
//
// In both, the source takes a snapshot first: links to its files, and its write cache as a file.
//
// # Copy: from one node to another by Export and Import
//
//	meta node             target                                    source
//	    │  Copy             │                                          │
//	    ├──────────────────►│ Describe: is it there, whole, how large  │
//	    │                   ├─────────────────────────────────────────►│
//	    │                   │ removes what is left of an earlier copy  │
//	    │                   │ notes that the copy is begun             │
//	    │                   │ Export                                   │
//	    │                   ├─────────────────────────────────────────►│ snapshot, without what was deleted
//	    │                   │◄──────────── tar in chunks, checksum ────┤
//	    │                   │ gathers the files, verifies all blocks,  │
//	    │                   │ closes the shard, moves the files in,    │
//	    │                   │ and opens it                             │
//	    │◄─────────── bytes ┤                                          │
//
// The target is no owner yet: nobody else writes to its copy. When a delete came meanwhile, the copy may have what was
// deleted at the source. Then it is made anew; the tenth time is the last. KillCopy ends a copy, and removes what
// there is of it.
//
// # Fill: by Files
//
// Fill fails when the shard is there already, because a write began it. Otherwise:
//
//  1. It asks the source for its files, and says which ones gathered earlier: name, size and checksum of each.
//  2. The source takes a snapshot and lists its files. Of each, it sends the part that the target does not have.
//  3. The target writes the files to [meta] dir/entropy/incoming/<shard>, and reads all blocks back from the disk.
//  4. It holds deletes back. When one came since the repair looked at the copies, the files are void for now, and Fill
//     fails with entropy.ErrOvertaken. They stay where they are, so that the next attempt fetches only what changed.
//  5. It notes that the copy is begun, and holds writes to the shard back.
//  6. It makes the shard, closed, moves the files in, and opens it. Queries ask other owners until then.
//
// A restore calls Import with the tar of a backup. It refuses a shard that has series.
//
// # The files
//
//	server.go  Server: the RPCs of the service Shards, and Copy
//	export.go  a shard as a tar
//	import.go  a tar as a shard
//	stream.go  the bytes of a tar in messages, with the checksum behind them
//	files.go   Files, and the folder where files gather
//	fill.go    Fill
//	copies.go  what is being copied to this node: its list, its progress, and how a copy is ended
//	whole.go   whether a copy is whole, and what Describe says of it
//	ondisk.go  folders of shards that the metadata may know nothing of
//
// Read Copy in server.go first, then fill.go.
package shardcopy
