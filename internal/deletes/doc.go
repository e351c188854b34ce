// Package deletes is the whole life of a delete: DELETE, DROP SERIES and DROP MEASUREMENT. A delete is announced to
// all data nodes, kept for those that are away, run, and remembered, so that nothing that is older comes back.
// Dropped shards are here, too: see drop.go.
//
// # The parts
//
//   - Service coordinates the deletes of clients (service.go, announce.go, run.go, keep.go). Server answers the Service
//     of another node, and OldServer that of a node of the version before.
//   - Memory is what a node knows of deletes. Which points a delete removed that may still arrive: removals.go. What is
//     written beside a delete: announced.go. Which deletes are under way: underway.go. Which writes are: writing.go.
//     The writer and repairs ask it.
//   - rewrite keeps what is newer than a delete that runs (rewrite.go). newer.go finds it in the store, and
//     collector.go reads it together with its versions.
//   - What the engine would miss: points on their way from its cache to a file (snapshots.go), and series (lists.go).
//     What it removes too much: series of which other points are being written (lost.go). A delete and a compaction of
//     an index could wait for each other for ever: such a compaction waits until the delete has ended (compactions.go).
//   - RanLog says, durably, which deletes ran on this node. Nodes whose disks are older than they were ask the others
//     for what their logs have (catchup.go). So do nodes that lack a delete which nobody keeps for them, and all nodes
//     when a delete may be half run (halfrun.go). A new node takes over what the logs of the others have, and runs none
//     of these (learn.go).
//   - covering reports whether a delete removes a point (covers.go). statement.go reads, writes and checks the texts.
//
// # The messages
//
// C is the node that a client asked, A one that can be reached, B one that is away. hh is hinted handoff.
//
//	client        C                                    A                              B
//	  │  DELETE   │                                    │                              ╳
//	  ├──────────►│ 1  AnnounceDelete (id)             │                              ╳
//	  │           ├───────────────────────────────────►│ keeps what it writes         ╳
//	  │           │◄──────────────────────── its clock ┤ from now on                  ╳
//	  │           │ 2  version := above all clocks     │                              ╳
//	  │           │ 3  hh for B  ── HintDelete ───────►│ hh for B                     ╳
//	  │           │ 4  runs it   ── RunDelete ────────►│ runs it, if it has not run:  ╳
//	  │           │                                    │ a remembers the version      ╳
//	  │           │                                    │ b newer points into its own  ╳
//	  │           │                                    │   hh                         ╳
//	  │           │                                    │ c store deletes, between     ╳
//	  │           │                                    │   snapshots of caches        ╳
//	  │           │                                    │ d writes newer points again  ╳
//	  │           │◄──────────────────────────── ran ──┤ e RanLog                     ╳
//	  │           │ 5  hh for nodes that failed in 4   │                              ╳
//	  │           │ 6  EndDelete (id) ────────────────►│                              ╳
//	  │◄─── done ─┤                                    │                              │ is back
//	  │           │ 7  out of hh: RunDelete (hinted) ──┼─────────────────────────────►│ a to e
//	  │           │                                    ├─ the same: it has run ──────►│
//
// The steps:
//
//  1. More than half of the nodes must hear of it, or it is refused. Nodes that do not hear of it go on taking writes.
//     Such a write may get a smaller version than the delete, which then removes it. Of two nodes one is enough.
//  2. Whatever a node wrote before it heard of the delete has a smaller version than the delete. What it writes
//     between hearing of it and running it may have a greater one.
//  3. A delete that B misses is on the disk of C before it runs anywhere, or of A when the disk of C is full. Until B
//     has run it, those that keep it take no writes without a version from B, and B's copies count as not whole.
//  4. Points that arrive from then on with a smaller version than the delete are left out by Memory.BeginWrite, until
//     no node can send any (Forget). The store removes by time and tags, whatever the version: what is newer is
//     written again in d. Memory has noted it since 1. A delete out of hinted handoff looks for it in b, in the store
//     and in the journal of versions. From b to d, hinted handoff keeps the newer points on disk, also those that are
//     written meanwhile, and delivers them after d. They have their versions: to come twice does no harm.
//     While c runs, no shard of the database may be closed, neither to remove it nor because its disk was full. The
//     delete would use the engine of a shard while that is closed. The gate of package drops keeps the two apart.
//     Where a shard is closed, c fails after a while.
//     It fails at once where a shard waits to be opened anew after a full disk: the points that an earlier run took
//     from memory are in its files still.
//     Deletes of the same measurement run c one after the other (turns): the engine cannot do both at once.
//  5. C keeps the delete in hinted handoff for each node that did not answer in 4, or whose store failed, because its
//     disk is full for example. So does each node that answered. The node whose store failed may be C itself. From 1
//     until that node has run it, the floor that C tells it is below the delete (Memory.Keeps): its journal forgets no
//     point that is newer. Where the journal lacks some, the copies count as not whole from 7 on, until they were
//     compared (beginForgotten): it was full, only A could keep the delete, or a copy was made anew since.
//     C says that the delete is done when it has run on more than half of the nodes (of two, on one): one of these can
//     then be asked while C is away.
//     An answer in 4 and 7 that the delete ran, and the message in 6, name a mark of the sender's disk (package
//     copystate): who remembers it tells a node whose disk was rolled back to a moment before the delete.
//  6. From 1 to 6 some nodes have the points and others do not: HoldDeletes refuses repairs and copies in the
//     database meanwhile, or what one node removed would come back from another. When 1 or a comes while a repair is
//     writing, it waits until the repair has written. B did not hear of 1, and may run the delete before others (7),
//     without holding repairs up afterwards. A node that has heard of 1 may still have to run the delete when a
//     repair reads points from it: so the repair waits for 6 (local.Fetch), and a copy of files fails until then
//     (shardcopy.Files).
//
// Without hinted handoff nothing is kept. C announces the delete (1) and takes a version (2), however few nodes
// answer. It runs 4 (a, c and d) on all nodes, ends the delete (6), and returns an error that names the nodes which
// were not reached. When C crashes in between, the others hold repairs up until a delete may not take longer.
//
// # What a crash between two steps leads to
//
// The client gets no answer when C crashes. The delete may have run or not; running it again is harmless. When it ran
// on any node, it runs on the others, too: each node that hears that C was started anew, and C itself, asks all nodes
// which deletes they ran. Until all have answered it forgets no versions, for an hour at most (holdFor). So does a node
// on which an announced delete did not end in time (longestDelete).
//
//   - C after 1: the delete does not run. A holds repairs up until C is back and calls EndDeletesBefore, or until a
//     delete may not take longer (longestDelete).
//   - C within 3, or between 3 and 4: C, and perhaps A, has the delete in its queue for B. It runs on B when that is
//     back, and then on the other nodes if they ask later; else a repair makes them equal to B.
//   - C within 4, or between 4 and 5: some nodes ran it, and the others run it when they ask.
//   - C between 5 and 6: the delete is done. A holds repairs up, as after 1.
//   - A before a: C keeps the delete for it in 5, and it runs in 7.
//   - A between a and e: the version in memory is lost, and the store may be half done. The RanLog of A does not have
//     the delete, so that in 7 it runs again from its beginning. Points that are newer than the delete are in the store
//     until c, and from b on in A's own hinted handoff. That delivers them when A is back, before or after 7. Until
//     then A's copies of their shards count as not whole.
//   - A between e and its answer: C keeps the delete in 5. In 7 the RanLog says that it ran: it does not run again,
//     and takes nothing that was written since. A reads its version from the RanLog when it starts.
//   - B within 7: as A. The queues of C and A have the delete until B says that it has run.
//
// Where some copies have the points and others do not, because a node that ran the delete was away for too long, a
// repair makes them equal. It leaves out what it knows to be older than a delete that ran, and brings back the rest: no
// client was told that they are gone.
//
// A message may be lost, or come twice or late. An announcement that comes after its end begins nothing
// (deleteCounts.ended). A delete that comes twice runs once (runOnce). EndDelete is sent again until it is answered
// (sendUntilAnswered). RunDelete does nothing when it comes after EndDeletesBefore: others may have asked already.
package deletes
