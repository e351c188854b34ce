package replication

import (
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
)

// mapShards returns which points go to which shards. The engine's mapper allocates several times for each point. Most
// requests have points of one shard group, and those are mapped here, as it would.
func (w *Writer) mapShards(r *coordinator.WritePointsRequest) (*coordinator.ShardMapping, error) {
	policy, err := w.Meta.RetentionPolicy(r.Database, r.RetentionPolicy)
	if err != nil {
		return nil, err
	} else if policy == nil {
		return nil, influxdb.ErrRetentionPolicyNotFound(r.RetentionPolicy)
	}
	oldest := time.Unix(0, models.MinNanoTime)
	if policy.Duration > 0 {
		oldest = time.Now().Add(-policy.Duration)
	}
	limited := policy.PastWriteLimit > 0 || policy.FutureWriteLimit > 0
	if limited || len(r.Points) == 0 || r.Points[0].Time().Before(oldest) {
		return w.mapper.MapShards(r)
	}
	group, err := w.Meta.CreateShardGroup(r.Database, r.RetentionPolicy, r.Points[0].Time())
	if err != nil {
		return nil, err
	}
	if group == nil || len(group.Shards) == 0 || !allIn(group, oldest, r.Points) {
		return w.mapper.MapShards(r)
	}
	mapping := coordinator.NewShardMapping(policy, len(r.Points))
	if len(group.Shards) == 1 {
		sh := group.Shards[0]
		mapping.Points[sh.ID], mapping.Shards[sh.ID] = r.Points, &sh
		return mapping, nil
	}
	for _, p := range r.Points {
		sh := group.ShardFor(p)
		mapping.Points[sh.ID] = append(mapping.Points[sh.ID], p)
	}
	for _, sh := range group.Shards {
		if len(mapping.Points[sh.ID]) > 0 {
			mapping.Shards[sh.ID] = &sh
		}
	}
	return mapping, nil
}

// allIn reports whether all points are in a shard group, and none is too old.
func allIn(group *emeta.ShardGroupInfo, oldest time.Time, points []models.Point) bool {
	for _, p := range points {
		if t := p.Time(); t.Before(oldest) || t.Before(group.StartTime) || !t.Before(group.EndTime) {
			return false
		}
	}
	return true
}
