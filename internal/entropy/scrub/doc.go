// Package scrub finds files of the engine that cannot be read back as they were written, sets them aside, and keeps
// compactions away from them.
//
// # The problem
//
// A disk may give back other bytes than were written. Every block of a TSM file has a checksum, but the engine does not
// look at it, neither for queries nor for compactions. A compaction would write a damaged block again with a new
// checksum, and nobody could tell it from the truth then. A file whose index is damaged takes its whole shard out of
// service, or ends the process.
//
// # What is checked
//
//	TSM file:  +--------+----------------+----------------+-----+-------+--------------------------+
//	           | header | CRC-32, block  | CRC-32, block  |  …  | index | offset of the index, 8 B |
//	           +--------+----------------+----------------+-----+-------+--------------------------+
//
// Verify reads the files of a shard from disk: header, index (its order, and that its entries name the blocks without a
// gap), and the checksum and type of each block. Tombstones are read with the engine's own reader. It maps nothing into
// memory, because a file that is shorter than it was would then be a fault of the process. It waits before each read
// (wait, with the number of bytes), so that the caller sets the pace. Each finding is a tsmfile.Damage: file, offset,
// series-field and reason.
//
// # Who uses it, and when
//
//	start            BeforeOpen renames what the engine cannot open to .bad, with its tombstones, one file at a time
//	scrub-interval   Verify: each file of each shard once in this time
//	compaction       Gate: a planned group of files waits until all of them were found sound
//	repair           Aside.Run sets damaged files aside; an ordinary repair then brings what is missing
//
// Reads of anti-entropy verify checksums as well, in package scan.
//
// # Setting aside
//
// Run keeps each damaged file, with its tombstones, in a new folder <shard>-<time>: as a link, or as a copy where the
// folder is on another file system. Then it puts a file with the good blocks in its place, without what was deleted
// from them. Writes and queries go on. Deletes are held back for the moment in which files change places, as their
// tombstones would go with the old file. Nothing here removes a kept file.
//
// # What a crash or a bad disk leads to
//
//   - A crash before the engine changes the files: the shard is as it was. A new file that was not taken over has the
//     suffix .tmp, and the engine removes it at its start. The next attempt makes a folder of its own.
//   - A crash after it: the damaged file is in the folder, and the copy lacks what was in the damaged blocks. Package
//     local noted before that the copy is damaged, and takes the note back only when the copy equals another one.
//   - A sector that the disk cannot read: its block is damaged, and the kept copy has zeros there, 64 KiB at most.
//   - Damage that comes after Gate has verified a file, and before its compaction, is not found: that may be ten
//     minutes (stillSound).
//   - Damaged tombstones could make the engine allocate 4 GB for a key: the length is checked first.
package scrub
