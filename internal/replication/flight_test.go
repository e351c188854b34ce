package replication

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// heldNode holds writes out of hinted handoff up on their way, and tells when a delete runs.
type heldNode struct {
	*gate
	entered, let, announced, ran chan struct{}
	lose                         bool // the write is answered with an error, and arrives all the same, later
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
		go func() {
			<-h.let
			h.gate.WriteShard(context.Background(), r)
		}()
		return nil, status.Error(codes.Unavailable, "connection reset")
	}
	<-h.let
	return h.gate.WriteShard(context.Background(), r)
}

func (h *heldNode) Execute(ctx context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	resp, err := h.gate.Execute(ctx, r)
	to := h.ran
	if r.AnnounceOnly {
		to = h.announced
	}
	select {
	case to <- struct{}{}:
	default:
	}
	return resp, err
}

// A delete that comes while a write is on its way out of hinted handoff removes its points, whether the
// write is answered late, or not at all.
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
			h := &heldNode{gate: g, entered: make(chan struct{}, 1), let: make(chan struct{}), announced: make(chan struct{}, 1), ran: make(chan struct{}, 1), lose: lose}
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
			if lose {
				await(t, "the write failed", func() bool { return w.unsure.has(lane{2, shardID}) })
			}
			done := make(chan error, 1)
			go func() { done <- NewDeletes(c.meta, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m") }()
			<-h.announced
			if !lose {
				select {
				case <-h.ran:
					t.Error("the delete ran while a write from before it was on its way")
				case <-time.After(100 * time.Millisecond):
				}
				close(h.let)
			} else if err := <-done; err != nil {
				t.Fatal(err)
			} else {
				close(h.let)
				done <- nil
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
			if n := count(t, c.stores[1], "m"); n != 0 && n != -1 {
				t.Errorf("%d deleted points are there", n)
			}
		})
	}
}
