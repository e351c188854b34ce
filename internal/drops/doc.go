// Package drops removes shards, retention policies and databases from the engine's store. It keeps everything away
// from them that must not run meanwhile: queries, writes, deletes, the making of shards, and other removals.
//
// # The problem
//
// The engine takes for granted that some things never happen at the same time. On a plain server this holds most of
// the time. On a data node it does not. A data node removes shards by statements, when they are too old, and also when
// it sees in the metadata that they were dropped. A restore and a full disk close a shard and open it again. So
// everything that removes or closes a shard does it through one Store, of which a node has one. docs/adr/0021 says
// what was considered.
//
// # What Store keeps apart
//
//   - A shard is not removed while its database is. At its end, DeleteShard of the engine changes what the store knows
//     of the database, without the lock of the store. When the database has gone meanwhile, the process ends.
//   - A shard is not made while its database or its policy is removed. The engine removes their folder at its end, and
//     forgets the shards that it found at its beginning. A shard that was made in between would lose its files and
//     stay known, and removing it later would end the process.
//   - Nothing is written to a shard that is removed. With the index in memory, DeleteShard holds the list of the
//     shard's series and waits for the index. A write that creates a series holds the index and waits for the list.
//   - A series that a write brings to another shard while its last one is removed stays. The engine decides at the
//     beginning which series nobody has any more, and removes them later. So Store makes these anew.
//   - No delete runs in a database while a shard of it is closed. The delete would use the engine of the shard without
//     its lock. With the index in memory the process ends then. With the other one the two wait for each other for
//     ever.
//   - No delete runs while new readers of a shard are blocked: the engine finds nothing to delete then, without an
//     error.
//   - Nothing reads a shard when it is closed. The engine waits for readers while it holds the lock of the shard, and
//     they may need that lock before they end.
//   - The end of a delete does not write the index of fields of a shard that is being closed (fieldindex.BeforeDrop).
//     A full disk does not keep that shard from being removed.
//
// # How a shard is removed
//
// DeleteShard takes these steps. When one before step 8 fails, readers and writes are let in again.
//
//	1  gate       unless the shard is closed: waits until no delete runs in the database, 10 minutes at most;
//	              new deletes wait from now on
//	2  readers    lets no new reader in, ends compactions, and waits for the readers, a minute at most
//	3  hold       waits for the writes that are under way; others wait, and fail once the engine has begun in 8
//	4  lock       waits until nothing else of the database is removed
//	5  readers    again, if the shard was opened anew meanwhile
//	6  mark       nobody makes a shard with this ID
//	7  prepare    ends snapshots of the shard's cache (writecache), and writes its index of fields (fieldindex)
//	8  engine     DeleteShard
//	9  finish     if the engine forgot the shard and left its files: closes it, and removes them
//
// DeleteRetentionPolicy and DeleteDatabase do the same with all shards, without 3, and nobody makes a shard in the
// database meanwhile. A request may come late, when there is a policy or a database of the same name again. The caller
// says which shards are of the new one, and these stay.
//
// Alone is for those who close a shard and open it again: restores, and a shard whose disk was full. It takes steps 1,
// 3, 2 and 4, in this order, and runs the function of its caller. BetweenDeletes is for the change of a field's type,
// which closes nothing. It takes 1 and 4. A delete calls BeginDelete, which waits at the gate.
//
// # What goes wrong
//
// The engine may close a shard only in part, when it cannot write all of it. Such a shard is not used any more.
// Nothing of its database is removed until the node is started again.
//
// # The files
//
//	store.go    Store: removes shards, policies and databases, and makes shards
//	readers.go  waits for the readers of shards, and lets no others in
//	deletes.go  what runs between deletes and removals: BeginDelete, Alone, BetweenDeletes, CloseShard
//	gate.go     the gate of a database, between its deletes and those who close its shards
//
// Read deleteShard in store.go first.
package drops
