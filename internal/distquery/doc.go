// Package distquery answers InfluxQL queries, schema questions and reads of whole series over the shards of the whole
// cluster, on any data node. The engine compiles and runs a statement as on a plain server. This package gives it
// shards: those of this node as they are, and every other shard through one of its owners.
//
// # Terms
//
//   - The asking node is the one that a client sent the statement to. A peer is a node that it asks for shards.
//   - An iterator yields the points of one call of a statement, such as mean(usage), or of its fields.
//   - The schema of a measurement is its fields, their types, and its tags.
//   - A copy is read only if it is whole: it has all that was acknowledged (package copystate). A copy that cannot be
//     read as whole is unfit.
//   - A report notes of which shards a statement read no whole copy. Each answer is complete, or says that it is not:
//     by a warning that names the shards, or by an error (ErrIncomplete). SELECT INTO never stores an incomplete
//     answer.
//
// # A SELECT, step by step
//
//	client         asking node                             peer
//	  │  SELECT      │                                       │
//	  ├─────────────►│ 1  metadata as new as the others'     │
//	  │              │ 2  which shards, and who has them     │
//	  │              │ 3  Select ───────────────────────────►│ schema of its shards
//	  │              │◄──────────────────────── schema ──────┤
//	  │              │◄──────────────────────── points ──────┤ begun ahead, where one request will do
//	  │              │ 4  the engine compiles the statement, │
//	  │              │    and asks for iterators             │
//	  │              │ 5  CreateIterator ───────────────────►│ if the points ahead are not the right ones
//	  │              │◄──────── points, signs of life ───────┤
//	  │              │ 6  merges them with its own           │
//	  │◄──── rows ───┤ 7  and a warning if some are lacking  │
//
// The steps:
//
//  1. Executor opens the statement's share of this node's memory for queries, and its report. It waits until the
//     metadata is as new as that of other nodes, or the report says that it may be older.
//  2. ShardMapper.MapShards finds the shards of the time range. Those that this node has whole are local. For the
//     others there is an owned, which gives each shard to one owner, so that few nodes are asked (owned.assign).
//  3. The fields of a measurement may differ between shards, so all peers are asked for theirs. A peer plans the
//     statement with its own schema, and begins to send points at once (ahead.go, server_select.go).
//  4. mapping is the engine's ShardGroup: it answers from the joined schema. Calls that differ only in function and
//     field are opened together, so that files are read once (shared.go).
//  5. Aggregates are computed where the shards are, most of them from arrays (package aggregate).
//  6. The order of points of one time is that of their shards, whoever answers first (order.go).
//  7. Rows are counted against the share as they come, and passed on in parts.
//
// # When a node fails
//
// A node that fails is not asked again by the same statement. Its shards go to their other owners, as long as no point
// of it was used. After its first point the query fails, because points could be lost or doubled. A node that gives no
// sign of life for 30 seconds has failed. When a connection breaks while a node answers, the statement may have used
// up the memory of that node. Then it ends, and no other owner is asked, unless the node had enough memory a moment
// before (ended.go).
//
// A node that does not have a shard, or whose copy is unfit, says so, and another owner is asked. Only when no owner
// that can be reached has a whole copy, the best of the others is read, and the report says so. A shard that no owner
// has was never written to.
//
// # The files
//
//	executor.go       Executor: runs a statement; report.go, rows.go, listing.go pass its answer on
//	mapper.go         ShardMapper and mapping: which shards a statement reads
//	owned.go          owned: whom to ask for shards of others; ended.go: when a node ended meanwhile
//	schemas.go        the schema of a measurement, over all shards
//	iterate.go        iterators over all shards, and the merge; shared.go, order.go, serieslimit.go
//	remote.go         iterators of other nodes; stream.go reads them, wire.go and encode.go have the bytes
//	server.go         Server: the answers to other nodes; server_select.go, server_schema.go, server_series.go
//	schema.go         Schema: what SHOW statements ask; schemalist.go, schemaread.go, measurements.go, tagvalues.go
//	sketch.go         how many series there are, about
//	seriesreader.go   whole series, for reads of Prometheus; readseries.go reads them on one node
//	running.go        SHOW QUERIES and KILL QUERY over all nodes
//	memory.go         what queries take; holding.go and held.go: what functions keep; columns.go: wide statements
//	allowed.go        what a user with restrictions may see; restricted.go and listed.go: what such users may do
//
// Begin with Executor.execute, then MapShards, owned and CreateIterator.
package distquery
