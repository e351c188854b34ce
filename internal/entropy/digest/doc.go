// Package digest says in a few bytes which points a shard holds, so that two copies of a shard can be compared without
// sending the points.
//
// # The problem
//
// Two copies with the same points have different files: each owner writes its cache to disk and compacts when it likes.
// Checksums of files or blocks would call such copies different. So a digest is computed over points as a query would
// see them: the newest value of each time, without what tombstones remove, and with what is only in the write cache.
// Equal data has equal digests, whatever the files look like.
//
// # What is summed
//
// A point is (series key, field, type, time, value). A series-field is one field of one series. The time range of a
// shard is cut into 64 windows of equal length, in nanoseconds; the last one may reach past the end. Points outside of
// the range, which only a damaged or foreign shard has, count to the first or the last window. A Sum is the number of
// points in one window of one series-field, and the sum of their 128-bit hashes modulo 2^128.
//
//	a shard of one day: a window has 22 min 30 s
//
//	series-field                window 0   window 1   …   window 63
//	cpu,host=a  usage  float    135  Σh    135  Σh        135  Σh    ◄── a SeriesField
//	cpu,host=b  usage  float    135  Σh    134  Σh        135  Σh
//	mem,host=a  free   integer    0         90  Σh        135  Σh
//	                            ───────────────────────────────────
//	                            the sum over all of them is the root of the shard
//
// Sums of disjoint sets add, so a root needs no list, and a window of which points changed is replaced by itself. To
// compare windows by sums of hashes is the incremental hashing of Bellare and Micciancio ("A New Paradigm for
// Collision-Free Hashing", 1997). The hashes here are fast and not cryptographic: they find faults, and do not stop
// somebody who knows the ID of the cluster and wants two different shards to look alike.
//
// # The hash of a point
//
//   - XXH3, with the ID of the cluster as its seed, makes 128 bits from the type, the field and the series key. This is
//     the seed of the series-field. So a field of another type has another digest, though its values look alike.
//   - Time and value, 64 bits each, go through three rounds of a Feistel network, keyed with that seed. The round
//     function is the folded multiplication of wyhash (Wang Yi). A Feistel network is a bijection, so two points of one
//     series-field never have the same hash. Values compare by their bits: 0 and -0 are different.
//   - A string is hashed with XXH3 first.
//
// Two different sets have the same Sum with a probability of about 2^-100. Fold shortens a Sum to 48 bits for
// comparisons whose errors are found later.
//
// # Compute and Cache
//
// Compute reads the whole shard. It calls a function with each SeriesField, ascending by series key and field, and
// holds one at a time. No index of the engine has this order: up to 16 MiB of keys are sorted in memory, and more by
// way of a temporary file.
//
// Cache keeps the result in one file for each shard (docs/format/digest-cache.md). View answers from it:
//
//	the Stamp of the shard is the same  ──► the file as it is; no block is read
//	the same files, empty write cache   ──► the file as it is
//	new files, or points in the cache   ──► the windows that these touch are read again
//	a delete or a compaction            ──► the series-fields that it touched are read again
//	no file, or a damaged one           ──► the whole shard is read
//
// Windows that end after a given time are left out on request (until, in nanoseconds): of a shard that is written to,
// only the past can be compared.
//
// # What a crash or bad input leads to
//
// A cache file is written under a temporary name, synced and renamed. OpenCache removes what a crash left. A file that
// is damaged, or of another version, cluster, shard or time range, is not used, and the shard is read again. Damage
// that is found only while the records are read is an error: the file is removed, and the next attempt reads the shard.
//
// A damaged block of the shard is an error that holds a *tsmfile.Damage. There is no digest then: one without the block
// would make another owner repair what is not missing there.
//
// A delete while the shard is read makes the result void, and View reads again. The fifth attempt reads the whole shard
// and is the last one. Its result is returned in any case, and becomes the cache file only if no delete came.
package digest
