// Package fieldindex keeps the engine's index of fields true to the data files of a shard.
//
// The engine keeps the type of each field of each measurement in the file fields.idx of a shard, and what was added
// since in the log fields.idxl. Version 1.13.2 does not write to the log that a measurement was dropped. When a field
// of a dropped measurement is made again with another type, and the process is killed, the log has both types, and
// its replay stops there:
//   - a shard with the index inmem cannot be opened, with all its measurements;
//   - a shard with the index tsi1 opens without the fields that the log makes from there on. Queries do not see them.
//
// This package works around that in three places:
//   - AfterDelete writes the index of fields to disk when a delete dropped a measurement, before the delete is
//     acknowledged.
//   - BeforeOpen replays the log as the engine does. Where that fails it sets both files aside and writes fields.idx
//     from the data files. AfterOpen does the same for a shard that the engine could not open for two types of a field.
//   - Checker compares the index of fields with what the data files hold while the shard is open, and adds what is
//     missing.
//
// A delete beside writes may also take series and fields out of the indexes of which points were just written. FindLost
// finds these after a delete.
//
// The data files may hold two types of one field, in different series. Then the field has the type of its newest
// point, by the time of the point: this depends on the data alone, and all owners of equal copies decide alike. When
// an index is rebuilt the values of other types are deleted from the shard, and the files with them are kept: the
// engine opens no shard with inmem that has them, and panics in queries that meet them. In a shard that opened, a
// check leaves them where they are.
package fieldindex
