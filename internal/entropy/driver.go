package entropy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

const (
	maxOvertaken   = 20      // comparisons that a delete makes void
	maxRounds      = 3       // comparisons of a repair that do not end in equal roots
	maxDifferences = 200_000 // held in memory; the rest is for the next round
	batchRegions   = 64      // that are worked on at once, about
	batchBytes     = 1 << 20 // after which a Fetch gives no more blocks
	batchPoints    = 1 << 18 // the same
	pushBytes      = 8 << 20 // after which an Apply takes no more blocks
	pushAge        = 2 * time.Second
	maxDecisions   = 100 // that a record lists
)

// job is a repair of one shard that runs.
type job struct {
	cancel  context.CancelCauseFunc
	started time.Time
	out     *outcome
	syncs   bool // it compares and patches, and does not just copy files; under Service.mu
	again   bool // the shard is checked once more when the repair has ended; under Service.mu

	resolves bool // it is none: it has the place of one while a type conflict is resolved
}

// dispatchLoop starts repairs of queued shards that are due, the longest waiting first.
func (s *Service) dispatchLoop(ctx context.Context) {
	for {
		var timer <-chan time.Time
		if wait, ok := s.dispatch(ctx); ok {
			timer = s.deps.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer:
		}
	}
}

// dispatch starts what is due and free to start, and tells how long the next shard has to wait.
func (s *Service) dispatch(ctx context.Context) (wait time.Duration, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cfg.Enabled || s.paused {
		return 0, false
	}
	now := s.deps.Now()
	for _, it := range s.queue.list() {
		if s.running[it.ID] != nil {
			continue
		}
		if d := it.Next.Sub(now); d > 0 {
			if !waiting || d < wait {
				wait, waiting = d, true
			}
			continue
		}
		copies := s.results[it.ID].Status == Missing
		if len(s.running) >= s.cfg.MaxFetch || !copies && s.syncs() >= s.cfg.MaxSync {
			continue // the end of a job wakes the loop
		}
		jctx, cancel := context.WithCancelCause(ctx)
		j := &job{cancel: cancel, started: now, out: &outcome{attempts: it.Attempts}, syncs: !copies}
		s.running[it.ID] = j
		s.stats.jobs.Add(1)
		s.stats.jobsActive.Add(1)
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.run(jctx, it, j)
			cancel(nil)
			s.mu.Lock()
			delete(s.running, it.ID)
			s.free()
			again := j.again
			s.mu.Unlock()
			if again {
				s.CheckSoon()
			}
			s.stats.jobsActive.Add(-1)
			notify(s.wake)
		}()
	}
	return wait, waiting
}

// outcome is what a repair did; the summary line has it.
type outcome struct {
	mu sync.Mutex // for what record reads while the repair runs

	attempts        int   // that failed before
	copied, copying int64 // bytes of files, while a missing copy is made of them
	total, fixed    int   // differing series-fields of the last comparison
	owners          []string
	rounds, points  int
	rx, tx          int64
	conflicts       int              // points with different values, decided
	decided         []patch.Decision // the first of them
	typeConflict    string           // why owners still differ: what they refuse
	refused         int              // series-fields of which an owner refuses points, in the last comparison
	listed          []Refusal        // the first of them
	overflow, equal bool
	verified        bool // the roots were equal
	hot             bool // the shard was written to when the repair began

	refusals *refusals           // that are known
	copies   []uint64            // owners of the copies that refusals is about
	lacks    []uint64            // what was known of what these copies lacked, by ShardState.Lack.Gen
	found    *differences        // of the last round
	until    int64               // of the last round
	open     int                 // conflicts of the last round that were left open
	seen     map[uint64]struct{} // conflicts of the last round in a shard that is written to
}

// change changes what record reads.
func (o *outcome) change(fn func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fn()
}

// run repairs one shard and settles its place in the queue.
func (s *Service) run(ctx context.Context, it queued, j *job) {
	id, start, out := it.ID, j.started, j.out
	ctx = pace.With(ctx, s.deps.Pace)
	err := s.repair(ctx, id, j)
	ended := out.record(id, start, s.deps.Now())
	ended.Added, ended.Attempts, ended.Ended, ended.ETA = it.Added, it.Attempts, s.deps.Now(), 0
	defer func() { s.history.add(ended) }()
	cause := context.Cause(ctx)
	stopped := cause != nil
	fields := []zap.Field{
		zap.Uint64("db_shard_id", id), zap.Strings("owners", out.owners), zap.Int("points", out.points),
		zap.Int64("bytes_rx", out.rx), zap.Int64("bytes_tx", out.tx), zap.Int("conflicts", out.conflicts),
		zap.Int("rounds", out.rounds), zap.Duration("duration", s.deps.Now().Sub(start)),
	}
	switch {
	case stopped:
		// It left the queue if it was canceled; after a restart it goes on otherwise.
		ended.State, ended.Error = Stopped, cause.Error()
		s.log.Info("Repair stopped", append(fields, zap.NamedError("reason", cause))...)
		return
	case err != nil:
		ended.State, ended.Error = Failed, err.Error()
		s.stats.errors.Add(1)
		s.log.Warn("Repair failed and will be tried again", append(fields, zap.Error(err))...)
		if err := s.queue.fail(id, s.deps.Now(), err); err != nil {
			s.fail("Cannot record a failed repair", id, err)
		}
		return
	case out.typeConflict != "":
		ended.State, ended.Error = Refused, out.typeConflict
		s.stats.repairsInConflict.Add(1)
		s.log.Warn("Repair needs an operator: owners refuse points that others have", append(fields, zap.Int("refused_fields", out.refused), zap.String("message", out.typeConflict))...)
		s.mu.Lock()
		s.results[id] = ShardStatus{ID: id, Status: Conflict, Message: out.typeConflict}
		s.mu.Unlock()
	default:
		ended.State = Done
		s.log.Info("Repair done", fields...)
		s.forget(id)
	}
	s.keepRefusals(id, out)
	if err := s.queue.remove(id); err != nil {
		s.fail("Cannot take a repaired shard from the queue", id, err)
	}
}

