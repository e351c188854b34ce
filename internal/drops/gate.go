package drops

import (
	"context"
	"sync"
)

// gate is of a database. Deletes run there while none of its shards is closed, and shards are closed while none runs.
// Those who close shards wait for the deletes that run, and not for each other. New deletes wait for them.
type gate struct {
	mu      sync.Mutex
	deletes int           // that run
	closers int           // who close shards, or wait for the end of the deletes
	changed chan struct{} // closed when one of the numbers is 0 again; nil when nobody waits
}

func (g *gate) beginDelete(ctx context.Context) (end func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.await(ctx, &g.closers); err != nil {
		return nil, err
	}
	g.deletes++
	return sync.OnceFunc(func() { g.leave(&g.deletes) }), nil
}

func (g *gate) holdDeletes(ctx context.Context) (release func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closers++
	if err := g.await(ctx, &g.deletes); err != nil {
		g.decrement(&g.closers)
		return nil, err
	}
	return sync.OnceFunc(func() { g.leave(&g.closers) }), nil
}

// await returns when a number is 0. mu must be held; it is not held while await waits.
func (g *gate) await(ctx context.Context, n *int) error {
	for *n > 0 {
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		g.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *gate) leave(n *int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decrement(n)
}

// mu must be held.
func (g *gate) decrement(n *int) {
	if *n--; *n == 0 && g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
