// Package client is a data node's copy of the cluster's state, which the meta nodes have under Raft.
//
// The copy is on disk and in memory. A data node serves with it when no meta node answers. Reads come from the copy.
// What the copy lacks is asked of the leader before it counts as unknown. Changes go to the leader of the meta nodes,
// whatever the copy says, and return once the copy shows them.
//
// Client is made of parts, each in a file of its own:
//
//	member      which node of which cluster this is, and which meta nodes there are; on disk
//	stateCopy   the state, on disk and in memory; who waits for a change of it is told
//	metaNodes   asks the meta nodes, the one that led last first; knows what time it is for the leader
//	follower    keeps the copy up to date by long poll
//	catchUp     makes the copy as new as another node relies on
//	refresher   makes the copy as new as the leader's state is now
//	sender      sends changes to the leader, and waits until the copy shows them
//	databases, shards, users, leases    what the engine asks and changes
package client
