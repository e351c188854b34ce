package replication

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

// withHandoff gives a cluster's first node a writer with hinted handoff.
func (c *testCluster) withHandoff(t testing.TB, timeout time.Duration) (*Writer, *handoff.Service) {
	t.Helper()
	w := c.newWriter(t, 1)
	w.WriteTimeout = timeout
	cfg := handoff.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(5*time.Millisecond), itoml.Duration(20*time.Millisecond)
	hh := handoff.New(cfg, handoff.Deps{
		Deliver: w.Deliver, Due: func(uint64, uint64) (bool, bool) { return true, true }, Dropped: func(uint64, uint64) {},
	})
	w.Handoff, w.MaxPending = hh, cfg.MaxWritesPending
	if err := hh.Open(); err != nil {
		t.Fatal(err)
	}
	if err := w.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(); hh.Close() })
	return w, hh
}

// gate is a node that can be away, or hang, and counts.
type gate struct {
	*Server
	away, hang atomic.Bool
}

func (g *gate) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if g.away.Load() {
		return nil, status.Error(codes.Unavailable, "error while dialing: away")
	}
	if g.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.Server.WriteShard(ctx, r)
}

func (g *gate) Execute(ctx context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	if g.away.Load() {
		return nil, status.Error(codes.Unavailable, "error while dialing: away")
	}
	return g.Server.Execute(ctx, r)
}

// newGatedCluster has this node and a second one behind a gate.
func newGatedCluster(t *testing.T) (*testCluster, *gate) {
	t.Helper()
	c := newTestCluster(t, "ok", "down")
	s := mustStore(t)
	c.stores[1] = s
	g := &gate{Server: NewServer(s, mustOpen(t, c.newWriter(t, 2)), zap.NewNop())}
	c.meta.nodes[1].TCPAddr = mustServe(t, g)
	return c, g
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

// A copy misses a write that waits for it once the client is told that the write succeeded.
func TestLevelsWithHintedHandoff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		level models.ConsistencyLevel
		alone bool // this node is no owner: nobody can write
		want  string
	}{
		{models.ConsistencyLevelAny, false, ""},
		{one, false, ""},
		{quorum, false, "partial write"},
		{all, false, "partial write"},
		{models.ConsistencyLevelAny, true, ""},
		{one, true, "write failed"},
	} {
		t.Run(fmt.Sprint(tt.level, tt.alone), func(t *testing.T) {
			c, g := newGatedCluster(t)
			if tt.alone {
				c.meta.owners = []uint64{2}
			}
			w, hh := c.withHandoff(t, 5*time.Second)
			var missed atomic.Bool
			w.Missed = func(node, shard uint64, kept bool) {
				if node != 2 || shard != shardID || !kept {
					t.Errorf("node %d misses a write of shard %d, kept %v", node, shard, kept)
				}
				missed.Store(true)
			}
			g.away.Store(true)
			err := w.WritePoints(db, policy, tt.level, nil, mustPoints(t, "m v=1 1"))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
			g.away.Store(false)
			await(t, "the write arrived", func() bool { return count(t, c.stores[1], "m") == 1 })
			w.Close() // waits for what is under way
			if missed.Load() != (tt.want == "") {
				t.Errorf("the write counts as missed: %v", missed.Load())
			}
		})
	}
}

// A writer overwrites one point again and again; whatever fails, the last value stays.
func TestOverwritesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 500*time.Millisecond)
	for i := range 120 {
		g.away.Store(i%7 == 3)
		g.hang.Store(i%11 == 5)
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, fmt.Sprintf("m v=%d 1", i))); err != nil {
			t.Fatal(err)
		}
	}
	g.away.Store(false)
	g.hang.Store(false)
	w.Close() // waits for what is under way
	await(t, "all is delivered", func() bool { return len(hh.Waiting()) == 0 })
	for i, s := range c.stores {
		if got := values(t, s, "m"); !slices.Equal(got, []float64{119}) {
			t.Errorf("node %d has %v, want the last value", i+1, got)
		}
	}
}

