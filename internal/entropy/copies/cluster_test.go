package copies

import (
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
)

// oneShard is the metadata of a cluster with a shard of a policy of an hour, which ended at a time.
type oneShard struct{ ended time.Time }

func (oneShard) NodeID() uint64 { return 1 }

func (m oneShard) State() *cluster.State {
	st := cluster.NewState()
	st.Data.Databases = []emeta.DatabaseInfo{{Name: "db", RetentionPolicies: []emeta.RetentionPolicyInfo{{
		Name: "rp", Duration: time.Hour,
		ShardGroups: []emeta.ShardGroupInfo{{
			ID: 1, StartTime: m.ended.Add(-time.Hour), EndTime: m.ended, Shards: []emeta.ShardInfo{{ID: 7}},
		}},
	}}}}
	return st
}

// A node whose clock is days ahead compares what has not expired for the others.
func TestShardsExpireByTheClockOfTheLeader(t *testing.T) {
	t.Parallel()
	at := func(now time.Time) func() time.Time { return func() time.Time { return now } }
	leader := time.Unix(1_700_000_000, 0)
	for _, tt := range []struct {
		name     string
		own      time.Duration // from the leader's clock
		knows    bool          // the leader's clock
		ended    time.Duration // of the shard, before that
		wantLive int
	}{
		{"all are right", 0, true, time.Minute, 1},
		{"it is ahead", 72 * time.Hour, true, time.Minute, 1},
		{"it is behind", -72 * time.Hour, true, 2 * time.Hour, 0},
		{"it knows its own alone", 72 * time.Hour, false, time.Minute, 0},
	} {
		c := Cluster{Meta: oneShard{leader.Add(-tt.ended)}, Now: at(leader.Add(tt.own))}
		if tt.knows {
			c.Leader = at(leader)
		}
		if got := len(c.Live()); got != tt.wantLive {
			t.Errorf("%s: %d shards have not expired, want %d", tt.name, got, tt.wantLive)
		}
	}
}
