// Package repair makes the copies of one shard equal. A repair has stages, in this order; see Repair.attempt:
//
//	reach      asks the owners for the states of their copies
//	set aside  has damaged files replaced by what is good in them
//	make anew  removes copies that may hold deleted points or old values, where the others have all
//	fill       makes missing copies out of files (fill.go)
//	compare    finds the windows of time in which the copies differ (round.go)
//	patch      finds the points that differ, merges them, and pushes what each copy lacks (patch.go)
//	verify     compares the digests of the copies (round.go)
//
// Compare, patch and verify are a round. There are more rounds while copies differ.
//
// A finder finds the points that differ in these windows (finder.go), and takes the cheapest way first: coded symbols
// (symbols.go), then sums over slices of time (narrow.go), then it fetches points (fetch.go). Versions say which of two
// values was written last (versions.go).
package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
)

// Deps is what repairs need of their node. All of it must be set, but for Pace.
type Deps struct {
	Cluster    copies.Cluster
	Equality   *copies.Equality
	Refusals   *refusal.Memory
	Reconciler reconcile.Reconciler
	Config     func() entropy.Config
	Limit      *pace.Limit // of bytes
	Pace       *pace.Pace  // nil for none
	Report     *entropy.Report
	After      func(time.Duration) <-chan time.Time
	Suspect    func(shard uint64) // has a shard checked again soon
}

// staleTries is after how many failed attempts a copy that may hold deleted points is made anew, without the deletes
// having run on it.
const staleTries = 2

// maxOvertaken is how often a repair starts over because a delete came.
const maxOvertaken = 20

// Repair is one repair of one shard. It has many methods because each stage, and each step of one, has its own.
type Repair struct {
	Deps
	id       uint64
	attempts int                         // that failed before
	turn     func(context.Context) error // waits until the repair may compare
	log      *zap.Logger                 // names the repair and the shard
	progress progress

	// What follows is of the current attempt.
	shard     cluster.Shard
	set       copies.Set
	busy      bool // the shard was written to when the attempt began
	overtaken bool // an earlier attempt was
	refused   *refusal.Known
	message   string // what owners refuse, for operators; empty for nothing
}

// New returns a repair that Run starts. queued has the shard, when its repair was queued, and how many attempts failed.
// turn is called before copies are compared, and not while files are copied: it waits until the repair may go on.
func New(deps Deps, queued entropy.RepairRecord, turn func(context.Context) error) *Repair {
	return &Repair{
		Deps: deps, id: queued.ShardID, attempts: queued.Attempts, turn: turn,
		log:      deps.Report.Log.With(zap.String("repair_id", queued.ID()), zap.Uint64("db_shard_id", queued.ShardID)),
		progress: newProgress(queued, deps.Cluster.Now(), deps.Report),
	}
}

// Record is what the repair did so far. It may be called while the repair runs.
func (r *Repair) Record() entropy.RepairRecord { return r.progress.record(r.Cluster.Now()) }

// Refused says what owners refuse of what others have, when Run has ended without an error. It is empty for nothing.
func (r *Repair) Refused() string { return r.message }

// Run compares all owners of the shard that can be reached, and gives each what it
// lacks, until they are equal. It returns an error when trying again later may help.
func (r *Repair) Run(ctx context.Context) error {
	ctx = pace.With(ctx, r.Pace)
	sh, ok := r.Cluster.Live()[r.id]
	if !ok || len(sh.Owners) < 2 {
		return nil // dropped, expired, or nothing to compare with
	}
	r.shard = sh
	if sh.Owners[0] != r.Cluster.Self() {
		return r.handOver(ctx)
	}
	var err error
	for range maxOvertaken {
		if err = r.attempt(ctx); !errors.Is(err, entropy.ErrOvertaken) {
			return err
		}
		// What was fetched may be deleted or overwritten by now: everything is read anew.
		r.overtaken = true
		r.log.Debug("Points were deleted or written during a repair: comparing again")
	}
	return err
}

// handOver gives a shard, whose owners changed while it was queued, to its first owner.
func (r *Repair) handOver(ctx context.Context) error {
	first, err := r.Cluster.Node(r.shard.Owners[0])
	if err != nil {
		return fmt.Errorf("shard %d: first %w", r.id, err)
	}
	if err := r.Cluster.Transport.Control(first).Repair(ctx, r.id); err != nil {
		return fmt.Errorf("hand shard %d over to its first owner %s: %w", r.id, first.TCPAddr, err)
	}
	return nil
}

// attempt is the repair, unless a delete overtakes it.
func (r *Repair) attempt(ctx context.Context) error {
	if err := r.reach(ctx); err != nil {
		return err
	}
	r.refused, r.message = refusal.NewKnown(), ""
	r.busy = !r.set.Quiet(r.settled())
	for _, stage := range []func(context.Context) (changed bool, err error){r.setAside, r.makeAnew, r.fill} {
		if len(r.set.Copies) < 2 {
			return r.set.AwayError()
		}
		changed, err := stage(ctx)
		if err == nil && changed { // so are the states of the copies
			err = r.reach(ctx)
		}
		if err != nil {
			return err
		}
	}
	if err := r.turn(ctx); err != nil {
		return err
	}
	last, err := r.rounds(ctx)
	if err != nil {
		return err
	}
	return r.finish(ctx, last)
}