func TestDeleteGoesThroughTheQueueInOrder(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 5*time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
	write := func(lines string) {
		t.Helper()
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, lines)); err != nil {
			t.Fatal(err)
		}
	}
	write("cpu v=1 1000\ncpu v=1 2000\nmem v=1 1000\ngone v=1 1")
	await(t, "both have it", func() bool { return count(t, c.stores[1], "cpu") == 2 })
	g.away.Store(true)
	write("cpu v=2 3000") // queued before the delete
	for _, text := range []string{"DELETE FROM cpu WHERE time >= 2000"} {
		if err := deleteOf(text)(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DeleteMeasurement(db, "gone"); err != nil {
		t.Fatal(err)
	}
	write("cpu v=3 4000\ngone v=2 5") // after it
	w.Close()                         // waits for what is under way
	g.away.Store(false)
	await(t, "all is delivered", func() bool { return !hh.Pending(2, shardID) })
	for i, s := range c.stores {
		if got := values(t, s, "cpu"); !slices.Equal(got, []float64{1, 3}) {
			t.Errorf("node %d: cpu is %v", i+1, got)
		}
		if got := values(t, s, "gone"); !slices.Equal(got, []float64{2}) {
			t.Errorf("node %d: gone is %v", i+1, got)
		}
		if n := count(t, s, "mem"); n != 1 {
			t.Errorf("node %d: mem has %d points", i+1, n)
		}
	}
}

// A write that is under way to a slow owner when a delete comes must not bring back what that removes.
func TestWriteUnderWayDoesNotOutliveADelete(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
	g.hang.Store(true)
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	g.hang.Store(false)
	w.Close()
	await(t, "all is delivered", func() bool { return len(hh.Waiting()) == 0 })
	if n := count(t, c.stores[1], "m"); n > 0 {
		t.Errorf("%d points are back", n)
	}
}

func TestPartialWritesAreNotQueued(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 5*time.Second)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, `m v="text" 2`)); err == nil || hh.Pending(2, shardID) {
		t.Errorf("type conflict: %v, pending %v", err, hh.Pending(2, shardID))
	}
	// Only seen when it is delivered: it must not block what is behind it.
	g.away.Store(true)
	c.meta.owners = []uint64{2}
	for _, line := range []string{`m v="text" 2`, `m v=2 3`} {
		if err := w.WritePoints(db, policy, models.ConsistencyLevelAny, nil, mustPoints(t, line)); err != nil {
			t.Fatal(err)
		}
	}
	g.away.Store(false)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if got := values(t, c.stores[1], "m"); !slices.Equal(got, []float64{1, 2}) {
		t.Errorf("got %v", got)
	}
}

func TestCoveringIsWhatTheEngineDeletes(t *testing.T) {
	t.Parallel()
	lines := []string{
		"cpu v=1 1000", "cpu,host=a v=1 1000", "cpu,host=b,dc=x v=1 2000", "mem,host=a v=1 1000", "mem v=1 3000",
		`odd\ name,ta\ g=it\ is v=1 1500`,
	}
	for _, text := range []string{
		"DELETE FROM cpu", "DELETE FROM cpu WHERE host = 'a'", "DELETE FROM cpu WHERE host != 'a'", "DELETE WHERE host = ''",
		"DELETE WHERE host =~ /a|b/ AND dc = 'x'", "DELETE WHERE host !~ /a/ OR dc = 'x'", "DELETE FROM /c.*/ WHERE time > 1000",
		"DELETE WHERE time >= 1000 AND time < 2000", `DELETE FROM "odd name" WHERE "ta g" = 'it is'`, "DELETE FROM other.cpu",
		`DELETE FROM rp0./.*/ WHERE host = 'a' AND time = 1000`, "DELETE FROM cpu WHERE (host = 'a' OR host = 'b') AND time <= 1500",
	} {
		s := mustStore(t)
		if err := s.CreateShard(db, policy, shardID, true); err != nil {
			t.Fatal(err)
		}
		points := mustPoints(t, strings.Join(lines, "\n"))
		if err := s.WriteToShard(tsdb.WriteContext{}, shardID, points); err != nil {
			t.Fatal(err)
		}
		req := &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: text}
		c, err := newCovering(req, policy)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{}
		for _, p := range mustPoints(t, strings.Join(lines, "\n")) {
			if !c.covers(p) {
				want[string(p.Name())]++
			}
		}
		for _, bounded := range []bool{false, true} {
			if bounded { // the same within the shard's bounds
				req.Bounds = &rpc.DeleteBounds{RetentionPolicy: policy, Start: 0, End: 1e18}
				req.ShardId = shardID
			}
			if err := execute(s, req); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"cpu", "mem", "odd name"} {
				if got := max(count(t, s, name), 0); got != want[name] {
					t.Errorf("%s, bounded %v: %s has %d points, want %d", text, bounded, name, got, want[name])
				}
			}
		}
	}
}

func TestRanLogOutlivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deletes.db")
	l, err := OpenRanLog(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if l.Ran("a") {
		t.Error("ran before it was recorded")
	}
	if err := errors.Join(l.Record(&rpc.ExecuteRequest{Id: "a"}), l.Close()); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenRanLog(path, time.Hour); err != nil {
		t.Fatal(err)
	}
	if !l.Ran("a") || l.Ran("b") {
		t.Error("the record is lost, or there is one too many")
	}
	if err := l.purge(time.Now().Add(2 * time.Hour)); err != nil || l.Ran("a") {
		t.Errorf("kept for longer than asked: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestDeliverDropsWhatIsMalformed(t *testing.T) {
	t.Parallel()
	c, _ := newGatedCluster(t)
	w, _ := c.withHandoff(t, 5*time.Second)
	for _, e := range []handoff.Entry{
		{Kind: handoff.Write, Data: []byte("\xff\xff")},
		{Kind: handoff.Delete, Data: []byte("\xff\xff")},
		{Kind: handoff.Delete},
		{Kind: handoff.Write}, // no shard
	} {
		n, err := w.Deliver(context.Background(), 2, shardID, []handoff.Entry{e, e}, nil)
		var never *handoff.PermanentError
		if n != 0 || !errors.As(err, &never) {
			t.Errorf("%v: %d, %v", e, n, err)
		}
	}
}

func TestDeleteNeedsAMajorityThatHearsOfIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		states []string
		want   string
	}{
		{[]string{"ok", "ok", "down"}, ""},
		{[]string{"ok", "down", "down"}, "the delete reaches 1 of 3 data nodes, and needs more than half"},
		{[]string{"ok", "down"}, ""}, // or there were no deletes while the other is away
	} {
		c := newTestCluster(t, tt.states...)
		w, hh := c.withHandoff(t, 5*time.Second)
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
			t.Fatal(err)
		}
		err := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m")
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.states, err, tt.want)
		}
		if left := count(t, c.stores[0], "m"); (left == 1) != (tt.want != "") {
			t.Errorf("%v: %d points are left", tt.states, left)
		}
		for i, state := range tt.states {
			if kept := hh.Pending(uint64(i+1), 999); kept != (state == "down" && tt.want == "") {
				t.Errorf("%v: kept for node %d: %v", tt.states, i+1, kept)
			}
		}
	}
}

// A node that has not heard of a delete may send what is from before it: it gets the delete first.
func TestWritesOfANodeThatMissesADeleteWait(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	w, _ := c.withHandoff(t, 5*time.Second)
	s := NewServer(c.stores[0], w, zap.NewNop())
	if err := w.HintDelete(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Id: "x"}, []uint64{2}); err != nil {
		t.Fatal(err)
	}
	reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[uint64]codes.Code{2: codes.FailedPrecondition, 3: codes.OK} {
		reqs[0].SenderNode = node
		if _, err := s.WriteShard(context.Background(), reqs[0]); status.Code(err) != want {
			t.Errorf("a write of node %d: %v, want %v", node, err, want)
		}
	}
}

func TestDeletesSeenChangesWithEachDelete(t *testing.T) {
	t.Parallel()
	c, _ := newGatedCluster(t)
	w, _ := c.withHandoff(t, 5*time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
	seen := w.DeletesSeen(shardID)
	release, ok := w.HoldDeletes(shardID, seen)
	if !ok || seen == 0 {
		t.Fatal("no delete came, and one was seen")
	}
	done := make(chan error, 1)
	go func() { done <- d.DeleteMeasurement(db, "m") }()
	select {
	case err := <-done:
		t.Fatalf("a delete ran while it was held back: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, ok := w.HoldDeletes(shardID, seen); ok || w.DeletesSeen(shardID) == seen {
		t.Error("a delete was not seen")
	}
}

// A queue from before writes had versions has deletes among its writes, which take points out of those before them.
func TestDeletesInOldQueuesAreKept(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	w := c.writer(t)
	entry := func(kind handoff.Kind, points int, m proto.Message) handoff.Entry {
		t.Helper()
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return handoff.Entry{Kind: kind, Points: points, Data: b}
	}
	write := func(line string) handoff.Entry {
		t.Helper()
		reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, line))
		if err != nil {
			t.Fatal(err)
		}
		return entry(handoff.Write, 1, reqs[0])
	}
	drop := func(name string) handoff.Entry {
		t.Helper()
		return entry(handoff.Delete, 0, &rpc.ExecuteRequest{
			Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: name, ShardId: shardID,
			Bounds: &rpc.DeleteBounds{RetentionPolicy: policy, Start: 0, End: 1e18},
		})
	}
	entries := []handoff.Entry{
		write("m v=1 1"), write("gone v=1 1"), drop("gone"), write("gone v=2 2"), drop("other"), write("later v=1 1"),
	}
	n, err := w.Deliver(t.Context(), 2, shardID, entries, []handoff.Entry{drop("later")})
	if n != len(entries) || err != nil {
		t.Errorf("%d entries of %d are delivered: %v", n, len(entries), err)
	}
	for name, want := range map[string][]float64{"m": {1}, "gone": {2}} {
		if got := values(t, c.stores[1], name); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
	if n := count(t, c.stores[1], "later"); n > 0 {
		t.Errorf("%d points are there that a delete behind them removes", n)
	}
}
