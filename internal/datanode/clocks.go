package datanode

import (
	"context"
	"sync"
	"time"

	"concord/internal/clocks"
	"concord/internal/rpc"
)

// clockEvery is how often a node compares its clock with those of the other data nodes.
const clockEvery = 10 * time.Second

// now is this node's clock, as it tells others.
func (n *Node) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}

// watchClocks compares this node's clock with the others' until it is stopped.
func (n *Node) watchClocks(pool *rpc.Pool) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.keepComparing(ctx, pool) }()
	return func() error { cancel(); <-done; return nil }
}

func (n *Node) keepComparing(ctx context.Context, pool *rpc.Pool) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for members := 0; ; {
		changed := n.Meta.Changed()
		if now := len(n.Meta.DataNodes()); now != members { // a new one is compared at once
			members = now
			n.compareClocks(ctx, pool)
		}
		select {
		case <-changed:
			continue
		case <-tick.C:
			n.compareClocks(ctx, pool)
		case <-ctx.Done():
			return
		}
	}
}

// compareClocks asks all other data nodes at the same time. Who does not answer is left out.
func (n *Node) compareClocks(ctx context.Context, pool *rpc.Pool) {
	ctx, cancel := context.WithTimeout(ctx, clockEvery/2)
	defer cancel()
	var wg sync.WaitGroup
	for _, other := range n.Meta.State().DataNodes {
		if other.ID == n.Meta.NodeID() {
			continue
		}
		wg.Go(func() {
			conn, err := pool.Conn(other.TCPAddr)
			if err != nil {
				return
			}
			sent := time.Now()
			who, err := rpc.NewMembershipClient(conn).Identify(ctx, &rpc.IdentifyRequest{})
			if err != nil {
				return
			}
			skew, ok := clocks.Measure(sent, who.Clock)
			skew.By -= time.Until(n.now()) // of the clock that this node tells
			if ok {
				n.clocks.Observe(other.TCPAddr, skew)
			}
		})
	}
	wg.Wait()
}
