package replication

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
)

// TestWriteMakesFewShardGroups: one write with random times must not make a shard for each of its points.
func TestWriteMakesFewShardGroups(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newWriter(t, 1)
	w.MaxNewGroups = 10
	mustOpen(t, w)
	weekly := func(n int) []models.Point {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "cpu v=1 %d\n", time.Duration(i)*7*24*time.Hour)
		}
		return mustPoints(t, text.String())
	}
	var partial tsdb.PartialWriteError
	err := w.WritePoints(db, "", one, nil, weekly(11))
	if !errors.As(err, &partial) || partial.Dropped != 11 || !strings.Contains(err.Error(), "11 new shard groups") {
		t.Errorf("11 shard groups: %v", err)
	}
	if c.stores[0].Shard(shardID) != nil {
		t.Error("a write that was refused made a shard")
	}
	if err := w.WritePoints(db, "", one, nil, weekly(10)); err != nil {
		t.Errorf("10 shard groups: %v", err)
	}
	w.MaxNewGroups = 0
	if err := w.WritePoints(db, "", one, nil, weekly(40)); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func TestNewGroupsAreCounted(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	at := func(d time.Duration) time.Time { return time.Unix(0, int64(d)).UTC() }
	var points []models.Point
	for _, d := range []time.Duration{-day - 1, -day, -1, 0, 1, day - 1, day, 2 * day, 0, 5 * day} {
		points = append(points, models.MustNewPoint("cpu", nil, models.Fields{"v": 1.0}, at(d)))
	}
	info := &emeta.RetentionPolicyInfo{ShardGroupDuration: day}
	if n := newGroups(info, points, at(0), 0); n != 6 { // -2, -1, 0, 1, 2, 5
		t.Errorf("%d new groups, want 6", n)
	}
	info.ShardGroups = []emeta.ShardGroupInfo{
		{ID: 1, StartTime: at(-day), EndTime: at(day)}, // a longer one, of before the policy was changed
		{ID: 2, StartTime: at(5 * day), EndTime: at(6 * day), DeletedAt: at(1)},
	}
	if n := newGroups(info, points, at(0), 0); n != 4 { // -2, 1, 2 and 5, whose group was deleted
		t.Errorf("%d new groups beside those that exist, want 4", n)
	}
	info.Duration = day + 1
	if n := newGroups(info, points, at(2*day), 0); n != 3 { // 1, 2 and 5: the others have expired
		t.Errorf("%d new groups for points that have not expired, want 3", n)
	}
}
