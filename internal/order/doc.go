// Package order says which of two operations on a point is the later one. Every data node has one Clock and one
// Journal.
//
// # Versions
//
// Each write and each delete has a Version. It is a time in microseconds, a counter, and the node that gave it. Of two
// operations on the same point, the one with the greater version wins, in whatever order they arrive.
//
// # The clock
//
// The Clock of a node gives versions. Nodes tell each other their clocks with every message, and a clock that is
// behind moves forward at once. So what happens after something else, anywhere in the cluster, gets a greater version,
// although the times of the machines may be minutes apart. A clock that is more than 24 hours ahead is not believed.
//
// # The journal
//
// Owners of a shard may receive writes in any order. A write that waited in hinted handoff arrives hours late. So each
// owner has a Journal, which knows with which version it wrote each field of each point lately. A write is written
// without the fields that have a greater version already:
//
//	arrives        journal of the point      written
//	v2  temp=20    v2                        temp=20
//	v1  temp=10    v2 (greater than v1)      nothing
//	v3  temp=30    v3                        temp=30
//
// A write passes the journal in these steps:
//
//	Begin   look up the keys of its fields ─► leave out the newer ones ─► note the others in the log
//	        ─► wait for older writes of the same fields that are under way
//	write   the caller writes the points to the engine
//	Done    the engine has them           Failed   the engine has only some of them for certain
//	Sync    wait until the log is on disk, when the journal must be durable
//
// What the engine did not take hides no older write. It is listed as failed instead: the engine may have it or not, so
// nothing certain is known of these fields.
//
// # The floor
//
// Once a second, each node tells every other node a version. No write of the sender below that version will arrive any
// more. The lowest of these is the floor, and SetFloor forgets what is below it. Package replication works it out, in
// floors.go. In a healthy cluster the floor is about two seconds behind the clock. While a node is away, others keep
// writes for it in hinted handoff, and the floor stands still. The floor of a node also stands still while a delete of
// one of its clients is under way: it may have to keep the delete for others.
//
// # Generations
//
// The journal is a list of generations, of which the newest takes the writes. A generation is forgotten as a whole.
//
//	oldest                                                                       newest
//	┌─────────────────────────┬───────────┬───────┐ ┌────────────┬────────────┬────────────┐
//	│ sortedFile (merged)     │ sorted    │ sorted│ │ generation │ generation │ generation │ ◄── writes
//	└─────────────────────────┴───────────┴───────┘ └────────────┴────────────┴────────────┘
//	 on disk, with an index in memory                in memory, with a log on disk
//
// While the floor follows, a generation ends after two seconds, and there are two or three of them, or some more when
// they are full earlier. While the floor stands still, a generation ends when it is full. When more than five are in
// memory, the oldest becomes a sorted file, and sorted files are merged when they are many. Past its size on disk, the
// journal forgets the oldest writes although they are above the floor. A late write that is older than what is left in
// the journal is then written as it arrives, and the copy counts as not whole until it was compared with others.
//
// # What a crash leads to
//
//   - The clock begins above all versions that it gave or heard of: it stores a bound ahead of them. The node also
//     makes it hear of the versions in the journal and of the deletes that it remembers.
//   - A record of the log that is torn is cut off. While the floor is near, others may be lost with the power. Nearly
//     all of these writes have arrived at all owners: one that was acknowledged at level one may still have been on its
//     way. While the floor is behind, a write is acknowledged only when its record is on disk. After a power failure
//     the node calls Lost: a copy that gets a late write from before it counts as not whole.
//   - The log has a mark for each write that the engine has. A process that is killed leaves it on disk before the
//     write is acknowledged. A write without it counts as written, and the engine may not have it: so the journal says
//     nothing certain of its fields. Nor does it of what sorted files have from before it was opened.
//   - What was forgotten is on disk before the files go that had it, in a file of its own. Where that is missing,
//     everything from before the start may be forgotten.
//   - A crash may leave a log beside the sorted file that was made of it. The log is removed. It may also leave sorted
//     files beside the one that they were merged into. They do no harm, and are merged again.
//   - A file that is damaged in another way is set aside, and the node compares its copies with those of others.
//
// The package knows no network. docs/format/order.md describes its files, and docs/adr/0011 says why it is as it is.
package order
