package handoff

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
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

// loop sends all queues of a node; after a failure it pauses for the whole node.
func (n *node) loop(ctx context.Context) {
	pause := time.Duration(n.s.cfg.RetryInterval)
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		for {
			err := n.drain(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				pause = time.Duration(n.s.cfg.RetryInterval)
				break
			}
			n.s.log.Debug("Hinted handoff pauses", zap.Uint64("node_id", n.id), zap.Duration("pause", pause), zap.Error(err))
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-n.heard:
				timer.Stop()
			case <-timer.C:
			}
			if !errors.Is(err, errNoMetadata) { // which says nothing of the node
				pause = min(2*pause, time.Duration(n.s.cfg.RetryMaxInterval))
			}
		}
	}
}

// drain sends until all queues are empty, or one fails.
func (n *node) drain(ctx context.Context) error {
	for {
		queues := n.all()
		if len(queues) == 0 {
			return nil
		}
		for _, q := range queues {
			if q.shard == WholeDatabase {
				queues = []shardQueue{q} // alone, and first
				break
			}
		}
		var (
			wg     sync.WaitGroup
			once   sync.Once
			failed error
			slots  = make(chan struct{}, n.s.cfg.RetryConcurrency)
		)
		ctx, cancel := context.WithCancel(ctx)
		for _, q := range queues {
			select {
			case <-ctx.Done():
			case slots <- struct{}{}:
				wg.Add(1)
				go func() {
					defer wg.Done()
					defer func() { <-slots }()
					if err := n.drainQueue(ctx, q); err != nil {
						once.Do(func() { failed = err; cancel() })
					}
				}()
			}
		}
		wg.Wait()
		cancel()
		if failed != nil {
			return failed
		}
	}
}

// drainQueue sends one queue until it is empty, or deletes for the whole
// database came: these go first.
func (n *node) drainQueue(ctx context.Context, sq shardQueue) error {
	sq.q.draining.Lock()
	defer sq.q.draining.Unlock()
	if err := sq.q.findDeletes(); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if over, err := n.over(sq); over || err != nil {
			return err
		}
		entries, err := sq.q.peek(int64(n.s.cfg.BatchSize))
		if err != nil {
			if err := n.skipDamage(sq, err); err != nil {
				return err
			}
			continue
		}
		if len(entries) == 0 {
			return nil
		}
		// After peek: an entry behind a delete for the whole database was queued after it.
		if sq.shard != WholeDatabase && n.queued(WholeDatabase) {
			return nil
		}
		if old, err := n.dropExpired(sq, entries); err != nil {
			return err
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
	n.stats.req.Add(1)
	done, err := n.s.deps.Deliver(ctx, n.id, sq.shard, entries, func() []Entry { return sq.q.deletesBehind(entries) })
	if err == nil {
		done = len(entries)
		n.stats.reqPoints.Add(int64(points))
	} else {
		n.stats.reqFail.Add(1)
	}
	if done > 0 {
		size, _ := measure(entries[:done])
		n.stats.read.Add(size)
		if err := n.advance(sq, entries[:done]); err != nil {
			return err
		}
	}
	var never *PermanentError
	if errors.As(err, &never) {
		return n.drop(sq, entries[done:done+1], never.Error())
	}
	return err
}
