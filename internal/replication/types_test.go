package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/enginetest"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// writerAt is a writer of another node of a test cluster.
func (c *testCluster) writerAt(t testing.TB, node uint64) *Writer {
	t.Helper()
	return mustOpen(t, c.newWriter(t, node))
}

// mustWrite writes points to one store alone.
func mustWrite(t testing.TB, s *tsdb.Store, lines string) {
	t.Helper()
	if err := s.CreateShard(db, policy, shardID, true); err != nil {
		t.Fatal(err)
	}
	enginetest.Write(t, s, shardID, lines)
}

// typesIn are the types of the fields of a measurement in a store.
func typesIn(s *tsdb.Store, measurement string) map[string]influxql.DataType {
	sh := s.Shard(shardID)
	if sh == nil {
		return nil
	}
	if e, err := sh.Engine(); err != nil || e.MeasurementFieldSet().FieldsByString(measurement) == nil {
		return nil
	}
	return sh.MeasurementFields([]byte(measurement)).FieldSet()
}

// Of two nodes that write a new field with different types at the same time, one gets a partial write, and all owners
// have the type of the other.
func TestTypesOfNewFieldsAreDecidedInOnePlace(t *testing.T) {
	t.Parallel()
	for name, level := range map[string]models.ConsistencyLevel{"one": one, "quorum": quorum, "all": all} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok", "ok", "ok")
			a, b := c.writerAt(t, 1), c.writerAt(t, 2)
			for i := range 40 {
				field := fmt.Sprintf("f%d", i)
				results := make(chan error, 2)
				go func() { results <- a.WritePoints(db, policy, level, nil, mustPoints(t, "m "+field+"=1.5 1")) }()
				go func() { results <- b.WritePoints(db, policy, level, nil, mustPoints(t, "m "+field+"=1i 2")) }()
				refused := 0
				for range 2 {
					var p tsdb.PartialWriteError
					conflict := `field type conflict: input field "` + field + `"`
					if err := <-results; errors.As(err, &p) && strings.Contains(err.Error(), conflict) && p.Dropped == 1 {
						refused++
					} else if err != nil {
						t.Fatal(err)
					}
				}
				if refused != 1 {
					t.Fatalf("%s: %d writes were refused, want 1", field, refused)
				}
			}
			a.Close() // which waits for the writes that go on
			b.Close()
			want := typesIn(c.stores[0], "m")
			for node, s := range c.stores[1:] {
				if diff := cmp.Diff(want, typesIn(s, "m")); diff != "" {
					t.Errorf("node %d has other types than node 1: %s", node+2, diff)
				}
			}
			if len(want) != 40 {
				t.Errorf("%d fields", len(want))
			}
		})
	}
}

// Of the points of a batch, the other owners get those that the owner which decides took.
func TestOwnersGetWhatTheFirstOneTook(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok", "ok")
	c.meta.Owners = []uint64{2, 1, 3}
	mustWrite(t, c.stores[1], "m f=1i 1")
	w := c.writer(t)
	points := mustPoints(t, "m f=1.5,v=1 1\nm v=2 2\nm v=3,v=true 3\nn f=1.5 4\nm f=2i,v=4 5")
	err := w.WritePoints(db, policy, all, nil, points)
	var p tsdb.PartialWriteError
	if !errors.As(err, &p) || p.Dropped != 2 {
		t.Fatal(err)
	}
	for node, s := range c.stores {
		got := fmt.Sprint(values(t, s, "m"), typesIn(s, "n"))
		if want := "[2 4] map[f:float]"; got != want {
			t.Errorf("node %d: %s, want %s", node+1, got, want)
		}
		if typ := typesIn(s, "m")["f"]; typ != influxql.Integer {
			t.Errorf("node %d: f is %s", node+1, typ)
		}
	}
}

// An owner that has newer values of some points gets the others later. It does not get those that the owner which
// decided refused.
func TestOwnerThatIsBehindGetsWhatTheFirstOneTook(t *testing.T) {
	t.Parallel()
	for name, coordinator := range map[string]uint64{"this node": 1, "another node": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok", "ok", "ok")
			c.meta.Owners = []uint64{2, 1}
			mustWrite(t, c.stores[1], "m f=1i 1")
			first, w := c.writerAt(t, 1), c.writerAt(t, coordinator)
			if coordinator == 1 {
				w = first
			}
			c.meta.Nodes[0].TCPAddr = mustServe(t, NewServer(c.stores[0], first, zap.NewNop()))
			newer := first.Order.Clock.Next() + 1<<40 // its clock does not know
			_, write, err := first.Order.Journal.Begin(shardID, newer, mustPoints(t, "m v=0 2"), true)
			if err != nil {
				t.Fatal(err)
			}
			write.Done()
			err = w.WritePoints(db, policy, one, nil, mustPoints(t, "m f=1.5 1\nm v=2 2\nm v=3 3"))
			if !errors.As(err, new(tsdb.PartialWriteError)) {
				t.Fatal(err)
			}
			w.Close() // waits for what goes on
			if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[3]" {
				t.Errorf("the owner that was behind has %s, want [3]", got)
			}
			if typ := typesIn(c.stores[0], "m")["f"]; typ != influxql.Unknown {
				t.Errorf("the owner that was behind has a field of type %s, which the first one refused", typ)
			}
		})
	}
}

// notWhole is a node whose copies may all lack something.
type notWhole struct{ replicationtest.NoCopies }

func (notWhole) NotWhole(context.Context, uint64) bool { return true }

