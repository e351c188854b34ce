package replication

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy/patch"
	"concord/internal/order"
)

// Repairs takes the points that repairs write to this node's copies of shards. Such a point is a late write: it is left
// out where the copy has got something newer since the repair read it.
type Repairs struct{ w *Writer }

// Repairs returns the store for repairs.
func (w *Writer) Repairs() Repairs { return Repairs{w} }

// Shard is the engine's.
func (r Repairs) Shard(id uint64) *tsdb.Shard { return r.w.Store.Shard(id) }

// CreateShard is the engine's.
func (r Repairs) CreateShard(database, policy string, shard uint64, enabled bool) error {
	return r.w.Shards.CreateShard(database, policy, shard, enabled)
}

// WriteToShard writes points with one field each, whose versions are not known. Those that were written here lately,
// and are still there, are newer.
func (r Repairs) WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error {
	keys := make([]order.Key, len(points))
	fields := make([]string, len(points))
	for i, p := range points {
		if f := p.FieldIterator(); f.Next() {
			fields[i] = string(f.FieldKey())
		}
		keys[i] = order.KeyOf(shard, p.Key(), fields[i], p.UnixNano())
	}
	before := r.lastWrites(shard, keys)
	there, err := r.present(shard, before, func(i int) (series []byte, field string, time int64) {
		return points[i].Key(), fields[i], points[i].UnixNano()
	})
	if err != nil {
		return err
	}
	// What was read may have been written since. Writes wait for no reads: their versions tell.
	l := r.w.writing.Of(shard)
	l.Lock()
	defer l.Unlock()
	now := r.lastWrites(shard, keys)
	left := make([]models.Point, 0, len(points))
	for i, p := range points {
		if now[i] == before[i] && !before[i].underWay && !there[i] {
			left = append(left, p)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.w.Shards.WriteToShard(ctx, shard, left)
}

// lastWrite is the newest write of a field.
type lastWrite struct {
	version  order.Version
	underWay bool // the engine may not have it yet
}

// lastWrites are those of fields that were written since this process started, by their place in keys.
func (r Repairs) lastWrites(shard uint64, keys []order.Key) map[int]lastWrite {
	out := make(map[int]lastWrite)
	if r.w.newest.of(shard).writes == 0 {
		return out
	}
	for i, key := range keys {
		if v, underWay := r.w.Order.Journal.Wrote(key); v != 0 {
			out[i] = lastWrite{v, underWay}
		}
	}
	return out
}

// present reports which of the fields that were written here are there. One that is not was deleted since.
func (r Repairs) present(
	shard uint64, wrote map[int]lastWrite, at func(i int) (series []byte, field string, time int64),
) (map[int]bool, error) {
	out := make(map[int]bool)
	sh := r.w.Store.Shard(shard)
	if len(wrote) == 0 || sh == nil {
		return out, nil
	}
	places := slices.Sorted(maps.Keys(wrote))
	regions := make([]patch.Region, len(places))
	for k, i := range places {
		series, field, t := at(i)
		regions[k] = patch.Region{Series: series, Field: field, Min: t, Max: t}
	}
	there, err := patch.Present(context.Background(), sh, regions)
	for k, i := range places {
		out[i] = there[k]
	}
	return out, err
}

// WriteVersion writes points of a known version, unless this node has newer ones.
func (r Repairs) WriteVersion(ctx tsdb.WriteContext, shard, version uint64, points []models.Point) error {
	sh, ok := r.w.Meta.Shard(shard)
	if !ok {
		return errShardDeleted
	}
	return r.w.accept(ctx, shard, sh.Database, sh.RetentionPolicy, order.Version(version), true, points)
}

// Newer reports which points of a field were written here lately and are still there, by their place in times.
func (r Repairs) Newer(shard uint64, series []byte, field string, times func() []int64) (map[int]bool, error) {
	if r.w.newest.of(shard).writes == 0 {
		return nil, nil
	}
	all := times()
	keys := make([]order.Key, len(all))
	for i, t := range all {
		keys[i] = order.KeyOf(shard, series, field, t)
	}
	there, err := r.present(shard, r.lastWrites(shard, keys), func(i int) ([]byte, string, int64) {
		return series, field, all[i]
	})
	maps.DeleteFunc(there, func(_ int, is bool) bool { return !is })
	return there, err
}

// LateWrites reports whether writes may still arrive that are more than some seconds old, out of hinted handoff.
func (r Repairs) LateWrites() bool { return !r.w.floors.follows.Load() }

// keepFor is how long the journal remembers what is written after a question about versions: a repair has read points
// by then, and has written them.
const keepFor = time.Minute

// Clock is the version of now: what is written later has a greater one.
func (r Repairs) Clock() uint64 { return uint64(r.w.Order.Clock.Now()) }

// Versions returns with which versions this node wrote points of a shard, as entropy.Points has it.
func (r Repairs) Versions(shard uint64, points []patch.Region) (patch.PointVersions, error) {
	clock, journal := r.w.Order.Clock.Now(), r.w.Order.Journal
	journal.Keep(clock, keepFor)
	out := patch.PointVersions{
		Versions: make([]uint64, len(points)), Written: make([]uint64, len(points)), Failed: make([]uint64, len(points)),
		Clock: uint64(clock),
	}
	for i, p := range points {
		at := journal.At(order.KeyOf(shard, p.Series, p.Field, p.Min))
		out.Versions[i], out.Written[i], out.Failed[i] = uint64(at.Certain), uint64(at.Written), uint64(at.Failed)
		out.Since = max(out.Since, uint64(at.Since))
		if at.Failed == order.Uncertain { // a file of the journal cannot be read
			out.Forgot = patch.Uncertain
		}
	}
	out.Forgot = max(out.Forgot, uint64(journal.Forgot())) // after the lookups: it may forget meanwhile
	return out, nil
}

// Keep reports whether this node knows all that was written after a clock of PointVersions. It does for a minute then.
func (r Repairs) Keep(clock uint64) bool {
	return r.w.Order.Journal.Keep(order.Version(clock), keepFor)
}
