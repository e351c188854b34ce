package deletes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/rpc"
)

// A delete is half run when some nodes ran it, others did not, and nobody keeps it for these: its coordinator crashed.
// Its points would stay on some owners, and the others would leave them out whenever a repair brings them. So whenever
// a node starts, and whenever an announced delete does not end in time, all nodes ask each other which deletes ran, and
// run what they lack. Until then they forget no versions: they must know which of their points are newer.

// halfRun says whether deletes may be half run.
type halfRun struct {
	mu      sync.Mutex
	changes uint64
	since   time.Time        // zero when none may be half run
	started map[uint64]start // the processes of nodes that started since
}

// possible notes that deletes may be half run from now on.
func (h *halfRun) possible(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(now)
}

// note is possible. mu must be held.
func (h *halfRun) note(now time.Time) {
	h.changes++
	if h.since.IsZero() {
		h.since = now
	}
}

// restarted notes that a node was started anew: what it announced before may be half run.
func (h *halfRun) restarted(node uint64, s start, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(now)
	if h.started == nil {
		h.started = make(map[uint64]start)
	}
	if s.at >= h.started[node].at {
		h.started[node] = s
	}
}

// look returns a number for done, and the nodes that were started. It is 0 when no delete can be half run.
func (h *halfRun) look() (changes uint64, started map[uint64]start) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return 0, nil
	}
	return h.changes, maps.Clone(h.started)
}

// done notes that this node has run all that was half run when look returned changes.
func (h *halfRun) done(changes uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changes == changes {
		h.since, h.started = time.Time{}, nil
	}
}

// holdFor is for how long nothing is forgotten because a delete may be half run: a node that ran it may be away for
// good. Such a delete does not run here any more.
const holdFor = time.Hour

// holds reports whether this node must not forget any version.
func (h *halfRun) holds(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.since.IsZero() && now.Sub(h.since) < holdFor
}

// Floor is the greatest version below which this node may forget versions and deletes, as far as deletes are concerned.
// A delete with a greater version may still come. It is 0 while a delete may be half run. This is not the floor of a
// node, which is about writes.
func (m *Memory) Floor() order.Version {
	now := time.Now()
	if m.halfRun.holds(now) {
		return 0
	}
	if at, ok := m.counts.oldest(now); ok {
		return order.AtTime(at)
	}
	return order.Version(^uint64(0))
}

// Keeps is a version below those of the deletes that this node may have to keep for others: they are under way here,
// and a node may fail to run them. It is the greatest of all when there are none. Floor is not that: deletes of other
// nodes hold it down, too, and it is 0 while one may be half run.
func (m *Memory) Keeps() order.Version { return m.counts.above() }

const (
	// askEvery is the time between two attempts to ask all nodes which deletes ran.
	askEvery = time.Second
	// askTimeout is for one of them.
	askTimeout = 10 * time.Minute
)

// keepFinishing runs deletes that are half run, while the service is open.
func (d *Service) keepFinishing() {
	defer d.wg.Done()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-d.open.Done():
			return
		case <-tick.C:
		}
		if d.deps.Memory.counts.giveUp(time.Now()) {
			d.deps.Memory.halfRun.possible(time.Now())
		}
		changes, started := d.deps.Memory.halfRun.look()
		if changes == 0 {
			continue
		}
		err := d.finish(d.open, started)
		switch {
		case d.open.Err() != nil:
			return
		case err == nil:
			d.deps.Memory.halfRun.done(changes)
		case !failing:
			d.deps.Log.Info("Not all data nodes have said yet which deletes they ran", zap.Error(err))
		}
		failing = err != nil
	}
}

// finish runs the deletes that other nodes ran and this one did not. It leaves out those that are older than what the
// journal has forgotten, in this process or an earlier one: their newer points would go. Started are the nodes that
// were started anew: all nodes are told first, so that they run nothing any more which these nodes sent before.
func (d *Service) finish(ctx context.Context, started map[uint64]start) error {
	nodes, err := d.others()
	if err != nil {
		return err
	}
	began, err := d.logBegan()
	if err != nil {
		return err
	}
	since := max(d.deps.Journal.Forgot(), began)
	return d.fromAll(ctx, nodes, askTimeout, func(ctx context.Context, n cluster.Node) error {
		p, err := d.peer(n)
		if err != nil {
			return err
		}
		for node, s := range started {
			if node == n.ID {
				continue
			}
			if _, err := p.endBefore(ctx, &rpc.EndDeletesBeforeRequest{
				SenderNode: node, Started: s.at, Process: s.process, Told: true,
			}); err != nil {
				return err
			}
		}
		if err = d.catchUpFrom(ctx, n, since, d.mine()); isOld(err) {
			return nil // it is of a version that tells nobody what it ran
		}
		return err
	})
}

// mine reports of a delete whether this node was in the cluster when it began.
func (d *Service) mine() func(*rpc.Delete) bool {
	self := d.deps.Meta.NodeID()
	return func(r *rpc.Delete) bool { return slices.Contains(r.Nodes, self) }
}
