package client

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// The pause after a meta node that failed grows from the first to the second.
const (
	minPause = 50 * time.Millisecond
	maxPause = time.Second
)

// follower keeps the copy up to date by long poll, in a goroutine while this node is in a cluster. A meta node that
// fails is left for the next one, with a growing pause. One line is logged when the meta nodes are lost, and one when
// they are back.
type follower struct {
	copied *stateCopy
	nodes  *metaNodes
	late   func(context.Context) // holds up what was polled
	log    *zap.Logger

	cancel context.CancelFunc // nil while it does not run
	ended  chan struct{}      // closed when the goroutine has ended
}

// start starts to follow, if this node is in a cluster. One of start and stop may run at a time.
func (f *follower) start() {
	if f.copied.member.NodeID() == 0 || f.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.ended = cancel, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		f.run(ctx)
	}(f.ended)
}

// stop stops following and waits for it.
func (f *follower) stop() {
	if f.cancel == nil {
		return
	}
	f.cancel()
	<-f.ended
	f.cancel = nil
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	pause, lost := minPause, false
	for ctx.Err() == nil {
		who := f.copied.member.who.Load()
		server := f.nodes.order(who.MetaServers)[0]
		err := f.poll(ctx, server, who.ClusterID)
		if err == nil {
			if lost {
				f.log.Info("Following the metadata again", zap.String("meta", server))
			}
			pause, lost = minPause, false
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !lost {
			f.log.Warn("Cannot follow the metadata: serving the copy", zap.String("meta", server), zap.Error(err))
		}
		lost = true
		f.nodes.pass(who.MetaServers, server)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
}

// poll asks server once for a newer state, and takes it over.
func (f *follower) poll(ctx context.Context, server string, clusterID uint64) error {
	b, err := f.nodes.state(ctx, server, f.copied.State().Index)
	if err != nil || b == nil {
		return err
	}
	f.late(ctx)
	return f.copied.take(b, clusterID)
}
