package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// nothing removes no point of a write.
func nothing(uint64) (func(models.Point) bool, error) { return nil, nil }

// deliver sends writes; deletes stay where they are.
func (w *Writer) deliver(ctx context.Context, node, _ uint64, entries, _ []handoff.Entry) (int, error) {
	if entries[0].Kind == handoff.Delete {
		return 0, errors.New("deletes are another package's")
	}
	return w.DeliverWrites(ctx, node, entries, nothing)
}

// withHandoff gives a cluster's first node a writer with hinted handoff.
func (c *testCluster) withHandoff(t testing.TB, timeout time.Duration) (*Writer, *handoff.Service) {
	t.Helper()
	deps := newDeps(t, c.meta, c.stores[0], c.pool, 1)
	deps.WriteTimeout = timeout
	cfg := handoff.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(5*time.Millisecond), itoml.Duration(20*time.Millisecond)
	hh := handoff.New(cfg, handoff.Deps{
		Due: func(uint64, uint64) (bool, bool) { return true, true }, Dropped: func(uint64, uint64) {},
	})
	deps.Handoff, deps.MaxPending = hh, cfg.MaxWritesPending
	w := NewWriter(deps)
	if err := hh.Open(w.deliver); err != nil {
		t.Fatal(err)
	}
	w.Open()
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

func (g *gate) WriteBatch(ctx context.Context, r *rpc.WriteBatchRequest) (*rpc.WriteShardResponse, error) {
	if g.away.Load() {
		return nil, status.Error(codes.Unavailable, "error while dialing: away")
	}
	if g.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.Server.WriteBatch(ctx, r)
}

// newGatedCluster has this node and a second one behind a gate.
func newGatedCluster(t *testing.T) (*testCluster, *gate) {
	t.Helper()
	c := newTestCluster(t, "ok", "down")
	s := mustStore(t)
	c.stores[1] = s
	g := &gate{Server: NewServer(s, mustOpen(t, c.newWriter(t, 2)), zap.NewNop())}
	c.meta.Nodes[1].TCPAddr = mustServe(t, g)
	return c, g
}

// missedCopies are told what copies miss.
type missedCopies struct {
	replicationtest.NoCopies
	missed func(node, shard uint64, kept bool)
}

func (c missedCopies) Missed(node, shard uint64, kept bool) { c.missed(node, shard, kept) }

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
				c.meta.Owners = []uint64{2}
			}
			w, hh := c.withHandoff(t, 30*time.Second)
			var missed atomic.Bool
			w.Copies = missedCopies{missed: func(node, shard uint64, kept bool) {
				if node != 2 || shard != shardID || !kept {
					t.Errorf("node %d misses a write of shard %d, kept %v", node, shard, kept)
				}
				missed.Store(true)
			}}
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
		// On a busy machine this node may need longer than the timeout. It ends the write nevertheless.
		err := w.WritePoints(db, policy, one, nil, mustPoints(t, fmt.Sprintf("m v=%d 1", i)))
		if err != nil && !errors.Is(err, coordinator.ErrTimeout) {
			t.Fatal(err)
		}
	}
	g.away.Store(false)
	g.hang.Store(false)
	await(t, "the last write succeeds", func() bool {
		return w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=119 1")) == nil
	})
	w.Close() // waits for what is under way
	await(t, "all is delivered", func() bool { return len(hh.Waiting()) == 0 })
	for i, s := range c.stores {
		if got := values(t, s, "m"); !slices.Equal(got, []float64{119}) {
			t.Errorf("node %d has %v, want the last value", i+1, got)
		}
	}
}

func TestPartialWritesAreNotQueued(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 30*time.Second)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, `m v="text" 2`)); err == nil || hh.Pending(2, shardID) {
		t.Errorf("type conflict: %v, pending %v", err, hh.Pending(2, shardID))
	}
	// Only seen when it is delivered: it must not block what is behind it.
	g.away.Store(true)
	c.meta.Owners = []uint64{2}
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

// What is queued for a node that is not known at the moment is kept.
func TestHintForAnUnknownNodeIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	w := c.writer(t)
	reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(reqs[0])
	if err != nil {
		t.Fatal(err)
	}
	c.meta.Lost = true
	var never *handoff.PermanentError
	entries := []handoff.Entry{{Kind: handoff.Write, Points: 1, Data: b}}
	if n, err := w.DeliverWrites(t.Context(), 2, entries, nothing); n != 0 || err == nil || errors.As(err, &never) {
		t.Errorf("%d sent, %v", n, err)
	}
}

// interrupted is a node that takes a part of the first message of a write, and then fails.
type interrupted struct {
	rpc.UnimplementedReplicationServer
	messages *atomic.Int64
}

func (i interrupted) WriteShard(context.Context, *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if i.messages.Add(1) == 1 {
		return &rpc.WriteShardResponse{Partial: true, Dropped: 1, Error: "max-values-per-tag limit exceeded"}, nil
	}
	return nil, status.Error(codes.Unavailable, "the node ends")
}

// What an owner refused of the first message of a write is not in hinted handoff, which has the rest.
func TestOwnerLacksWhatItRefusedBeforeTheRestIsKept(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	c.meta.Nodes[1].TCPAddr = mustServe(t, interrupted{messages: new(atomic.Int64)})
	w, _ := c.withHandoff(t, 30*time.Second)
	d := w.lanes.begin([]uint64{2}, shardID, 1, w.WriteTimeout)[0]
	defer w.lanes.finish(d)
	var messages []*rpc.WriteShardRequest
	for _, line := range []string{"m v=1 1", "m v=2 2"} {
		some, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, line))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, some...)
	}
	if r := w.writeRemote(d, messages, sending{}); !r.hinted {
		t.Errorf("the rest is not kept: %+v", r)
	}
	want := []lacks{{d.lane, false}, {d.lane, true}}
	if got := d.verdict.pass(nil); !slices.Equal(got, want) {
		t.Errorf("copies lack %v, want %v", got, want)
	}
}
