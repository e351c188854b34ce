package replication

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

// heldNode holds a write out of hinted handoff up on its way.
type heldNode struct {
	*gate
	entered, let chan struct{}
	lose         bool // the write is answered with an error, and arrives all the same, later
	late         sync.WaitGroup
}

func (h *heldNode) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if h.away.Load() || !r.Hinted {
		return h.gate.WriteShard(ctx, r)
	}
	select {
	case h.entered <- struct{}{}:
	default:
		return h.gate.WriteShard(ctx, r)
	}
	if h.lose {
		h.late.Go(func() {
			<-h.let
			h.gate.WriteShard(context.Background(), r)
		})
		return nil, status.Error(codes.Unavailable, "connection reset")
	}
	<-h.let
	return h.gate.WriteShard(context.Background(), r)
}

// A delete that comes while a write is on its way out of hinted handoff removes its points, whether the
// write is answered late, or not at all; and it takes no point of a later write.
func TestDeleteMeetsWriteOutOfHandoff(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]bool{"late": false, "not answered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, g := newGatedCluster(t)
			other := NewWriter(c.meta, c.stores[1], noSubscriber{}, c.pool)
			if err := other.Open(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
			g.Server = NewServer(c.stores[1], other, zap.NewNop())
			h := &heldNode{gate: g, entered: make(chan struct{}, 1), let: make(chan struct{}), lose: lose}
			c.meta.nodes[1].TCPAddr = mustServe(t, h)
			w, hh := c.withHandoff(t, 5*time.Second)
			g.away.Store(true)
			if err := w.WritePoints(db, policy, anyLevel, nil, mustPoints(t, "m v=1 1")); err != nil {
				t.Fatal(err)
			}
			await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
			g.away.Store(false)
			hh.Heard(2)
			<-h.entered
			if err := NewDeletes(c.meta, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m"); err != nil {
				t.Fatal(err)
			}
			third := NewWriter(c.meta, c.stores[0], noSubscriber{}, c.pool) // as on another node
			if err := third.Open(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { third.Close() })
			if err := third.WritePoints(db, policy, all, nil, mustPoints(t, "m v=2 2")); err != nil {
				t.Fatal(err)
			}
			close(h.let)
			await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
			h.late.Wait()
			if got := values(t, c.stores[1], "m"); !slices.Equal(got, []float64{2}) {
				t.Errorf("the node has %v, want the later write alone", got)
			}
		})
	}
}

// A delete that comes after the deletes behind a hinted write were looked up, and before that is sent.
func TestDeleteMeetsWriteThatLeavesHandoff(t *testing.T) {
	t.Parallel()
	for _, node := range []uint64{1, 2} {
		c, g := newGatedCluster(t)
		other := NewWriter(c.meta, c.stores[1], noSubscriber{}, c.pool)
		if err := other.Open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		g.Server = NewServer(c.stores[1], other, zap.NewNop())
		c.meta.nodes[1].TCPAddr = mustServe(t, g)
		w, _ := c.withHandoff(t, 5*time.Second)
		reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, "m v=1 1"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := proto.Marshal(reqs[0])
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.Deliver(t.Context(), node, shardID, []handoff.Entry{{Kind: handoff.Write, Points: 1, Data: b}}, func() []handoff.Entry {
			if err := NewDeletes(c.meta, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m"); err != nil {
				t.Error(err)
			}
			return nil
		})
		if n != 0 || err == nil {
			t.Errorf("node %d: %d entries are delivered, %v", node, n, err)
		}
		if n := count(t, c.stores[node-1], "m"); n > 0 {
			t.Errorf("node %d has %d deleted points", node, n)
		}
	}
}

// A barrier voids what comes late, of its sender and database alone, and waits for what runs.
func TestBarrierIsBetweenBeforeAndAfter(t *testing.T) {
	t.Parallel()
	var f fences
	ctx := t.Context()
	release, ok := f.pass(ctx, 1, shardID, 5, false, db)
	if !ok {
		t.Fatal("a write did not pass")
	}
	up := make(chan struct{})
	go func() {
		f.bar(db, []*rpc.Barrier{{Sender: 1, Sequence: 10}})
		close(up)
	}()
	await(t, "the barrier stands", func() bool { return f.barred(1, 9, db) })
	select {
	case <-up:
		t.Error("a write that runs was not waited for")
	default:
	}
	release()
	<-up
	for _, m := range []struct {
		sender, sequence uint64
		db               string
		want             bool
	}{{1, 9, db, false}, {1, 10, db, true}, {1, 9, "other", true}, {2, 1, db, true}} {
		release, ok := f.pass(ctx, m.sender, shardID+1, m.sequence, false, m.db)
		if ok != m.want {
			t.Errorf("%+v passed: %v", m, ok)
		}
		if ok {
			release()
		}
	}
}
