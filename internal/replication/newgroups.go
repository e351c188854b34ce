package replication

import (
	"fmt"
	"math"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
)

// checkNewGroups returns a tsdb.PartialWriteError when a write needs more new shard groups than a client may make at
// once. Each is a change of the cluster's metadata, and a shard on the disks of all its owners. Points with random
// times need one each: half a megabyte of them would keep the cluster busy for an hour.
func (w *Writer) checkNewGroups(db, policy string, points []models.Point) error {
	if w.MaxNewGroups <= 0 || len(points) <= w.MaxNewGroups {
		return nil
	}
	if policy == "" {
		if info := w.Meta.Database(db); info != nil {
			policy = info.DefaultRetentionPolicy
		}
	}
	info, err := w.Meta.RetentionPolicy(db, policy)
	if err != nil || info == nil || info.ShardGroupDuration <= 0 {
		return nil // the write says what is wrong
	}
	now, _ := w.Meta.Now()
	if n := newGroups(info, points, now, w.MaxNewGroups); n > w.MaxNewGroups {
		return tsdb.PartialWriteError{
			Reason: fmt.Sprintf("the points need %d new shard groups, and [cluster] max-new-shard-groups is %d for one write: "+
				"send fewer points at once, or give the retention policy longer shard groups", n, w.MaxNewGroups),
			Dropped: len(points), Database: db, RetentionPolicy: policy,
		}
	}
	return nil
}

// newGroups counts the shard groups that points need and that do not exist. Points that the policy does not take
// need none: they are dropped. A result of up to most may count some that exist, too.
func newGroups(info *emeta.RetentionPolicyInfo, points []models.Point, now time.Time, most int) int {
	takes := newPointLimits(info, now)
	length := info.ShardGroupDuration.Nanoseconds()
	needed := make(map[int64]models.Point)
	last := int64(math.MinInt64)
	for _, p := range points {
		if _, violated := takes.check(p.Time()); violated != coordinator.WithinBounds {
			continue
		}
		at := p.UnixNano()
		number := at / length
		if at < 0 {
			number = (at+1)/length - 1 // rounded down
		}
		if number != last {
			last = number
			needed[number] = p
		}
	}
	if len(needed) <= most {
		return len(needed)
	}
	for number, p := range needed {
		if info.ShardGroupByTimestamp(p.Time()) != nil {
			delete(needed, number)
		}
	}
	return len(needed)
}
