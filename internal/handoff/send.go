package handoff

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// errNoMetadata means that nobody knows yet which nodes and shards there are.
var errNoMetadata = errors.New("the cluster's metadata is not here yet")

// notify leaves a signal in a channel that holds one.
func notify(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// node sends its queues to one node.
type node struct {
	nodeQueues
	wake  chan struct{} // holds one signal: there is something to send
	heard chan struct{} // holds one signal: something came from the node, which may be back
	back  chan struct{} // holds one signal: the node is back
	limit *rate.Limiter // nil for none
}

func newNode(id uint64, s *Service) *node {
	n := &node{
		nodeQueues: nodeQueues{
			id: id, s: s, dir: filepath.Join(s.cfg.Dir, strconv.FormatUint(id, 10)), queues: make(map[uint64]*queue),
		},
		wake: make(chan struct{}, 1), heard: make(chan struct{}, 1), back: make(chan struct{}, 1),
	}
	if r := int(s.cfg.RetryRateLimit); r > 0 {
		n.limit = rate.NewLimiter(rate.Limit(r), max(r, int(s.cfg.BatchSize)))
	}
	return n
}

// loop sends all queues of a node. When none of them gets on the node is away, and all pause; a queue that does not
// get on while others do rests alone.
func (n *node) loop(ctx context.Context) {
	var away rest
	var rested <-chan time.Time
	var standstill standstill
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-rested:
		}
		rested = nil
		for {
			before := n.progress.Load()
			rest, err := n.drain(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil || n.progress.Load() != before {
				away.recovered()
				standstill.end(n)
			}
			if err == nil {
				if rest > 0 {
					rested = time.After(rest)
				}
				break
			}
			if errors.Is(err, errNoMetadata) { // which says nothing of the node
				away.recovered()
			}
			pause := away.setback(time.Duration(n.s.cfg.RetryInterval), time.Duration(n.s.cfg.RetryMaxInterval),
				false)
			n.s.log.Debug("Hinted handoff pauses", zap.Uint64("node_id", n.id), zap.Duration("pause", pause),
				zap.Error(err))
			standstill.failed(n, err)
			if !n.pause(ctx, &away, pause) {
				return
			}
		}
	}
}

// pause returns when a node that took nothing is to be tried again, or false when ctx ended. A node that is back is
// tried at once. One that is heard of is, too, but not with each of its messages: it may send many, and refuse what is
// kept for it.
func (n *node) pause(ctx context.Context, away *rest, pause time.Duration) bool {
	began := time.Now()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-n.back:
			away.retry()
			return true
		case <-n.heard:
			away.retry()
			timer.Reset(min(pause, backPause) - time.Since(began))
		}
	}
}

// standstill is a time in which a node takes nothing of what is kept for it. The log says so once, with the reason: the
// node may be up, and refuse it.
type standstill struct {
	since time.Time // zero for none
	told  bool
}

// standstillFor is how long a node takes nothing until the log says so.
const standstillFor = time.Minute

// failed is called after each attempt that failed.
func (s *standstill) failed(n *node, err error) {
	if s.since.IsZero() {
		s.since = time.Now()
	}
	if s.told || time.Since(s.since) < standstillFor {
		return
	}
	s.told = true
	n.s.log.Warn("A data node does not take what hinted handoff keeps for it: this is tried again",
		zap.Uint64("node_id", n.id), zap.Time("since", s.since), zap.Error(err))
}

// end is called when the node takes something, or nothing is kept for it.
func (s *standstill) end(n *node) {
	if s.told {
		n.s.log.Info("A data node takes what hinted handoff keeps for it again", zap.Uint64("node_id", n.id))
	}
	*s = standstill{}
}

// drain sends until all queues are empty or rest, and returns when the first of these is to be tried again.
// The error is why none gets on.
func (n *node) drain(ctx context.Context) (rest time.Duration, err error) {
	for ctx.Err() == nil {
		queues, rest := n.ready()
		if len(queues) == 0 {
			return rest, nil
		}
		before := n.progress.Load()
		failed := n.drainAll(ctx, queues)
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		for sq, err := range failed {
			if n.progress.Load() == before || errors.Is(err, errNoMetadata) {
				return 0, err
			}
			n.setback(sq, err)
		}
	}
	return 0, ctx.Err()
}

// drainAll sends queues at the same time, and returns why those stopped that the node did not take. The first of
// these ends the round, unless the node takes others.
func (n *node) drainAll(ctx context.Context, queues []shardQueue) map[shardQueue]error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed = make(map[shardQueue]error)
		slots  = make(chan struct{}, n.s.cfg.RetryConcurrency)
		before = n.progress.Load()
	)
	defer wg.Wait()
	for _, sq := range queues {
		select {
		case <-ctx.Done():
			return failed
		case slots <- struct{}{}:
		}
		mu.Lock()
		away := len(failed) > 0 && n.progress.Load() == before
		mu.Unlock()
		if away {
			return failed
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			err := n.drainQueue(ctx, sq)
			var own *ownError
			switch {
			case errors.As(err, &own):
				n.setback(sq, err)
			case err != nil:
				mu.Lock()
				failed[sq] = err
				mu.Unlock()
			}
		}()
	}
	return failed
}

// ownError is a failure of a queue's files: the node has no part in it.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

// own marks err, if there is one.
func own(err error) error {
	if err == nil {
		return nil
	}
	return &ownError{err}
}

// drainQueue sends one queue until it is empty, or deletes for the whole
// database came: these go first.
func (n *node) drainQueue(ctx context.Context, sq shardQueue) error {
	sq.q.draining.Lock()
	defer sq.q.draining.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if over, err := n.over(sq); errors.Is(err, errNoMetadata) {
			return err
		} else if over || err != nil {
			return own(err)
		}
		if sq.q.delivered() {
			return own(n.take(sq, sq.q.dropDelivered))
		}
		entries, err := sq.q.next(int64(n.s.cfg.BatchSize))
		if err != nil {
			if err := n.unreadable(sq, err); err != nil {
				return own(err)
			}
			continue
		}
		sq.q.tries = 0
		// After peek: an entry behind a delete for the whole database was queued after it.
		if sq.shard != WholeDatabase && n.queued(WholeDatabase) {
			return nil
		}
		if old, err := n.dropExpired(sq, entries); err != nil {
			return own(err)
		} else if old > 0 {
			continue
		}
		if err := n.send(ctx, sq, entries); err != nil {
			return err
		}
	}
}

// send delivers entries at the head, and takes those off that the node has or never can have.
func (n *node) send(ctx context.Context, sq shardQueue, entries []Entry) error {
	size, points := measure(entries)
	if n.limit != nil {
		if err := n.limit.WaitN(ctx, min(int(size), n.limit.Burst())); err != nil {
			return err
		}
	}
	n.tally(sq.shard, func(c *counts) { c.req.Add(1) })
	done, err := n.s.deliver(ctx, n.id, sq.shard, entries, sq.q.deletesBehind(entries))
	if err == nil {
		done = len(entries)
		n.tally(sq.shard, func(c *counts) { c.reqPoints.Add(int64(points)) })
	} else {
		n.tally(sq.shard, func(c *counts) { c.reqFail.Add(1) })
	}
	if done > 0 {
		size, _ := measure(entries[:done])
		n.tally(sq.shard, func(c *counts) { c.read.Add(size) })
		if err := n.advance(sq, entries[:done]); err != nil {
			return own(err)
		}
	}
	var permanent *PermanentError
	if errors.As(err, &permanent) {
		return own(n.drop(sq, entries[done:done+1], permanent.Error()))
	}
	return err
}
