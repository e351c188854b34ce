package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
)

const (
	pollUsually = 20 * time.Millisecond // in which the long poll has usually brought a change
	relyTimeout = 2 * time.Second       // to catch up with what another node relies on
	relyAgain   = 5 * time.Second       // after a failure to do so, in which nobody waits for it again
)

// catchUp makes the copy as new as somebody relies on. One node asks the meta nodes one such question at a time.
type catchUp struct {
	copied   *stateCopy
	nodes    *metaNodes
	fetching chan struct{} // holds one token while the meta nodes are asked for a state
	failed   failedCatchUp
	heard    atomic.Pointer[heardIndex] // nil before the first
}

// heardIndex is the greatest index that somebody relied on, and that the copy did not have then.
type heardIndex struct{ clusterID, index uint64 }

// CatchUp returns when this node's copy has what a node relies on that names index, or an error after two seconds.
// What cannot be had now is not waited for again at once. leader is the HTTP address of the meta node that has it, if
// known.
func (c *catchUp) CatchUp(ctx context.Context, index uint64, leader string) error {
	if leader != "" {
		c.nodes.prefer(leader)
	}
	if c.copied.State().Index >= index {
		return nil
	}
	if c.copied.member.NodeID() == 0 {
		return ErrNotJoined
	}
	c.hear(heardIndex{c.copied.member.ClusterID(), index})
	if err := c.failed.check(c.copied.State().Index); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, relyTimeout)
	defer cancel()
	err := c.fetchTo(limited, index)
	if err != nil {
		have := c.copied.State().Index
		err = fmt.Errorf("this node's metadata is behind: it has change %d, not %d: %w", have, index, err)
		if ctx.Err() == nil { // else it was not tried for long
			c.failed.note(have, err)
		}
	}
	return err
}

// hear notes what somebody relies on.
func (c *catchUp) hear(h heardIndex) {
	for {
		last := c.heard.Load()
		if last != nil && last.clusterID == h.clusterID && last.index >= h.index || c.heard.CompareAndSwap(last, &h) {
			return
		}
	}
}

// CatchUpWithOthers returns when this node's copy has all that other nodes have relied on in requests to it. The error
// says that it is behind, after two seconds: there may be shards and nodes that it does not know of.
func (c *catchUp) CatchUpWithOthers(ctx context.Context) error {
	heard := c.heard.Load()
	if heard == nil || heard.clusterID != c.copied.member.ClusterID() {
		return nil
	}
	return c.CatchUp(ctx, heard.index, "")
}

// failedCatchUp is the last catching up that failed. Until something newer is there, the next one would fail, too.
type failedCatchUp struct {
	mu   sync.Mutex
	have uint64 // index of the copy
	err  error
	at   time.Time
}

// check returns why it failed, while the copy has the same index.
func (f *failedCatchUp) check(have uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if have == f.have && time.Since(f.at) < relyAgain {
		return f.err
	}
	return nil
}

func (f *failedCatchUp) note(have uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have, f.err, f.at = have, err, time.Now()
}

// fetchTo returns when the copy has index. The long poll usually brings it; when that does not, whatever the reason,
// the meta nodes are asked.
func (c *catchUp) fetchTo(ctx context.Context, index uint64) error {
	has := func(s *cluster.State) bool { return s.Index >= index }
	brief, cancel := context.WithTimeout(ctx, pollUsually)
	err := c.copied.wait(brief, has)
	cancel()
	if err == nil {
		return nil
	}
	ctx, cancel = context.WithCancel(ctx)
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		c.copied.wait(ctx, has)
		cancel() // ends the question, which is not needed any more
	}()
	failed := c.ask(ctx, func(ctx context.Context, servers []string) ([]byte, error) {
		if has(c.copied.State()) {
			return nil, nil
		}
		return anyOf(ctx, c.nodes, servers, func(ctx context.Context, server string) ([]byte, error) {
			b, err := c.nodes.state(ctx, server, index-1)
			if err == nil && b == nil {
				err = errors.New("the meta node has nothing newer")
			}
			return b, err
		})
	})
	cancel()
	<-arrived
	switch {
	case has(c.copied.State()):
		return nil
	case failed == nil:
		return errors.New("this node left the cluster")
	}
	return failed
}

// ask takes over the state that fetch returns, if any.
func (c *catchUp) ask(ctx context.Context, fetch func(ctx context.Context, servers []string) ([]byte, error)) error {
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	who := c.copied.member.who.Load()
	if who.NodeID == 0 {
		return ErrNotJoined
	}
	b, err := fetch(ctx, who.MetaServers)
	if err != nil || b == nil {
		return err
	}
	return c.copied.take(b, who.ClusterID)
}
