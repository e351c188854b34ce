package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
)

// This file has how a data node's copy of the metadata becomes as new as somebody relies on.

const (
	pollUsually    = 20 * time.Millisecond  // in which the long poll has usually brought a change
	relyTimeout    = 2 * time.Second        // to catch up with what another node relies on
	relyAgain      = 5 * time.Second        // after a failure to do so, in which nobody waits for it again
	refreshTimeout = 2 * time.Second        // for the leader's answer
	refreshEvery   = 250 * time.Millisecond // a flood of unknown names must not become a load on the leader
)

// Index is that of this node's copy of the metadata: it grows with every change. It is 0 without a cluster.
func (c *Client) Index() uint64 {
	if c.NodeID() == 0 {
		return 0
	}
	return c.State().Index
}

// CatchUp returns when this node's copy has what a node relies on that names index, or an error after two seconds.
// What cannot be had now is not waited for again at once. leader is the HTTP address of the meta node that has it, if
// known.
func (c *Client) CatchUp(ctx context.Context, index uint64, leader string) error {
	if leader != "" {
		c.http.prefer(leader)
	}
	if c.State().Index >= index {
		return nil
	}
	if c.NodeID() == 0 {
		return ErrNotJoined
	}
	if err := c.behind.check(c.State().Index); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, relyTimeout)
	defer cancel()
	err := c.fetchTo(ctx, index)
	if err != nil {
		have := c.State().Index
		err = fmt.Errorf("this node's metadata is behind: it has change %d, not %d: %w", have, index, err)
		c.behind.note(have, err)
	}
	return err
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
func (c *Client) fetchTo(ctx context.Context, index uint64) error {
	has := func(s *cluster.State) bool { return s.Index >= index }
	brief, cancel := context.WithTimeout(ctx, pollUsually)
	err := c.wait(brief, has)
	cancel()
	if err == nil {
		return nil
	}
	ctx, cancel = context.WithCancel(ctx)
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		c.wait(ctx, has)
		cancel() // ends the question, which is not needed any more
	}()
	failed := c.ask(ctx, func(ctx context.Context, servers []string) ([]byte, error) {
		if has(c.State()) {
			return nil, nil
		}
		return anyOf(ctx, &c.http, servers, func(ctx context.Context, server string) ([]byte, error) {
			b, err := c.http.state(ctx, server, index-1)
			if err == nil && b == nil {
				err = errors.New("the meta node has nothing newer")
			}
			return b, err
		})
	})
	cancel()
	<-arrived
	switch {
	case has(c.State()):
		return nil
	case failed == nil:
		return errors.New("this node left the cluster")
	}
	return failed
}

// ask takes over the state that fetch returns, if any. One node has one such question under way.
func (c *Client) ask(ctx context.Context, fetch func(ctx context.Context, servers []string) ([]byte, error)) error {
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	who := c.who.Load()
	if who.NodeID == 0 {
		return ErrNotJoined
	}
	b, err := fetch(ctx, who.MetaServers)
	if err != nil || b == nil {
		return err
	}
	return c.take(b, who.ClusterID)
}

// refresher joins callers of Refresh that come at the same time.
type refresher struct {
	mu    sync.Mutex
	next  *refresh  // has not begun: who comes now joins it
	began time.Time // the last one
}

type refresh struct {
	done chan struct{}
	err  error // valid when done is closed
}

// Refresh makes the copy as new as the leader's state was when Refresh was called, or returns why it cannot. Callers
// that come at the same time share one question, and there are a few of those in a second at most.
func (c *Client) Refresh() error {
	if c.NodeID() == 0 {
		return ErrNotJoined
	}
	a := &c.asks
	a.mu.Lock()
	r := a.next
	if r != nil {
		a.mu.Unlock()
		<-r.done
		return r.err
	}
	r = &refresh{done: make(chan struct{})}
	a.next = r
	pause := time.Until(a.began.Add(refreshEvery))
	a.mu.Unlock()
	defer close(r.done)

	time.Sleep(pause)
	ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
	defer cancel()
	r.err = c.ask(ctx, func(ctx context.Context, servers []string) ([]byte, error) {
		a.mu.Lock()
		a.next, a.began = nil, time.Now()
		a.mu.Unlock()
		return c.http.latest(ctx, servers, c.State().Index)
	})
	a.mu.Lock()
	if a.next == r { // it did not begin
		a.next = nil
	}
	a.mu.Unlock()
	return r.err
}

// known looks something up, and once more after it asked the leader when the copy lacks it.
func known[T any](c *Client, find func() *T) *T {
	if v := find(); v != nil || c.Refresh() != nil {
		return v
	}
	return find()
}

// Database returns a database, nil for one that the leader does not know either.
func (c *Client) Database(name string) *emeta.DatabaseInfo {
	return known(c, func() *emeta.DatabaseInfo { return c.Client.Database(name) })
}

// RetentionPolicy returns a policy, nil for one that the leader does not know either.
func (c *Client) RetentionPolicy(database, name string) (*emeta.RetentionPolicyInfo, error) {
	rpi, err := c.Client.RetentionPolicy(database, name)
	if rpi != nil || c.Refresh() != nil {
		return rpi, err
	}
	return c.Client.RetentionPolicy(database, name)
}

// UserInfo returns a user with the privileges of its roles, nil for one that the leader does not know either.
func (c *Client) UserInfo(name string) *emeta.UserInfo {
	return known(c, func() *emeta.UserInfo { return c.State().User(name) })
}

// UserPrivileges returns the privileges of a user by database, without those of its roles.
func (c *Client) UserPrivileges(name string) (map[string]influxql.Privilege, error) {
	p, err := c.Client.UserPrivileges(name)
	if err == nil || c.Refresh() != nil {
		return p, err
	}
	return c.Client.UserPrivileges(name)
}

// AdminUserExists reports whether there is an administrator. Without one every client may do everything.
func (c *Client) AdminUserExists() bool {
	return c.Client.AdminUserExists() || c.Refresh() == nil && c.Client.AdminUserExists()
}

// shardIDs are the shards of one state that are not deleted.
type shardIDs struct {
	of  *cluster.State
	ids map[uint64]struct{}
}

// Deleted reports whether a shard that was in the metadata at index was deleted since, as far as this node knows.
func (c *Client) Deleted(shard, index uint64) bool {
	st := c.State()
	if index == 0 || st.Index < index {
		return false
	}
	known := c.ids.Load()
	if known == nil || known.of != st {
		shards := st.Shards()
		known = &shardIDs{of: st, ids: make(map[uint64]struct{}, len(shards))}
		for _, sh := range shards {
			known.ids[sh.ID] = struct{}{}
		}
		c.ids.Store(known)
	}
	_, ok := known.ids[shard]
	return !ok
}
