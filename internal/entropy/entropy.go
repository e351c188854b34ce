// Package entropy is the contract of anti-entropy: what a node can be asked about its copies of shards, and what its
// service answers. It has no logic.
//
// From the bottom up, the packages below it are these. The first group knows neither a network nor other nodes.
//
//	pace        holds background work back while clients are served
//	tsmfile     the engine of a shard, the keys in its files, and what damage in them is
//	scan        reads points out of the files of a shard
//	scrub       finds damaged blocks
//	digest      sums that say what a shard holds
//	reconcile   finds the windows of time in which owners differ
//	patch       merges the points of all owners, and writes what one lacks
//	fieldindex  the engine's index of fields
//	retype      gives a field another type
//	refusal     what owners refuse, and why
//
//	local       this node's copies
//	copies      the copies of one shard at its owners
//	check       compares copies, and keeps what it finds
//	repair      one repair of one shard
//	service     the queue of repairs, and all of the above in one node
//	view        the anti-entropy of all nodes as one
//	routes      the HTTP API under /shard-repair; its JSON is in api
//	transport   Replica and Control over gRPC
package entropy

import (
	"errors"
	"math"

	"concord/internal/cluster"
)

// Everything as the end of the time that is compared means all windows.
const Everything int64 = math.MaxInt64

// Metadata is the cluster's state as this node knows it.
type Metadata interface {
	NodeID() uint64 // 0 before the node joined
	State() *cluster.State
}

// Transport reaches other nodes by their entry in the cluster's state.
type Transport interface {
	Replica(node cluster.Node) Replica
	Control(node cluster.Node) Control
}

// The errors of replicas and of the service.
var (
	// ErrOvertaken is why points are not read or applied: a delete is under way or came after they were read, or the
	// node does not know any more what was written since.
	ErrOvertaken = errors.New("points were deleted or written meanwhile")
	// ErrOnItsWay is why copies are not repaired yet: writes or deletes for them wait in hinted handoff.
	ErrOnItsWay = errors.New("hinted handoff is not done")
	// ErrNoFiles is why a missing copy is not made out of files: a write began it meanwhile, or the files of the source
	// are damaged.
	ErrNoFiles = errors.New("the copy cannot be made of another owner's files")
	// ErrSourceNotWhole is why a missing copy is not made out of a source's files: that copy lacks something itself.
	ErrSourceNotWhole = errors.New("the source's copy is not whole")
	// ErrNoVersions says that points have no versions on a node.
	ErrNoVersions = errors.New("points have no versions here")
	// ErrNoCopy is why a copy is not verified.
	ErrNoCopy = errors.New("the node has no copy of the shard")
	// ErrUnknownShard is for an ID that the metadata does not have, or no more.
	ErrUnknownShard = errors.New("unknown shard")
	// ErrDisabled is the answer of every call while the service is off.
	ErrDisabled = errors.New("anti-entropy is off: set [anti-entropy] enabled = true in influxdb.conf")
)

// UnresolvableError says that a conflict of types cannot be resolved as it was asked for, however often it is tried.
type UnresolvableError struct{ Reason string }

func (e UnresolvableError) Error() string { return e.Reason }
