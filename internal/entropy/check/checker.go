// Package check compares the copies of shards, and keeps what it finds. The checker of a node compares the shards of
// which the node is the first owner that can be reached.
//
//	Run       decides when to check (checker.go)
//	check     asks all owners for the states of their copies, once for all shards (checker.go)
//	shard     decides what the states of one shard mean, and whether its contents are compared (shard.go)
//	compare   compares the contents (compare.go)
//	conclude  keeps the result, and queues the repair (results.go)
package check

import (
	"context"
	"slices"
	"sync"
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

// Checker checks shards, and keeps what it finds.
type Checker struct {
	Deps

	wake     chan struct{} // tells Run that something is due earlier than it was
	checking sync.Mutex    // held by a check

	mu      sync.Mutex
	results map[uint64]entropy.ShardStatus
	last    map[uint64]*lastCheck
	due     bool // a check of all shards is due at once
}

// lastCheck is what the checker remembers of a shard.
type lastCheck struct {
	owners []uint64          // the reachable ones
	lacks  []uint64          // copies.Set.Lacks; nil when no copy lacked anything
	states []entropy.Version // at the last conclusive check, for owners; nil if there was none
	// A window of a shard that is being written counts when it differs in the same way
	// at lookAgain, up to the same time.
	until     int64
	lookAgain time.Time // zero when there is no mismatch to look at again
	seen      *found    // with lookAgain
}

// New returns a checker that Run starts.
func New(deps Deps) *Checker {
	return &Checker{
		Deps: deps, wake: make(chan struct{}, 1),
		results: make(map[uint64]entropy.ShardStatus), last: make(map[uint64]*lastCheck),
	}
}

// firstCheck is how long after its start a node checks at the latest, so that
// a replaced node gets its shards soon.
const firstCheck = 10 * time.Second

func (c *Checker) interval() time.Duration { return time.Duration(c.Config().CheckInterval) }

func (c *Checker) settle() time.Duration { return time.Duration(c.Config().Settle) }

// Run checks every check-interval until ctx ends, and shards with a mismatch to look at again when it is time.
func (c *Checker) Run(ctx context.Context) {
	now := c.Cluster.Now
	next := now().Add(min(c.interval(), firstCheck))
	for {
		at := next
		if again := c.nextLook(); !again.IsZero() && again.Before(at) {
			at = again
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			if c.takeDue() {
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

// takeDue reports once that a check of all shards is due at once.
func (c *Checker) takeDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.due
	c.due = false
	return was
}

// nextLook is when the first shard is to be looked at again, the zero time for none.
func (c *Checker) nextLook() (first time.Time) {
	if !c.Config().Enabled {
		return first
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.last {
		if !l.lookAgain.IsZero() && (first.IsZero() || l.lookAgain.Before(first)) {
			first = l.lookAgain
		}
	}
	return first
}

func (c *Checker) lookDue(shard uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.last[shard]
	return l != nil && !l.lookAgain.IsZero() && !l.lookAgain.After(c.Cluster.Now())
}

// Now checks all shards and returns when that is done. Shards that could not be
// compared are logged and looked at again at the next check.
func (c *Checker) Now(ctx context.Context) error {
	c.check(ctx, true)
	return ctx.Err()
}

// Soon makes a check of all shards due at once: an owner that could not be reached may be back.
func (c *Checker) Soon() {
	c.mu.Lock()
	c.due = true
	c.mu.Unlock()
	c.wakeUp()
}

// Suspect makes a check due at once that compares a shard anew, or all shards for 0, whatever is known of them.
func (c *Checker) Suspect(shard uint64) {
	asked := func(id uint64) bool { return shard == 0 || shard == id }
	c.Refusals.Forget(asked) // what is refused may be accepted now
	c.mu.Lock()
	for id, l := range c.last {
		if asked(id) {
			l.states = nil
		}
	}
	c.mu.Unlock()
	c.Soon()
}

// Reconfigured takes over a changed configuration.
func (c *Checker) Reconfigured() {
	c.mu.Lock()
	for _, l := range c.last {
		l.states = nil // what is to be repaired automatically may be other shards now
	}
	c.mu.Unlock()
	c.wakeUp()
}

func (c *Checker) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// check looks at all shards, or at those whose mismatch is to be looked at again.
func (c *Checker) check(ctx context.Context, full bool) {
	c.checking.Lock()
	defer c.checking.Unlock()
	if !c.Cluster.Known() || c.Cluster.Self() == 0 {
		return
	}
	live := c.Cluster.Live()
	c.Repairs.DropGone(live)
	c.forgetGone(live)
	shards := c.dueShards(live, full)
	if len(shards) == 0 {
		return
	}
	c.Report.Log.Info("Checking status", zap.Int("shards", len(shards)))
	c.Report.Checks.Add(1)

	states, err := c.Cluster.States(ctx, shards...)
	if err != nil {
		return // ctx ended
	}
	for owner, err := range states.Failed {
		c.Report.Errors.Add(1)
		c.Report.Log.Warn("Cannot reach an owner: its shards are compared without it",
			zap.String("node", c.Cluster.Addr(owner)), zap.Error(err))
	}
	skipped := 0
	for _, sh := range shards {
		reason, err := c.shard(ctx, states.Set(sh))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.Report.Fail("Cannot check shard", sh.ID, err)
		case reason != "":
			skipped++
			c.Report.Log.Debug("Skipped shard", zap.Uint64("db_shard_id", sh.ID), zap.String("reason", reason))
		}
	}
	if skipped > 0 {
		c.Report.Log.Info("Skipped shards", zap.Int("shards", skipped))
	}
}

// dueShards are those of this node with other owners, or of them those to be looked at again, by ascending ID.
func (c *Checker) dueShards(live map[uint64]cluster.Shard, full bool) (out []cluster.Shard) {
	for _, sh := range live {
		if !sh.Owned(c.Cluster.Self()) || len(sh.Owners) < 2 {
			c.Forget(sh.ID)
			continue
		}
		if full || c.lookDue(sh.ID) {
			out = append(out, sh)
		}
	}
	slices.SortFunc(out, func(a, b cluster.Shard) int { return cmpIDs(a.ID, b.ID) })
	return out
}
