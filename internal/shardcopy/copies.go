package shardcopy

import (
	"context"
	"errors"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// Why a copy ends early.
var (
	errKilled  = errors.New("the copy was killed")
	errDropped = errors.New("the shard was dropped")
	errStopped = errors.New("the node stops")
)

// copies are the shards that are being copied to this node.
type copies struct {
	mu     sync.Mutex
	m      map[copyKey]*copying
	closed bool           // no copy begins any more
	open   sync.WaitGroup // those that have not ended
}

type copyKey struct {
	source string
	shard  uint64
}

// copying is one of them.
type copying struct {
	status  *rpc.CopyStatus // but for Current; copies.mu guards Total
	current atomic.Int64
	ctx     context.Context
	cancel  context.CancelCauseFunc
	done    chan struct{}
}

func (c *copying) key() copyKey { return copyKey{c.status.Source, c.status.ShardId} }

// begin begins a copy, unless the shard is being copied already. The caller ends it.
func (all *copies) begin(ctx context.Context, r *rpc.CopyRequest) (*copying, context.Context, error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for k := range all.m {
		if k.shard == r.ShardId {
			return nil, nil, status.Errorf(codes.AlreadyExists,
				"shard %d is being copied from %s already", r.ShardId, k.source)
		}
	}
	if all.closed {
		return nil, nil, status.Error(codes.Unavailable, errStopped.Error())
	}
	all.open.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	c := &copying{ctx: ctx, cancel: cancel, done: make(chan struct{}), status: &rpc.CopyStatus{
		Source: r.Source, Database: r.Database, RetentionPolicy: r.RetentionPolicy, ShardId: r.ShardId,
		Started: time.Now().UnixNano(),
	}}
	if all.m == nil {
		all.m = make(map[copyKey]*copying)
	}
	all.m[c.key()] = c
	return c, ctx, nil
}

func (all *copies) setTotal(c *copying, bytes int64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	c.status.Total = bytes
}

// done ends what a kill can stop, unless one came before.
func (all *copies) done(c *copying) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	delete(all.m, c.key())
	return true
}

// leave takes a copy off the list. It returns why the copy was stopped, nil when it was not.
func (all *copies) leave(c *copying) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.m, c.key())
	return context.Cause(c.ctx)
}

func (all *copies) end(c *copying) {
	all.mu.Lock()
	if all.m[c.key()] == c {
		delete(all.m, c.key())
	}
	all.mu.Unlock()
	c.cancel(nil)
	close(c.done)
	all.open.Done()
}

// close stops all copies, and waits until they have ended.
func (all *copies) close() {
	all.mu.Lock()
	all.closed = true
	for _, c := range all.m {
		c.cancel(errStopped)
	}
	all.mu.Unlock()
	all.open.Wait()
}

// kill stops a copy, and returns it, nil for none.
func (all *copies) kill(key copyKey) *copying {
	all.mu.Lock()
	defer all.mu.Unlock()
	c := all.m[key]
	if c != nil {
		c.cancel(errKilled) // with mu held: the copy is done before, or killed
	}
	return c
}

// dropped stops the copy of a shard, which removes its files then. Without one it calls remove, and no copy begins
// meanwhile.
func (all *copies) dropped(shard uint64, remove func() error) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	for key, c := range all.m {
		if key.shard == shard {
			c.cancel(errDropped)
			return nil
		}
	}
	return remove()
}

// list returns the copies with how far they are, by ascending shard.
func (all *copies) list() (out []*rpc.CopyStatus) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, c := range all.m {
		st := c.status
		out = append(out, &rpc.CopyStatus{
			Source: st.Source, Database: st.Database, RetentionPolicy: st.RetentionPolicy, ShardId: st.ShardId,
			Total: st.Total, Current: c.current.Load(), Started: st.Started,
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ShardId < out[j].ShardId })
	return out
}
