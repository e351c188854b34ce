package replication

import (
	"context"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy"
	"concord/internal/entropy/patch"
	"concord/internal/order"
)

// Repairs takes the points that repairs write to this node's copies of shards. Such a point is a late write: it is left
// out where the copy has got something newer since the repair read it.
type Repairs struct{ w *Writer }

// Repairs returns the store for repairs.
func (w *Writer) Repairs() Repairs { return Repairs{w} }

// Shard is the engine's.
func (r Repairs) Shard(id uint64) *tsdb.Shard { return r.w.store.Shard(id) }

// CreateShard is the engine's.
func (r Repairs) CreateShard(database, policy string, shard uint64, enabled bool) error {
	return r.w.Shards.CreateShard(database, policy, shard, enabled)
}

// WriteToShard writes points with one field each, whose versions are not known. Those that were written here lately, and
// are still there, are newer.
func (r Repairs) WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error {
	if r.w.Order == nil {
		return r.w.Shards.WriteToShard(ctx, shard, points)
	}
	before := r.w.newest.of(shard)
	points, err := r.unknown(shard, points, before)
	if err != nil {
		return err
	}
	l := r.w.writing.Of(shard)
	l.Lock()
	defer l.Unlock()
	if now := r.w.newest.of(shard); now != before {
		if points, err = r.unknown(shard, points, now); err != nil {
			return err
		}
	}
	if len(points) == 0 {
		return nil
	}
	return r.w.Shards.WriteToShard(ctx, shard, points)
}

// unknown leaves out the points that were written here lately, and are still there.
func (r Repairs) unknown(shard uint64, points []models.Point, newest newestVersion) ([]models.Point, error) {
	if newest.writes == 0 {
		return points, nil
	}
	fields := make([]string, len(points))
	for i, p := range points {
		if f := p.FieldIterator(); f.Next() {
			fields[i] = string(f.FieldKey())
		}
	}
	newer, err := r.newer(shard, len(points), func(i int) ([]byte, string, int64) {
		return points[i].Key(), fields[i], points[i].UnixNano()
	})
	if err != nil || len(newer) == 0 {
		return points, err
	}
	left := make([]models.Point, 0, len(points))
	for i, p := range points {
		if !newer[i] {
			left = append(left, p)
		}
	}
	return left, nil
}

// WriteVersion writes points of a known version, unless this node has newer ones.
func (r Repairs) WriteVersion(ctx tsdb.WriteContext, shard, version uint64, points []models.Point) error {
	sh, ok := r.w.meta.Shard(shard)
	if !ok {
		return errShardDeleted
	}
	return r.w.accept(ctx, shard, sh.Database, sh.RetentionPolicy, order.Version(version), true, points)
}

// Newer reports which points of a field were written here lately and are still there, by their place in times.
func (r Repairs) Newer(shard uint64, series []byte, field string, times func() []int64) (map[int]bool, error) {
	if r.w.Order == nil || r.w.newest.of(shard).writes == 0 {
		return nil, nil
	}
	all := times()
	return r.newer(shard, len(all), func(i int) ([]byte, string, int64) { return series, field, all[i] })
}

// newer reports which of n points were written here since this process started, and are there. One that is not there was
// deleted since.
func (r Repairs) newer(shard uint64, n int, at func(i int) (series []byte, field string, time int64)) (map[int]bool, error) {
	var wrote []int
	var regions []patch.Region
	for i := range n {
		series, field, t := at(i)
		if r.w.Order.Journal.Wrote(order.KeyOf(shard, series, field, t)) {
			wrote = append(wrote, i)
			regions = append(regions, patch.Region{Series: series, Field: field, Min: t, Max: t})
		}
	}
	sh := r.w.store.Shard(shard)
	if len(wrote) == 0 || sh == nil {
		return nil, nil
	}
	there, err := patch.Present(context.Background(), sh, regions)
	if err != nil {
		return nil, err
	}
	newer := make(map[int]bool)
	for k, i := range wrote {
		if there[k] {
			newer[i] = true
		}
	}
	return newer, nil
}

// Versions returns with which versions this node wrote a field of points of a shard, 0 where that is not known, and a
// version that these are not above. The first is nil when none is known of any point of the shard.
func (r Repairs) Versions(shard uint64, series []byte, field string, times []int64) (versions []uint64, since uint64, err error) {
	if r.w.Order == nil {
		return nil, 0, entropy.ErrNoVersions
	}
	if r.w.newest.of(shard).writes == 0 {
		_, s := r.w.Order.Journal.Certain(0)
		return nil, uint64(s), nil
	}
	versions = make([]uint64, len(times))
	for i, t := range times {
		v, s := r.w.Order.Journal.Certain(order.KeyOf(shard, series, field, t))
		versions[i], since = uint64(v), max(since, uint64(s))
	}
	return versions, since, nil
}
