package entropy

import (
	"context"

	"concord/internal/entropy/patch"
	"concord/internal/entropy/retype"
)

// Control is a node's anti-entropy service, its own or over the network.
type Control interface {
	Status(ctx context.Context) (NodeStatus, error)
	// Repair queues a shard on that node, which must be its first owner.
	Repair(ctx context.Context, id uint64) error
	// CancelRepair takes a shard from that node's queue and stops a running repair.
	CancelRepair(ctx context.Context, id uint64) error
	// Check makes the node compare a shard, or all of its shards for 0, at once.
	Check(ctx context.Context, id uint64) error
	// Pause stops the taking of repairs, and running ones, which keep what they did; or resumes.
	Pause(ctx context.Context, paused bool) error
	// SetMaxRate changes how many bytes a second the node reads and sends for repairs, 0 for no limit, until its
	// configuration is loaded again. Running repairs go on at the new rate.
	SetMaxRate(ctx context.Context, bytes uint64) error
	// Diff compares a shard, of which that node must be the first owner, and changes nothing.
	Diff(ctx context.Context, id uint64) (DryRun, error)
	// Resolve gives a field one type on all owners of a shard, of which that node must be the first owner.
	Resolve(ctx context.Context, id uint64, f retype.Field) ([]Resolved, error)
	// Repairs lists the node's repairs that wait, run, or ended since it started.
	Repairs(ctx context.Context) (NodeRepairs, error)
}

// NodeStatus is what one node knows: results of its own checks and its own queue.
type NodeStatus struct {
	Enabled    bool
	Shards     []ShardStatus
	Queued     []uint64 // ascending; includes Processing
	Processing []uint64
}

// ShardStatus is the result of a check that found entropy.
type ShardStatus struct {
	ID      uint64
	Status  Status
	Message string // for conflict and corrupt, and for copies that are known to lack something: what and where
}

// DryRun is what a repair would find and send.
type DryRun struct {
	Owners        []string // TCP addresses of those that were compared
	Away          string   // why others were not; empty when all were
	Pairs         []PairDiff
	Bytes         int64      // of points that a repair would send, as blocks
	Decided       []Decision // the first points with different values, as a repair would decide them
	Fields        []FieldDiff
	Count         int    // of differing series-fields; Fields has the first 1,000
	Truncated     bool   // there are more differences than fit into one comparison: the numbers are of a part
	TypeConflicts string // what no repair brings: which fields have different types; for people
}

// PairDiff is how two owners differ, in points.
type PairDiff struct {
	A, B string // TCP addresses
	patch.Compared
}

// FieldDiff is a series-field that differs somewhere in a range of time.
type FieldDiff struct {
	Series     string
	Field      string
	Start, End int64 // nanoseconds, [Start, End): the windows that differ
}

// Resolved is what one owner set aside.
type Resolved struct {
	Node        string // TCP address
	retype.Kept        // Path is on that node
}