// reach asks the owners for the states of their copies.
func (r *Repair) reach(ctx context.Context) (err error) {
	if r.set, err = r.Cluster.Reach(ctx, r.shard); err != nil {
		return err
	}
	r.progress.change(func(p *entropy.RepairRecord) { p.Owners = r.set.Addrs() })
	return nil
}

// setAside has the damaged files of copies set aside.
func (r *Repair) setAside(ctx context.Context) (any bool, err error) {
	for _, c := range r.set.Copies {
		if c.State.Corrupt == "" {
			continue
		}
		if !r.set.Any(entropy.ShardState.Healthy) {
			return false, fmt.Errorf("no owner that is reachable has an undamaged copy of shard %d: %s: %s",
				r.id, c.TCPAddr, c.State.Corrupt)
		}
		if err := c.Replica.SetAside(ctx, r.id); err != nil {
			return false, fmt.Errorf("set the damaged files of shard %d on %s aside: %w", r.id, c.TCPAddr, err)
		}
		any = true
	}
	return any, nil
}

// makeAnew removes copies that may hold deleted points or old values, when they differ from the others. A merge would
// bring these points back everywhere. The copies are then missing, and filled. It does so only where the other copies
// have all that was acknowledged: see copies.Set.Replaces. Elsewhere the copies are merged, when all owners are there:
// one that is away may have a whole copy.
//
// Before copies are merged, the deletes that other nodes remember must have run on them. Before copies are removed, the
// repair waits for these deletes too, but for staleTries attempts only. Often the copies are equal once they have run.
func (r *Repair) makeAnew(ctx context.Context) (any bool, err error) {
	if !r.set.Any(entropy.ShardState.Older) {
		return false, nil
	}
	replace := r.set.Any(entropy.ShardState.Whole) || r.set.Replaces()
	if !replace || r.attempts < staleTries {
		if err := r.caughtUp(); err != nil {
			return false, err
		}
	}
	if !replace {
		return false, r.set.AwayError()
	}
	if equal, err := r.set.EqualRoots(ctx, entropy.Everything); err != nil || equal {
		return false, err
	}
	for _, c := range r.set.Copies {
		if !c.State.Older() {
			continue
		}
		if err := c.Replica.Discard(ctx, r.id, c.State.Lack.Gen); err != nil {
			return false, fmt.Errorf("remove the copy of shard %d on %s, to make it anew: %w", r.id, c.TCPAddr, err)
		}
		r.log.Info("Removed a copy that may hold deleted points or old values: it is made anew",
			zap.String("node", c.TCPAddr), zap.String("reason", c.State.Lack.Why))
	}
	return true, nil
}

// caughtUp returns an error while a copy may not have run all deletes that other nodes remember.
func (r *Repair) caughtUp() error {
	for _, c := range r.set.Copies {
		if c.State.Exists && c.State.Lack.Kind == copystate.Stale {
			return fmt.Errorf("the copy of shard %d on %s may hold deleted points: the repair waits until %[2]s "+
				"has asked the other data nodes which deletes it missed, and has run them", r.id, c.TCPAddr)
		}
	}
	return nil
}

// finish tells the owners that their copies are equal, but for writes on their way. When owners refuse something, it
// tells nobody, and remembers what they refuse.
func (r *Repair) finish(ctx context.Context, last *round) error {
	listed := r.Record().Refusals
	if message := r.refused.Message(r.set.Addrs(), listed); message != "" {
		// A copy that refuses points of others is not told that it is whole.
		if err := r.set.AwayError(); err != nil {
			return err
		}
		r.message = message
		r.Refusals.Keep(r.id, refusal.Left{Known: r.refused, Owners: r.set.Owners(), Lacks: r.set.Lacks(), Message: message})
		return nil
	}
	r.Equality.Tell(ctx, r.set)
	if _, lacks := r.set.MostLacking(); lacks { // more may have been missed meanwhile
		r.Suspect(r.id)
	}
	if last.until == entropy.Everything && last.verified { // what is not settled may be damaged, too
		if err := r.healed(ctx); err != nil {
			return err
		}
	}
	if err := r.set.AwayError(); err != nil {
		return err
	}
	r.Refusals.Forget(func(shard uint64) bool { return shard == r.id })
	return nil
}

// healed tells the owners of copies that were damaged that they are equal to the others now.
func (r *Repair) healed(ctx context.Context) error {
	for _, c := range r.set.Copies {
		if c.State.Corrupt == "" {
			continue
		}
		if err := c.Replica.Healed(ctx, r.id); err != nil {
			return fmt.Errorf("tell %s that its copy of shard %d is healed: %w", c.TCPAddr, r.id, err)
		}
		r.log.Info("A damaged copy is healed", zap.String("node", c.TCPAddr), zap.String("message", c.State.Corrupt))
	}
	return nil
}