// An owner that may lack fields decides only when no other one can.
func TestOwnersThatAreNotWholeDoNotDecide(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		notWhole []uint64
		refused  bool // for the type at node 3
		first    influxql.DataType
	}{
		{"the first one", []uint64{2}, true, influxql.Unknown},
		{"all", []uint64{1, 2, 3}, false, influxql.Float},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok", "ok", "ok")
			c.meta.Owners = []uint64{2, 3, 1}
			w := c.writer(t)
			for _, node := range tt.notWhole {
				other := w
				if node != 1 {
					other = c.writerAt(t, node)
					c.meta.Nodes[node-1].TCPAddr = mustServe(t, NewServer(c.stores[node-1], other, zap.NewNop()))
				}
				other.Copies = notWhole{}
			}
			mustWrite(t, c.stores[2], "m f=1i 1")
			err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m f=1.5 1"))
			w.Close()
			if errors.As(err, new(tsdb.PartialWriteError)) != tt.refused {
				t.Error(err)
			}
			if typ := typesIn(c.stores[1], "m")["f"]; typ != tt.first {
				t.Errorf("node 2 has the type %s, want %s", typ, tt.first)
			}
		})
	}
}

func TestTypesAreForgottenWithDeletes(t *testing.T) {
	t.Parallel()
	var types fieldTypes
	unknown := func(shard, deletes uint64, points []models.Point) map[fieldKey]influxql.DataType {
		out, hasTime := types.unknown(shard, deletes, points)
		if hasTime {
			t.Error("it is said to have a field called time")
		}
		return out
	}
	points := mustPoints(t, "m f=1.5,g=1i 1\nm f=2.5 2\nn f=true 3")
	all := map[fieldKey]influxql.DataType{
		{"m", "f"}: influxql.Float, {"m", "g"}: influxql.Integer, {"n", "f"}: influxql.Boolean,
	}
	if diff := cmp.Diff(all, unknown(1, 5, points), cmp.AllowUnexported(fieldKey{})); diff != "" {
		t.Error(diff)
	}
	types.learn(1, 5, all)
	if got := unknown(1, 5, points); got != nil {
		t.Errorf("unknown: %v", got)
	}
	if got := unknown(1, 5, mustPoints(t, "m f=1i,g=2i 1")); len(got) != 1 || got[fieldKey{"m", "f"}] != influxql.Integer {
		t.Errorf("another type: %v", got)
	}
	if got := unknown(2, 5, points); len(got) != 3 {
		t.Errorf("another shard: %v", got)
	}
	if got := unknown(1, 6, points); len(got) != 3 {
		t.Errorf("after a delete: %v", got)
	}
	types.learn(1, 6, map[fieldKey]influxql.DataType{{"m", "f"}: influxql.Float})
	if got := unknown(1, 6, points); len(got) != 2 || types.n != 1 {
		t.Errorf("learnt again: %v, %d", got, types.n)
	}
	types.learn(1, 6, all)
	if got, hasTime := types.unknown(1, 6, mustPoints(t, "m f=1.5,time=5 1")); got != nil || !hasTime {
		t.Errorf("a field called time: %v, %v", got, hasTime)
	}
}

func TestRememberedTypesAreBounded(t *testing.T) {
	t.Parallel()
	var types fieldTypes
	const shards, fields = 5, maxTypes / 4
	for shard := range uint64(shards) {
		learnt := make(map[fieldKey]influxql.DataType, fields)
		for i := range fields {
			learnt[fieldKey{"m", fmt.Sprint(i)}] = influxql.Float
		}
		types.learn(shard, 0, learnt)
	}
	n := 0
	for _, s := range types.shards {
		for _, m := range s.measurements {
			n += len(m)
		}
	}
	if n != types.n || n > maxTypes || n < fields {
		t.Errorf("%d fields are remembered, and %d counted", n, types.n)
	}
}

// BenchmarkKnownTypes is what the look at types costs a batch of 5,000 points whose fields are known.
func BenchmarkKnownTypes(b *testing.B) {
	for _, fields := range []int{1, 10} {
		b.Run(fmt.Sprintf("fields=%d", fields), func(b *testing.B) {
			var lines strings.Builder
			for i := range 5000 {
				fmt.Fprintf(&lines, "cpu,host=h%d ", i%100)
				for f := range fields {
					if f > 0 {
						lines.WriteByte(',')
					}
					fmt.Fprintf(&lines, "field%d=%d.5", f, i)
				}
				fmt.Fprintf(&lines, " %d\n", i+1)
			}
			points := mustPoints(b, lines.String())
			var types fieldTypes
			fields, _ := types.unknown(1, 0, points)
			types.learn(1, 0, fields)
			b.ReportAllocs()
			for b.Loop() {
				if fields, _ := types.unknown(1, 0, points); fields != nil {
					b.Fatal("unknown")
				}
			}
		})
	}
}

// behindOnce is a node that has something newer than a write, and takes the rest of it when it may.
type behindOnce struct {
	rpc.UnimplementedReplicationServer
}

func (behindOnce) WriteShard(_ context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	return &rpc.WriteShardResponse{Behind: !r.Yields}, nil
}

// At level any, a write is acknowledged when hinted handoff keeps it for the first owner. When the owner that decides
// on the types of its fields has something newer, the others get the write as it is.
func TestOwnersGetAnAcknowledgedWriteWhenTheOneThatDecidesIsNewer(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down", "ok")
	c.meta.Nodes[2].TCPAddr = mustServe(t, behindOnce{})
	c.meta.Owners = []uint64{2, 3, 4}
	w, _ := c.withHandoff(t, 30*time.Second)
	if err := w.WritePoints(db, policy, models.ConsistencyLevelAny, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[3], "m")); got != "[1]" {
		t.Errorf("the third owner has %s", got)
	}
}
