// Package server is a meta node: the cluster's state under Raft, the nodes of the cluster, and the HTTP API.
//
// It has these parts. Package metanode opens them in this order, and closes them in reverse.
//
//	Server       the state under Raft, and changes of it, which all data nodes are told of before they are confirmed
//	MetaMembers  adds and removes meta nodes
//	DataMembers  adds, replaces and removes data nodes
//	API          the routes, with who may use them, and which of them the leader alone answers
//
// Raft is in store.go, on a log with checksums (raftlog.go) and connections that say which node they look for
// (stream.go, transport.go). The API has parts of its own: admission (guard.go), the state for data nodes (news.go),
// leases, clocks and users.
package server
