package distquery

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/enginetest"
	"concord/internal/rpc"
)

// hashing is a node of a former build, which has no sketches.
type hashing struct{ *Server }

func (hashing) SeriesSketch(ctx context.Context, r *rpc.SchemaRequest) (*rpc.SeriesSketchResponse, error) {
	return rpc.UnimplementedQueryServer{}.SeriesSketch(ctx, r)
}

func TestCardinalityFollowsNewAndDeletedSeries(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
		if id == 2 {
			return hashing{s}
		}
		return s
	}})
	write := func(from, to int) {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "cpu,host=h%d v=1 %d\n", i, int64(i%groups)*day)
		}
		c.write(t, b.String())
	}
	const text = "SHOW SERIES CARDINALITY"
	same := func() {
		t.Helper()
		want := c.plain.run(t, text, query.ExecutionOptions{})
		for _, n := range c.nodes {
			if got := n.run(t, text, query.ExecutionOptions{}); got != want {
				t.Errorf("node %d answers %swant %s", n.id, got, want)
			}
		}
	}
	write(0, 100)
	same()
	write(50, 300)
	same()
	for _, s := range c.stores() {
		m := []influxql.Source{&influxql.Measurement{Name: "cpu"}}
		if err := s.DeleteSeries(db, m, influxql.MustParseExpr("host =~ /h1.*/")); err != nil {
			t.Fatal(err)
		}
	}
	same()
	write(100, 120)
	same()
}

func TestSketchesOfManySeriesAreNearlyRight(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	const n = 60_000
	store := enginetest.Store(t, tsdb.TSI1IndexName)
	if err := store.CreateShard(db, policy, 1, true); err != nil {
		t.Fatal(err)
	}
	for from := 0; from < n; from += 10_000 {
		var b strings.Builder
		for i := from; i < from+10_000; i++ {
			fmt.Fprintf(&b, "cpu,host=h%d v=1 1\n", i)
		}
		points, err := models.ParsePointsString(b.String())
		if err != nil {
			t.Fatal(err)
		}
		enginetest.WritePoints(t, store, 1, points...)
	}
	var s Sketches
	exact, hashes, counts, err := s.of(t.Context(), store, []uint64{1})
	if err != nil || exact != n || len(hashes) > 0 {
		t.Fatal(exact, len(hashes), err)
	}
	if got := float64(counts.Count()); math.Abs(got-n) > 0.01*n {
		t.Errorf("%d series are estimated as %v", n, got)
	}
	b, err := counts.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if read, err := readSketch(b); err != nil || read.Count() != counts.Count() {
		t.Errorf("%d bytes are read as %v, %v", len(b), read, err)
	}
	for _, bad := range [][]byte{{}, {1}, b[:len(b)/2], make([]byte, maxSketchSize+1)} {
		if _, err := readSketch(bad); err == nil {
			t.Errorf("%d bytes are a sketch", len(bad))
		}
	}
}

// FuzzReadSketch: whatever another node sends is a sketch or an error.
func FuzzReadSketch(f *testing.F) {
	f.Add([]byte{2, 16, 1, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { readSketch(b) })
}
