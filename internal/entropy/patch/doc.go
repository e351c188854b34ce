// Package patch works on the points of windows that differ: it reads them on an owner, merges those of all owners, and
// writes to each owner what it lacks. It knows one node's shard at a time, and no network.
//
//	on each owner                       on the node that drives the repair
//	Symbols, SliceSums ───────────────► which points of a Region are not the same everywhere
//	Read ─────────────────────────────► the points, as Blocks
//	                                    Join, Joined.Merge: what all are to hold
//	Apply ◄──────────────────────────── Merged.Lacking, by owner
//
// # Shapes and units
//
// A Region is a series-field and a time range, both ends included. A Block is some of its points, ascending by time, in
// the engine's encoding; this build writes 1,000 points into one. Times are nanoseconds since 1970. Sizes are bytes.
// Points are counted by field: a line of line protocol with two fields is two points.
//
// Symbols are those of package riblt. An element is a point: the place of the region, the time since its beginning, and
// the value. SliceSums cuts a region into 16 parts of equal length, and sums keyed hashes for each.
//
// # Which value wins
//
// Where owners hold different values for one time, Merge decides, in this order:
//
//  1. The value that was certainly written last (Versions). A value was written at the greatest version that an owner
//     knows for it, or later. An owner that does not know it names a version above which it knows all writes (Since):
//     its value is not newer than that. Nor is it newer than the last write of it, when that failed (Versions.Failed).
//  2. The value that most owners hold, without those that may have lost newer values (Rules.WithoutVote). There
//     is one exception: no owner knows the version of that value, so that it is old, and an owner missed writes, as
//     after a crash (Rules.MayHaveNewest). Then 3 decides, because that owner may be the only one that had the last
//     acknowledged value.
//  3. Of values that are tied, the one that was written last if the journals of writes are right (Versions.Written and
//     Forgot). After a crash, a journal may have a write that the engine does not have.
//  4. The greater value, in the order of the bytes of its encoding. This is arbitrary, but the same on every node.
//
// Rules 2 to 4 decide only what the values of absent owners could not change (Rules.Absent). A difference that may be a
// write that is under way is not decided at all (Rules.MayDecide, Versions.Changing): some copies may have been read
// before it and some after it. Such points are left as they are, and counted as open.
//
//	time   A      B      C      all will hold
//	10     1.5    1.5    -      1.5, which C lacks
//	20     1      2      2      2: most owners have it
//	30     7      8      8      7, if A wrote it with version 9, and B and C know all writes above version 5
//	40     1      2      away   open: C could decide
//
// Nothing is ever removed. Merge gives every time that any owner has; what a delete removed is kept out by those who
// call Apply.
//
// # How points are written
//
// Fewer than 10,000 points take the engine's write path, 5,000 at once. More become a TSM file, which the engine takes
// over whole, and which is much faster (install). Blocks that would not be right in a file take the write path all the
// same, and so does every block of a call in which some have versions.
//
// A point that is newer on the owner stays, as far as its VersionStore knows. Blocks that the engine refuses, because
// the field has another type for example, are listed in Applied.Refused with the reason, and keep no other from being
// written.
//
// # What a crash or bad input leads to
//
// Apply may be repeated, and leads to the same result. A file is synced before the engine sees it; what a crash leaves
// of it has the suffix .tmp, and the engine removes it at its start. What was applied before a crash stays, and the
// next comparison finds the rest.
//
// A block that does not decode is ErrMalformed, and then nothing of that call is written. The engine's decoders trust
// their input, so their panics are caught. A Region whose field has another type on an owner gives no points there.
package patch
