package replication

import (
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy"
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

// WriteToShard writes points whose versions are not known. Those that were written here lately are newer.
func (r Repairs) WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error {
	if r.w.Order == nil {
		return r.w.Shards.WriteToShard(ctx, shard, points)
	}
	before := r.w.newest.of(shard)
	if before.writes > 0 {
		points = r.w.Order.Journal.Unknown(shard, points)
	}
	l := r.w.writing.Of(shard)
	l.Lock()
	defer l.Unlock()
	if r.w.newest.of(shard) != before {
		points = r.w.Order.Journal.Unknown(shard, points)
	}
	if len(points) == 0 {
		return nil
	}
	return r.w.Shards.WriteToShard(ctx, shard, points)
}

// WriteVersion writes points of a known version, unless this node has newer ones.
func (r Repairs) WriteVersion(ctx tsdb.WriteContext, shard, version uint64, points []models.Point) error {
	sh, ok := r.w.meta.Shard(shard)
	if !ok {
		return errShardDeleted
	}
	return r.w.accept(ctx, shard, sh.Database, sh.RetentionPolicy, order.Version(version), true, points)
}

// Newer reports which points of a field were written here since this process started, by their place in times.
func (r Repairs) Newer(shard uint64, series []byte, field string, times func() []int64) map[int]bool {
	if r.w.Order == nil || r.w.newest.of(shard).writes == 0 {
		return nil
	}
	newer := make(map[int]bool)
	for i, t := range times() {
		if r.w.Order.Journal.Wrote(order.KeyOf(shard, series, field, t)) {
			newer[i] = true
		}
	}
	return newer
}

// Versions returns with which versions this node wrote a field of points of a shard, 0 where that is not known, and a
// version that these are not above.
func (r Repairs) Versions(shard uint64, series []byte, field string, times []int64) (versions []uint64, since uint64, err error) {
	if r.w.Order == nil {
		return nil, 0, entropy.ErrNoVersions
	}
	versions = make([]uint64, len(times))
	for i, t := range times {
		v, s := r.w.Order.Journal.Certain(order.KeyOf(shard, series, field, t))
		versions[i], since = uint64(v), max(since, uint64(s))
	}
	return versions, since, nil
}
