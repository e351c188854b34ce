package deletes

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
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
			h := &heldNode{gate: g, entered: make(chan struct{}, 1), let: make(chan struct{}), lose: lose}
			c.meta.SetAddr(1, mustServe(t, h))
			w, hh := c.withHandoff(t, 30*time.Second)
			g.away.Store(true)
			if err := w.WritePoints(db, policy, anyLevel, nil, mustPoints(t, "m v=1 1")); err != nil {
				t.Fatal(err)
			}
			await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
			g.away.Store(false)
			hh.Heard(2)
			<-h.entered
			if err := w.deletes.DeleteMeasurement(db, "m"); err != nil {
				t.Fatal(err)
			}
			c.meta.Add(cluster.Node{ID: 3})
			third := mustOpen(t, newNode(newDeps(t, c.meta, c.stores[0], c.pool, 3), nil)) // as on another node
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
