package entropy

import (
	"context"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/entropy/retype"
)

// ShardState is what one owner says of its copy of a shard.
type ShardState struct {
	Version
	Hints []uint64 // nodes for which it has writes or deletes of the shard in hinted handoff
	// Beginning shows whether the copy lacks older points that other owners may have.
	Beginning copystate.Beginning
	// Deletes changes with every delete that the node hears of; 0 for not known.
	Deletes uint64
	// Lack is what the copy lacks for good, as far as its node knows: such a copy has no vote, and is repaired at once.
	Lack copystate.Lack
	// Waiting are the nodes that keep writes or deletes for the copy, as far as its node knows.
	Waiting []uint64
	// Clock is the version of now on the node, 0 for not known: what is written later has a greater one.
	Clock uint64
	// Corrupt says what is damaged in the copy. It is empty when nothing is known to be. A
	// copy that is Corrupt and does not exist is one that the engine could not open, or has closed for now.
	Corrupt string
}

// Usable reports whether the copy can be read and written, or made when the owner lacks it.
func (s ShardState) Usable() bool { return s.Exists || s.Corrupt == "" }

// Healthy reports whether the copy exists and is not known to be damaged.
func (s ShardState) Healthy() bool { return s.Exists && s.Corrupt == "" }

// Whole reports whether the copy has all that the others may lack.
func (s ShardState) Whole() bool {
	return s.Healthy() && s.Lack.Kind == "" && len(s.Waiting) == 0 && s.Beginning != copystate.FromFiles
}

// Older reports whether the copy may hold deleted points, or old values.
func (s ShardState) Older() bool { return s.Exists && s.Lack.Kind.Worse(copystate.Lost) }

// Right reports whether what the copy has is what it should have, although it may lack some writes.
func (s ShardState) Right() bool { return s.Healthy() && !s.Lack.Kind.Worse(copystate.Missed) }

// Version changes with a copy's contents.
type Version struct {
	Exists       bool
	LastModified int64 // nanoseconds; of the newest write, delete or file change
	Size         int64 // bytes on disk
}

// Replica is one node's copies of shards, its own or over the network.
// Every method may be repeated without harm. Errors are of the transport or
// of reading; a shard that the node lacks is an empty one.
//
// A node of an older version does not know every method. Such a call fails with the error that the method names for it,
// or with that of the transport.
type Replica interface {
	Comparer
	Points
	Restorer
	Retyper
}

// Comparer tells what a node has of a shard for less than its points.
type Comparer interface {
	// States tells about shards; the map has an entry for each asked ID.
	States(ctx context.Context, ids []uint64) (map[uint64]ShardState, error)
	// Root is the sum over all windows that end at or before until.
	Root(ctx context.Context, shard cluster.Shard, until int64) (digest.Sum, error)
	// Digests calls fn for each series-field with points in windows that end at or
	// before until, in ascending order of (series, field). fn must not keep its argument.
	Digests(ctx context.Context, shard cluster.Shard, until int64, fn func(*digest.SeriesField) error) error
	// Summarize opens a summary of the windows that end at or before until. It tells a small difference for less than
	// the list of Digests. It lasts until it is closed or ctx ends, and fails with reconcile.ErrTooLarge.
	Summarize(ctx context.Context, shard cluster.Shard, until int64, key uint64) (reconcile.Summary, error)
}

// Points reads, compares and writes the points of a shard.
type Points interface {
	// Fetch calls fn with the points of regions in their order, within limits; a region without points gives no block. It
	// waits for deletes that are under way, as another owner may have run them already, and fails with ErrOvertaken when
	// they do not end.
	Fetch(ctx context.Context, shard cluster.Shard, regions []patch.Region, limits patch.Limits,
		fn func(patch.Block) error) error
	// Symbols are the coded symbols [from, to) of the points of all regions. It fails as Fetch does.
	Symbols(ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64, from, to int) (
		[]riblt.Symbol, error)
	// Slices are what the parts of each region hold.
	Slices(ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64) (
		[][patch.Slices]patch.Slice, error)
	// Versions returns with which versions points were written, which are regions of one time each. Without points it
	// returns the clock. The error is ErrNoVersions when points have none there.
	Versions(ctx context.Context, shard cluster.Shard, points []patch.Region) (patch.PointVersions, error)
	// Apply writes points, creating the shard where it is missing (also when there are
	// no blocks), and returns what became of them. A point that was written there since the points were read stays. It
	// fails with ErrOvertaken when the node cannot tell any more what was deleted or written since then.
	Apply(ctx context.Context, shard cluster.Shard, read ReadAt, blocks []patch.Block) (patch.Applied, error)
}

// ReadAt says when the points were read that are written to a node.
type ReadAt struct {
	Deletes uint64 // of the node's ShardState before; 0 for not known
	Clock   uint64 // of the node's PointVersions before; 0 for not known
}

// Restorer changes a copy as a whole, or what its node remembers of it.
type Restorer interface {
	// Fill makes the shard out of the files of a source, all of them or none. It goes on where an
	// earlier call ended. It fails with ErrOvertaken when Deletes of the shard's state is not that of the
	// source any more, with ErrSourceNotWhole when the source says that its copy is not whole, and with ErrNoFiles
	// when there is no way. progress is called with the bytes that are there, and that will be.
	Fill(ctx context.Context, shard cluster.Shard, from Source, progress func(done, total int64)) error
	// SetAside replaces damaged files by ones with what is good in them, and keeps the damaged ones.
	SetAside(ctx context.Context, id uint64) error
	// Healed tells that a copy, of which files were set aside, was found equal to another.
	Healed(ctx context.Context, id uint64) error
	// Discard removes a copy whose Lack is copystate.Outdated or Stale and has that Gen: it is made anew of another
	// one.
	Discard(ctx context.Context, id, gen uint64) error
	// Whole tells that the copy was found equal to those of the other owners: its Beginning is FoundEqual, and it lacks
	// nothing, unless the Gen of its Lack has changed since.
	Whole(ctx context.Context, id, gen uint64) error
}

// Retyper gives a field of a copy another type.
type Retyper interface {
	// FieldType returns the type that a field has in a copy; 0 when it does not have the field. known tells whether
	// it has the measurement.
	FieldType(ctx context.Context, id uint64, measurement, field string) (typ digest.Type, known bool, err error)
	// Retype sets the values of other types aside, durably, removes them, and gives the field its type. It may be
	// repeated.
	Retype(ctx context.Context, id uint64, f retype.Field) (retype.Kept, error)
}

// Source is an owner whose files a missing copy is made of.
type Source struct {
	cluster.Node
	Deletes    uint64 // of the missing copy's ShardState when it was decided
	Incomplete bool   // take the files also when the source's copy is not whole
}
