package replication

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"pgregory.net/rapid"

	"concord/internal/replication/replicationtest"
)

// groups is the metadata of a database whose shard groups begin and end wherever they were drawn.
type groups struct {
	replicationtest.Member
	policy emeta.RetentionPolicyInfo
	infos  []emeta.ShardGroupInfo
}

func (g *groups) RetentionPolicy(string, string) (*emeta.RetentionPolicyInfo, error) {
	return &g.policy, nil
}

func (g *groups) CreateShardGroup(_, _ string, at time.Time) (*emeta.ShardGroupInfo, error) {
	for i := range g.infos {
		if g.infos[i].Contains(at) {
			return &g.infos[i], nil
		}
	}
	return nil, fmt.Errorf("no group at %v", at)
}

// TestPointsAreMappedAsTheEngineDoes compares the shards of points, also of those that are too old.
func TestPointsAreMappedAsTheEngineDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now().Truncate(time.Hour)
		meta := &groups{policy: emeta.RetentionPolicyInfo{Name: policy}}
		if rapid.Bool().Draw(t, "expires") {
			meta.policy.Duration = 3 * time.Hour
		}
		if rapid.Bool().Draw(t, "limited") {
			meta.policy.FutureWriteLimit = time.Hour
		}
		shards := rapid.IntRange(1, 3).Draw(t, "shards of a group")
		for hour := -6; hour < 6; hour++ {
			from := now.Add(time.Duration(hour) * time.Hour)
			info := emeta.ShardGroupInfo{ID: uint64(hour + 7), StartTime: from, EndTime: from.Add(time.Hour)}
			for s := range shards {
				info.Shards = append(info.Shards, emeta.ShardInfo{ID: info.ID*10 + uint64(s)})
			}
			meta.infos = append(meta.infos, info)
		}
		spread := rapid.IntRange(1, 6*3600-1).Draw(t, "spread")
		var points []models.Point
		for i := range rapid.IntRange(0, 20).Draw(t, "points") {
			at := now.Add(time.Duration(rapid.IntRange(-spread, spread).Draw(t, "at")) * time.Second)
			tags := models.NewTags(map[string]string{"host": fmt.Sprint(i % 7)})
			points = append(points, models.MustNewPoint("cpu", tags, models.Fields{"v": 1.0}, at))
		}
		out := &outgoing{ownCopies: &ownCopies{Deps: Deps{Meta: meta}}}
		w := &Writer{outgoing: out, mapper: coordinator.NewPointsWriter()}
		w.mapper.MetaClient = meta
		request := &coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points}
		want, err := w.mapper.MapShards(request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.mapShards(request)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(shownMapping(want), shownMapping(got)); d != "" {
			t.Fatal(d)
		}
	})
}

func shownMapping(m *coordinator.ShardMapping) (out []string) {
	out = append(out, fmt.Sprint(len(m.Points), len(m.Shards), m.Dropped()))
	for id := range uint64(200) {
		if sh := m.Shards[id]; sh != nil {
			out = append(out, fmt.Sprint(id, sh.ID, m.Points[id]))
		}
	}
	return out
}
