package replication

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
)

// mapShards returns which points go to which shards. It maps as the engine does, with two differences. What a policy
// takes is decided by the clock of the meta nodes' leader: by that clock shard groups expire, and a node whose own
// clock is wrong would refuse points that all others take. And it does not allocate for each point.
func (w *Writer) mapShards(r *coordinator.WritePointsRequest) (*coordinator.ShardMapping, error) {
	policy, err := w.Meta.RetentionPolicy(r.Database, r.RetentionPolicy)
	if err != nil {
		return nil, err
	} else if policy == nil {
		return nil, influxdb.ErrRetentionPolicyNotFound(r.RetentionPolicy)
	}
	now, _ := w.Meta.Now()
	takes, mapping := newPointLimits(policy, now), coordinator.NewShardMapping(policy, len(r.Points))
	var groups shardGroups
	for _, p := range r.Points {
		at := p.Time()
		if _, reason := takes.check(at); reason != coordinator.WithinBounds || groups.at(at) != nil {
			continue
		}
		group, err := w.Meta.CreateShardGroup(r.Database, r.RetentionPolicy, at)
		switch {
		case err != nil:
			return nil, err
		case group == nil:
			return nil, errors.New("nil shard group")
		case len(group.Shards) == 0:
			return nil, fmt.Errorf("shard group %d covering %s to %s has no shards", group.ID, group.StartTime,
				group.EndTime)
		}
		groups.add(group)
	}
	if group := groups.only(); group != nil && len(group.Shards) == 1 && takes.all(group, r.Points) {
		sh := group.Shards[0]
		mapping.Points[sh.ID], mapping.Shards[sh.ID] = r.Points, &sh
		return mapping, nil
	}
	for _, p := range r.Points {
		group := groups.at(p.Time())
		bound, reason := takes.check(p.Time())
		switch {
		case group == nil:
			mapping.AddDropped(p, takes.oldest, coordinator.RetentionPolicyBound)
			continue
		case reason == coordinator.WriteWindowLowerBound, reason == coordinator.WriteWindowUpperBound:
			mapping.AddDropped(p, bound, reason)
			continue
		} // what has expired is taken, as long as its group is there
		sh := group.ShardFor(p)
		if mapping.Shards[sh.ID] == nil {
			mapping.Shards[sh.ID] = &emeta.ShardInfo{ID: sh.ID, Owners: sh.Owners}
		}
		mapping.Points[sh.ID] = append(mapping.Points[sh.ID], p)
	}
	return mapping, nil
}

// pointLimits are the times of points that a policy takes.
type pointLimits struct {
	oldest        time.Time // what is older has expired
	before, after time.Time // the write window is between them; zero without one
}

// newPointLimits returns those of a policy at a time.
func newPointLimits(policy *emeta.RetentionPolicyInfo, now time.Time) pointLimits {
	l := pointLimits{oldest: time.Unix(0, models.MinNanoTime)}
	if policy.Duration > 0 {
		l.oldest = now.Add(-policy.Duration)
	}
	if policy.PastWriteLimit > 0 {
		l.before = now.Add(-policy.PastWriteLimit)
	}
	if policy.FutureWriteLimit > 0 {
		l.after = now.Add(policy.FutureWriteLimit)
	}
	return l
}

// check returns which limit the time of a point violates: of the write window before that of the policy's duration.
func (l pointLimits) check(at time.Time) (bound time.Time, violated coordinator.BoundType) {
	switch {
	case !l.before.IsZero() && at.Before(l.before):
		return l.before, coordinator.WriteWindowLowerBound
	case !l.after.IsZero() && at.After(l.after):
		return l.after, coordinator.WriteWindowUpperBound
	case at.Before(l.oldest):
		return l.oldest, coordinator.RetentionPolicyBound
	}
	return time.Time{}, coordinator.WithinBounds
}

// all reports whether all points are in a shard group, and within the limits.
func (l pointLimits) all(group *emeta.ShardGroupInfo, points []models.Point) bool {
	return !slices.ContainsFunc(points, func(p models.Point) bool {
		_, violated := l.check(p.Time())
		return violated != coordinator.WithinBounds || !group.Contains(p.Time())
	})
}

// shardGroups are those that the points of a write are in, in the order of their ends and then of their starts. Of
// several that a time is in, the first one counts. They may overlap when the policy got another duration of groups.
type shardGroups struct {
	sorted  []*emeta.ShardGroupInfo
	overlap bool                  // two of them do
	last    *emeta.ShardGroupInfo // of the last point, unless groups overlap: the next point is often in it, too
}

// add adds one more group.
func (s *shardGroups) add(group *emeta.ShardGroupInfo) {
	i, _ := slices.BinarySearchFunc(s.sorted, group, func(a, b *emeta.ShardGroupInfo) int {
		if c := a.EndTime.Compare(b.EndTime); c != 0 {
			return c
		}
		return a.StartTime.Compare(b.StartTime)
	})
	s.overlap = s.overlap || i > 0 && s.sorted[i-1].EndTime.After(group.StartTime) ||
		i < len(s.sorted) && s.sorted[i].StartTime.Before(group.EndTime)
	s.sorted = slices.Insert(s.sorted, i, group)
	s.last = nil
}

// only is the group when there is one alone.
func (s *shardGroups) only() *emeta.ShardGroupInfo {
	if len(s.sorted) == 1 {
		return s.sorted[0]
	}
	return nil
}

// at is the group that a time is in, nil when there is none.
func (s *shardGroups) at(t time.Time) *emeta.ShardGroupInfo {
	if s.last != nil && s.last.Contains(t) {
		return s.last
	}
	i, _ := slices.BinarySearchFunc(s.sorted, t, func(g *emeta.ShardGroupInfo, t time.Time) int {
		if g.EndTime.After(t) {
			return 1
		}
		return -1
	})
	for ; i < len(s.sorted); i++ {
		if s.sorted[i].Contains(t) {
			if !s.overlap {
				s.last = s.sorted[i]
			}
			return s.sorted[i]
		}
		if !s.overlap {
			break
		}
	}
	return nil
}
