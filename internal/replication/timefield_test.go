package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/rpc"
)

// A field called time is refused as InfluxDB refuses it, and stored on no owner.
func TestFieldCalledTimeIsNotStored(t *testing.T) {
	lines := `cpu,host=a v=1 1000
cpu,host=a time=5,v=2 2000
cpu,host=b s="a \"b\", c",time=5i,v=3,i=9007199254740993i,b=t 3000
mem time=5 1000`
	want := []string{"cpu,host=a#!~#v", "cpu,host=b#!~#b", "cpu,host=b#!~#i", "cpu,host=b#!~#s", "cpu,host=b#!~#v"}
	keys := func(s *tsdb.Store) (out []string) {
		e, err := s.Shard(shardID).Engine()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range e.(*tsm1.Engine).Cache.Keys() {
			out = append(out, string(k))
		}
		slices.Sort(out)
		return out
	}

	c := newTestCluster(t, "ok", "ok")
	points := mustPoints(t, lines)
	err := c.writer(t).WritePoints(db, "", all, nil, points)
	plain := mustStore(t)
	if err := plain.CreateShard(db, policy, shardID, true); err != nil {
		t.Fatal(err)
	}
	var got, engine tsdb.PartialWriteError
	for i, lines := range []string{strings.Join(strings.Split(lines, "\n")[:3], "\n"), "mem time=5 1000"} {
		perr := plain.WriteToShard(tsdb.WriteContext{}, shardID, mustPoints(t, lines))
		if !errors.As(perr, &engine) || !errors.As(err, &got) || !strings.Contains(got.Reason, engine.Reason) {
			t.Errorf("%d: %v, want what the engine says: %v", i, err, perr)
		}
	}
	if got.Dropped != 1 {
		t.Errorf("%d points are said to be dropped", got.Dropped)
	}
	for i, s := range c.stores {
		if d := cmp.Diff(want, keys(s)); d != "" {
			t.Errorf("node %d: %s", i+1, d)
		}
		if got := values(t, s, "cpu"); !slices.Equal(got, []float64{1, 2, 3}) {
			t.Errorf("node %d has %v", i+1, got)
		}
	}
	if points[1].String() != "cpu,host=a time=5,v=2 2000" {
		t.Errorf("the caller's point became %v", points[1])
	}

	// Also out of hinted handoff, and from a node of an older version.
	reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, lines))
	if err != nil {
		t.Fatal(err)
	}
	other := mustStore(t)
	if _, err := serverOf(t, other).WriteShard(t.Context(), &rpc.WriteShardRequest{
		ShardId: shardID, Database: db, RetentionPolicy: policy, Points: reqs[0].Points,
	}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, keys(other)); d != "" {
		t.Error(d)
	}
}

func BenchmarkWithoutTime(b *testing.B) {
	points := mustPoints(b,
		strings.Repeat("cpu,host=a,region=eu usage_user=12.5,usage_system=3.25,usage_idle=84.25 1000\n", 5000))
	b.ReportAllocs()
	for range b.N {
		if _, reason, err := withoutTime(points); err != nil || reason != "" {
			b.Fatal(reason, err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(points))/b.Elapsed().Seconds(), "points/s")
}
