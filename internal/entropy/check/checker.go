// Package check compares the copies of shards, and keeps what it finds. The checker of a node compares the shards of
// which the node is the first owner that can be reached.
//
//	Run       decides when to check (checker.go)
//	check     asks all owners for the states of their copies, once for all shards (checker.go)
//	shard     decides what the states of one shard mean, and whether its contents are compared (shard.go)
//	compare   compares the contents (compare.go)
//	conclude  keeps the result (memory.go), and queues the repair (results.go)
package check

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
)

// Deps is what a checker needs. All of it must be set.
type Deps struct {
	Cluster    copies.Cluster
	Equality   *copies.Equality
	Refusals   *refusal.Memory
	Reconciler reconcile.Reconciler
	Repairs    Repairs
	Config     func() entropy.Config
	Report     *entropy.Report
	After      func(time.Duration) <-chan time.Time
}

// Repairs is this node's queue of repairs, as the checker uses it.
type Repairs interface {
	// Queue queues a shard, unless it is queued.
	Queue(shard uint64) error
	// Hurry makes a queued shard due at once, whose last repair failed.
	Hurry(shard uint64) error
	// Running reports whether a shard is being repaired. With again, all shards are checked when that repair has ended.
	Running(shard uint64, again bool) bool
	// DropGone takes shards from the queue that are not live any more.
	DropGone(live map[uint64]cluster.Shard)
}

// Checker checks shards when they are due. The judge checks one of them, and memory keeps what it finds.
type Checker struct {
	*judge
	checking sync.Mutex  // held by a check
	due      atomic.Bool // a check of all shards is due at once
}

// signal tells Run that something is due earlier than it was.
type signal chan struct{}

func (s signal) up() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// New returns a checker that Run starts.
func New(deps Deps) *Checker {
	return &Checker{judge: &judge{Deps: deps, memory: newMemory(deps.Cluster.Now), wake: make(signal, 1)}}
}

// firstCheck is how long after its start a node checks at the latest, so that
// a replaced node gets its shards soon.
const firstCheck = 10 * time.Second

func (c *Checker) interval() time.Duration { return time.Duration(c.Config().CheckInterval) }

// Run checks every check-interval until ctx ends, and shards with a mismatch to look at again when it is time.
func (c *Checker) Run(ctx context.Context) {
	now := c.Cluster.Now
	next := now().Add(min(c.interval(), firstCheck))
	for {
		at := next
		if again := c.nextLook(); c.Config().Enabled && c.can() && !again.IsZero() && again.Before(at) {
			at = again
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			if c.due.Swap(false) {
				next = now()
			}
			if soonest := now().Add(c.interval()); next.After(soonest) {
				next = soonest
			}
			continue
		case <-c.After(max(at.Sub(now()), 0)):
		}
		if now().Before(at) || !c.Config().Enabled {
			if !now().Before(next) {
				next = now().Add(max(c.interval(), time.Second))
			}
			continue
		}
		full := !now().Before(next)
		c.check(ctx, full)
		if full {
			next = now().Add(c.interval())
		}
	}
}

// Now checks all shards and returns when that is done. Shards that could not be
// compared are logged and looked at again at the next check.
func (c *Checker) Now(ctx context.Context) error {
	c.check(ctx, true)
	return ctx.Err()
}

// Soon makes a check of all shards due at once: an owner that could not be reached may be back.
func (c *Checker) Soon() {
	c.due.Store(true)
	c.wake.up()
}

// Suspect makes a check due at once that compares a shard anew, or all shards for 0, whatever is known of them.
func (c *Checker) Suspect(shard uint64) {
	asked := func(id uint64) bool { return shard == 0 || shard == id }
	c.Refusals.Forget(asked) // what is refused may be accepted now
	c.compareAnew(asked)
	c.Soon()
}

// Reconfigured takes over a changed configuration.
func (c *Checker) Reconfigured() {
	c.compareAnew(func(uint64) bool { return true }) // what is to be repaired automatically may be other shards now
	c.wake.up()
}

// can reports whether there is anything to check: not on a node without a cluster.
func (c *Checker) can() bool { return c.Cluster.Known() && c.Cluster.Self() != 0 }

// check looks at all shards, or at those whose mismatch is to be looked at again.
func (c *Checker) check(ctx context.Context, full bool) {
	c.checking.Lock()
	defer c.checking.Unlock()
	if !c.can() {
		return
	}
	live := c.Cluster.Live()
	c.Repairs.DropGone(live)
	gone := func(id uint64) bool { _, ok := live[id]; return !ok } // shards that expired or were dropped
	c.Equality.Forget(gone)
	c.Refusals.Forget(gone)
	c.forgetGone(gone)
	shards := c.dueShards(live, full)
	if len(shards) == 0 {
		if full {
			c.noteFull()
		}
		return
	}
	c.Report.Log.Info("Checking whether owners agree", zap.Int("shards", len(shards)))
	c.Report.Checks.Add(1)

	states, err := c.Cluster.States(ctx, shards...)
	if err != nil {
		return // ctx ended
	}
	for owner, err := range states.Failed {
		c.Report.Errors.Add(1)
		c.Report.Log.Warn("An owner does not tell of its copies: its shards are compared without them",
			zap.String("node", c.Cluster.Addr(owner)), zap.Error(err))
	}
	var skipped []skippedShard
	for _, sh := range shards {
		reason, err := c.shard(ctx, states.Set(sh))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.Report.Fail("Cannot check shard", sh.ID, err)
		case reason != "":
			skipped = append(skipped, skippedShard{sh.ID, reason})
			c.Report.Log.Debug("Did not compare a shard",
				zap.Uint64("db_shard_id", sh.ID), zap.String("reason", reason))
		}
		c.postpone(sh.ID, c.secondLook())
	}
	if len(skipped) > 0 {
		c.Report.Log.Info("Did not compare some shards", zap.Int("shards", len(skipped)),
			zap.Uint64("db_shard_id", skipped[0].id), zap.String("reason", skipped[0].reason))
	}
	if full {
		c.noteFull()
	}
}

// skippedShard is a shard whose contents a check did not compare, and why.
type skippedShard struct {
	id     uint64
	reason string
}

// dueShards are those of this node with other owners, or of them those to be looked at again, by ascending ID.
func (c *Checker) dueShards(live map[uint64]cluster.Shard, full bool) (out []cluster.Shard) {
	for _, sh := range live {
		if !sh.Owned(c.Cluster.Self()) || len(sh.Owners) < 2 {
			c.Forget(sh.ID)
			continue
		}
		if full || c.lookDue(sh.ID, c.Cluster.Now()) {
			out = append(out, sh)
		}
	}
	slices.SortFunc(out, func(a, b cluster.Shard) int { return cmpIDs(a.ID, b.ID) })
	return out
}
