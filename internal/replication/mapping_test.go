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
		meta := &groups{
			Member: replicationtest.Member{Meta: &replicationtest.Meta{}},
			policy: emeta.RetentionPolicyInfo{Name: policy},
		}
		if rapid.Bool().Draw(t, "expires") {
			meta.policy.Duration = 3 * time.Hour
		}
		if rapid.Bool().Draw(t, "limited") {
			meta.policy.FutureWriteLimit = time.Hour
		}
		if rapid.Bool().Draw(t, "limited to the past") {
			meta.policy.PastWriteLimit = 2 * time.Hour
		}
		shards := rapid.IntRange(1, 3).Draw(t, "shards of a group")
		for hour := -6; hour < 6; hour++ {
			from := now.Add(time.Duration(hour) * time.Hour)
			// Groups overlap when they were made before and after a change of the policy.
			length := time.Duration(rapid.IntRange(1, 3).Draw(t, "hours of a group")) * time.Hour
			info := emeta.ShardGroupInfo{ID: uint64(hour + 7), StartTime: from, EndTime: from.Add(length)}
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
		w := &Writer{outgoing: out}
		engine := coordinator.NewPointsWriter()
		engine.MetaClient = meta
		request := &coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points}
		want, err := engine.MapShards(request)
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

// TestClockOfTheLeaderDecidesWhatAPolicyTakes has a node whose clock is days away from that of the meta nodes' leader.
func TestClockOfTheLeaderDecidesWhatAPolicyTakes(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-72 * time.Hour, 0, 72 * time.Hour} {
		leader := time.Now().Add(off)
		meta := &groups{
			Member: replicationtest.Member{Meta: &replicationtest.Meta{Leader: leader}},
			policy: emeta.RetentionPolicyInfo{
				Name: policy, Duration: 5 * time.Hour, PastWriteLimit: 3 * time.Hour, FutureWriteLimit: time.Hour,
				ShardGroupDuration: time.Hour,
			},
		}
		for hour := -8; hour < 8; hour++ {
			from := leader.Truncate(time.Hour).Add(time.Duration(hour) * time.Hour)
			meta.infos = append(meta.infos, emeta.ShardGroupInfo{
				ID: uint64(hour + 9), StartTime: from, EndTime: from.Add(time.Hour), Shards: []emeta.ShardInfo{{ID: 1}},
			})
		}
		w := &Writer{outgoing: &outgoing{ownCopies: &ownCopies{Deps: Deps{Meta: meta, MaxNewGroups: 1}}}}
		taken := func(after ...time.Duration) bool {
			t.Helper()
			var points []models.Point
			for _, d := range after {
				points = append(points, models.MustNewPoint("cpu", nil, models.Fields{"v": 1.0}, leader.Add(d)))
			}
			request := &coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points}
			m, err := w.mapShards(request)
			if err != nil {
				t.Fatal(err)
			}
			return m.Dropped() == 0
		}
		past, future := meta.policy.PastWriteLimit, meta.policy.FutureWriteLimit
		for _, c := range []struct {
			past, future, at time.Duration
			want             bool
		}{
			{at: -4 * time.Hour, want: true}, {at: -6 * time.Hour}, {at: 7 * time.Hour, want: true},
			{past: past, at: -2 * time.Hour, want: true}, {past: past, at: -4 * time.Hour},
			{future: future, at: time.Minute, want: true}, {future: future, at: 2 * time.Hour},
		} {
			meta.policy.PastWriteLimit, meta.policy.FutureWriteLimit = c.past, c.future
			if got := taken(c.at); got != c.want {
				t.Errorf("leader at %v, write window -%v to %v: a point at %v is taken: %v",
					off, c.past, c.future, c.at, got)
			}
		}
		// The points that no shard group is made for do not count against the limit of new ones.
		meta.policy.PastWriteLimit, meta.policy.FutureWriteLimit = 0, 0
		var points []models.Point
		for hour := range 4 {
			at := leader.Add(-time.Duration(hour*6) * time.Hour)
			points = append(points, models.MustNewPoint("cpu", nil, models.Fields{"v": 1.0}, at))
		}
		if err := w.checkNewGroups(db, policy, points); err != nil {
			t.Errorf("leader at %v: %v", off, err)
		}
	}
}