// repair compares all reachable owners of a shard and gives each what it
// lacks, until they are equal. It returns an error when trying again later may help.
func (s *Service) repair(ctx context.Context, id uint64, j *job) error {
	st := s.deps.Meta.State()
	sh, ok := s.live()[id]
	if !ok || len(sh.Owners) < 2 {
		return nil // dropped, expired, or nothing to compare with
	}
	self := s.deps.Meta.NodeID()
	if sh.Owners[0] != self {
		return s.handOver(ctx, st, sh)
	}
	var err error
	for range maxOvertaken {
		if err = s.repairOwners(ctx, st, sh, j); !errors.Is(err, ErrOvertaken) {
			return err
		}
		// What was fetched may be deleted by now: everything is read anew.
		s.log.Debug("A delete came during a repair: comparing again", zap.Uint64("db_shard_id", id))
	}
	return err
}

// repairOwners is repair without deletes meanwhile.
func (s *Service) repairOwners(ctx context.Context, st *cluster.State, sh cluster.Shard, j *job) error {
	out := j.out
	copies, missing, err := s.reach(ctx, st, sh)
	if err != nil {
		return err
	}
	out.overflow, out.seen, out.found = false, nil, nil
	out.typeConflict, out.refusals, out.copies = "", newRefusals(), ownersOf(copies)
	out.hot = !quiet(copies, s.deps.Now().Add(-time.Duration(s.config().Settle)))
	out.change(func() {
		out.owners, out.rounds = nil, 0
		for _, c := range copies {
			out.owners = append(out.owners, addr(st, c.owner))
		}
	})
	if len(copies) < 2 {
		return missing
	}
	if aside, err := s.setAside(ctx, st, sh, copies); err != nil {
		return err
	} else if aside { // the copies are others now
		if copies, missing, err = s.reach(ctx, st, sh); err != nil {
			return err
		}
	}
	if removed, err := s.makeAnew(ctx, st, sh, copies); err != nil {
		return err
	} else if removed {
		if copies, missing, err = s.reach(ctx, st, sh); err != nil {
			return err
		}
	}
	if filled, err := s.fill(ctx, st, sh, copies, out); err != nil {
		return err
	} else if filled { // the copies remember that they were filled
		if copies, missing, err = s.reach(ctx, st, sh); err != nil {
			return err
		}
	}
	if err := s.syncing(ctx, j); err != nil {
		return err
	}
	for !out.equal {
		if !out.overflow {
			out.change(func() { out.rounds++ })
		}
		if err := s.round(ctx, st, sh, copies, out); err != nil {
			return err
		}
		if !out.equal && out.open > 0 && missing != nil {
			return fmt.Errorf("%d points differ, and the owners that are there cannot decide: %w", out.open, missing)
		}
		if !out.equal && out.rounds >= maxRounds && !out.overflow {
			return fmt.Errorf("owners of shard %d still differ after %d rounds", sh.ID, out.rounds)
		}
		if out.open > 0 {
			// Writes in flight arrive meanwhile, and the next round sees what is not one.
			select {
			case <-s.deps.After(time.Duration(s.config().Settle)):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	if out.typeConflict = out.refusals.message(st, copies, out.listed); out.typeConflict != "" {
		out.lacks = lacksOf(copies)
		return missing // a copy that refuses points of others is not told that it is whole
	}
	s.whole(ctx, sh, copies)
	if _, any := lacking(copies); any { // more may have been missed meanwhile
		s.Suspect(sh.ID)
	}
	if out.until == everything && out.verified { // what is not settled may be damaged, too
		if err := s.healed(ctx, st, sh, copies); err != nil {
			return err
		}
	}
	return missing
}

// handOver gives a shard, whose owners changed while it was queued, to its first owner.
func (s *Service) handOver(ctx context.Context, st *cluster.State, sh cluster.Shard) error {
	node, ok := st.DataNode(sh.Owners[0])
	if !ok {
		return fmt.Errorf("first owner %d of shard %d is not a data node of the cluster", sh.Owners[0], sh.ID)
	}
	if err := s.deps.Transport.Control(node).Repair(ctx, sh.ID); err != nil {
		return fmt.Errorf("hand shard %d over to its first owner %s: %w", sh.ID, node.TCPAddr, err)
	}
	return nil
}

// reach returns the copies of the owners that answer, and an error that names those that do not.
func (s *Service) reach(ctx context.Context, st *cluster.State, sh cluster.Shard) (copies []copyOf, missing, err error) {
	states, failed := s.states(ctx, st, []cluster.Shard{sh})
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var away []error
	for _, o := range sh.Owners {
		if c := states[o][sh.ID]; !c.usable() {
			failed[o] = errors.New(c.Corrupt)
		}
		if err := failed[o]; err != nil {
			away = append(away, fmt.Errorf("owner %s of shard %d cannot take part: %w", addr(st, o), sh.ID, err))
			continue
		}
		rep, err := s.replica(st, o)
		if err != nil {
			return nil, nil, err
		}
		copies = append(copies, copyOf{o, rep, states[o][sh.ID]})
	}
	for _, c := range copies {
		for _, to := range c.state.Hints {
			if slices.Contains(sh.Owners, to) && failed[to] == nil {
				return nil, nil, fmt.Errorf("%s still has hinted handoff of shard %d for %s", addr(st, c.owner), sh.ID, addr(st, to))
			}
		}
		if len(c.state.Waiting) > 0 {
			return nil, nil, fmt.Errorf("%s still has hinted handoff of shard %d for %s", addr(st, c.state.Waiting[0]), sh.ID, addr(st, c.owner))
		}
	}
	return copies, errors.Join(away...), nil
}

// round compares once, applies what it found and compares the roots.
func (s *Service) round(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, out *outcome) error {
	until := s.until(sh, copies, out.rounds)
	out.until = until
	var diffs []reconcile.Difference
	last := out.found
	out.change(func() { out.refused, out.listed = 0, nil })
	out.refusals.chosen = false
	out.found = &differences{windows: make(map[uint64]struct{})}
	out.overflow = false
	how := s.deps.Reconciler
	if out.rounds >= maxRounds {
		how = reconcile.Flat{} // a difference that hides behind two equal hashes is none in the lists
	}
	err := how.Differences(ctx, s.owners(sh, copies, until), func(d reconcile.Difference) error {
		out.refusals.learn(d.Series, d.Field, d.Types)
		for _, d := range byType(d) {
			if out.explained(st, copies, d) {
				continue
			}
			out.found.add(d)
			if len(diffs) >= maxDifferences {
				out.overflow = true // conflicts are still looked for
				continue
			}
			diffs = append(diffs, d.Clone())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare the owners of shard %d: %w", sh.ID, err)
	}
	// The types that a field has in series that come later are known now.
	out.refusals.chosen = true
	diffs = slices.DeleteFunc(diffs, func(d reconcile.Difference) bool { return out.explained(st, copies, d) })
	if err := s.create(ctx, st, sh, copies); err != nil {
		return err
	}
	before, known := out.points, out.refusals.size()
	out.open = 0
	out.change(func() { out.total, out.fixed = len(diffs), 0 })
	if err := s.patch(ctx, st, sh, copies, diffs, out); err != nil {
		return err
	}
	if out.overflow {
		if out.points == before && out.refusals.size() == known && len(diffs) > 0 {
			return fmt.Errorf("repair of shard %d makes no progress", sh.ID)
		}
		return nil
	}
	if len(diffs) == 0 && out.refused > 0 {
		out.equal = true // but for what is refused
		return nil
	}
	if out.equal, err = equalRoots(ctx, sh, copies, until); err != nil {
		return fmt.Errorf("verify shard %d: %w", sh.ID, err)
	}
	if out.verified = out.equal; !out.equal && last != nil && out.hot && (out.open == 0 || len(copies) == len(sh.Owners)) && !out.found.again(last) {
		// The roots are never equal while all windows are written to. What differs is something else each
		// time: writes on their way.
		out.equal = true
	}
	return nil
}

// until bounds a round: all windows of a shard that nobody writes to, else those that ended before settle.
// In later rounds the copies were written by the repair itself; there the shard's end decides.
func (s *Service) until(sh cluster.Shard, copies []copyOf, round int) int64 {
	before := s.deps.Now().Add(-time.Duration(s.config().Settle))
	if _, any := lacking(copies); any {
		return everything // also what is written to: the copy may lack all of it
	}
	if round == 1 && quiet(copies, before) || round > 1 && sh.End <= before.UnixNano() {
		return everything
	}
	return before.UnixNano()
}

// create makes the shard, empty, on owners that lack it while another has it.
func (s *Service) create(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf) error {
	if !slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.Exists }) {
		return nil
	}
	for i, c := range copies {
		if c.state.Exists {
			continue
		}
		if _, err := c.replica.Apply(ctx, sh, 0, nil); err != nil {
			return fmt.Errorf("create shard %d on %s: %w", sh.ID, addr(st, c.owner), err)
		}
		copies[i].state.Exists = true
	}
	return nil
}
