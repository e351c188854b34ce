// Package reads breaks a cluster of separate processes at random, while clients write and read back what was
// acknowledged, and checks every answer by one law:
//
//	No answer ever lacks an acknowledged point without a warning.
//
//	make campaign-reads                            # 2,000 faults
//	make campaign-reads SEED=7 READS_FAULTS=50     # a replay: the same cluster and faults
//
// # The law
//
// An answer with an InfluxQL message of the level "warning", or with an error, has said that it may lack something.
// Of any other answer:
//
//   - A point that the asked node itself acknowledged, at any level, is in it, at once.
//   - A point that another node acknowledged is in it when the question came more than the grace (-grace, 2 s) after
//     the acknowledgement. That is how long a delivery may be in flight.
//   - A point that was deleted is not in it when the question came more than the grace after the delete was
//     acknowledged.
//   - Nothing is in it that was never written, and values, counts and sums are right.
//
// While each shard has an owner that no fault touched, at most one in a thousand answers carries a warning or an
// error. A node is touched from a fault on until hinted handoff has nothing for it, it knows that its copies are
// whole and, when it lost data, anti-entropy has had nothing to do for a while. When a node is no longer cut off, it
// may have taken writes that the others lack, and so the others are touched, too. Questions to a node that is down,
// hangs or is cut off are not counted.
//
// When all is over, all nodes must say the same. For each point, a linear order of its write and its deletes that
// respects real time must end in that (package history).
//
// # What is excused
//
// Two things only, and each is counted and printed:
//
//   - The node that acknowledged the point, and the asked one, did not reach each other for the whole of a grace since
//     then: one of them was down, hung or cut off. The asked node cannot know of the point.
//   - The node that acknowledged the point lost its disk before that, and the level did not ask for all owners:
//     then the only copy, or the only knowledge of who lacks one, may be gone for ever.
//
// An operation that was not acknowledged may have been carried out or not, and so its points may be there or not.
//
// # Faults
//
// Kills (SIGKILL), hangs (SIGSTOP for 1 to 20 s), all links of a node or those of a pair cut (reset, stalled, or with
// the answers held; one way or both), wiped disks (data, wal and hh, or everything and then update-data to the same
// address), nodes that are replaced (update-data to an empty one), nodes that are rolled back (all folders are as
// they were seconds or minutes ago, as by a snapshot of a virtual machine), and clocks that are up to five minutes
// off. One fault is on at a time, but the next one comes before the cluster has recovered from it, unless it destroys
// data: then all copies must be whole. Faults follow the seed exactly; how they meet the clients' requests depends on
// the machine.
//
// One database keeps two copies, the other three, on four data nodes; writes go through all nodes, at one, quorum and
// all.
package reads
