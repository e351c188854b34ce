// Package aggregate answers count, sum, mean, min, max, first and last from the files of a shard, array by array.
//
// The engine's iterators pass on one point at a time, through a chain of interfaces for each series. Here a block is
// decoded once into two arrays, times and values, and a loop over them is all that a point costs. All functions of one
// field share the decoded block.
//
// # What is covered
//
// Open covers calls of these functions on one field, for any grouping by tags and time, in both directions, with
// conditions on tags and time. It leaves to the engine what needs more of a point than its time and value: conditions
// on fields, and selectors that return other fields or tags of the point that they select.
//
// For top, bottom, distinct and spread it returns the points of each window that suffice, and the engine computes the
// answer from these (keep.go).
//
// # How it works
//
// The engine's index says which series a statement reads, and groups them (tag sets). The series of a group are cut
// into parts of a fixed number of series. Workers read the parts, each into windows of its own: one window for each
// interval of GROUP BY time(), or one for all. The windows of the parts are then joined in the order of the series,
// so that a sum of floating-point numbers is the same whatever the number of workers and the layout of the files.
//
// Points come from package scan: of several values of one point it returns the one that was written last, on any layout
// of the files. The engine's own cursors do not, while more than twelve blocks of a series overlap.
//
// Memory is bounded by the number of windows of a few parts, and not by the number of points.
package aggregate
