package entropy

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/copystate"
)

// firstCheck is how long after its start a node checks at the latest, so that
// a replaced node gets its shards soon.
const firstCheck = 10 * time.Second

// checkLoop checks every check-interval, and shards with a mismatch to look at again when it is time.
func (s *Service) checkLoop(ctx context.Context) {
	next := s.deps.Now().Add(min(time.Duration(s.config().CheckInterval), firstCheck))
	for {
		at := next
		if again := s.nextLook(); !again.IsZero() && again.Before(at) {
			at = again
		}
		select {
		case <-ctx.Done():
			return
		case <-s.reload:
			if s.suspected() {
				next = s.deps.Now()
			}
			if soonest := s.deps.Now().Add(time.Duration(s.config().CheckInterval)); next.After(soonest) {
				next = soonest
			}
			continue
		case <-s.deps.After(max(at.Sub(s.deps.Now()), 0)):
		}
		now := s.deps.Now()
		if now.Before(at) || !s.config().Enabled {
			if !now.Before(next) {
				next = now.Add(max(time.Duration(s.config().CheckInterval), time.Second))
			}
			continue
		}
		full := !now.Before(next)
		s.check(ctx, full)
		if full {
			next = s.deps.Now().Add(time.Duration(s.config().CheckInterval))
		}
	}
}

// suspected tells once that a check is due at once.
func (s *Service) suspected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.suspects
	s.suspects = false
	return was
}

func (s *Service) nextLook() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first time.Time
	if !s.cfg.Enabled {
		return first
	}
	for _, c := range s.checks {
		if !c.lookAgain.IsZero() && (first.IsZero() || c.lookAgain.Before(first)) {
			first = c.lookAgain
		}
	}
	return first
}

// CheckNow checks all shards and returns when that is done. Shards that could not be
// compared are logged and looked at again at the next check.
func (s *Service) CheckNow(ctx context.Context) error {
	if !s.config().Enabled {
		return ErrDisabled
	}
	s.check(ctx, true)
	return ctx.Err()
}

// check looks at all shards, or at those whose mismatch is to be looked at again.
func (s *Service) check(ctx context.Context, full bool) {
	s.checking.Lock()
	defer s.checking.Unlock()
	s.purge()
	st := s.deps.Meta.State()
	self := s.deps.Meta.NodeID()
	if st == nil || st.Data == nil || self == 0 {
		return
	}
	live := s.live()
	shards := make([]cluster.Shard, 0, len(live))
	for _, sh := range live {
		if !slices.Contains(sh.Owners, self) || len(sh.Owners) < 2 {
			s.forget(sh.ID)
			continue
		}
		if full || s.lookDue(sh.ID) {
			shards = append(shards, sh)
		}
	}
	if len(shards) == 0 {
		return
	}
	sort.Slice(shards, func(i, j int) bool { return shards[i].ID < shards[j].ID })
	s.log.Info("Checking status", zap.Int("shards", len(shards)))
	s.stats.checks.Add(1)

	states, unreachable := s.states(ctx, st, shards)
	if ctx.Err() != nil {
		return
	}
	for owner, err := range unreachable {
		s.stats.errors.Add(1)
		s.log.Warn("Cannot reach an owner: its shards are compared without it",
			zap.String("node", addr(st, owner)), zap.Error(err))
	}
	skipped := 0
	for _, sh := range shards {
		reason, err := s.checkShard(ctx, st, sh, states)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.fail("Cannot check shard", sh.ID, err)
		case reason != "":
			skipped++
			s.log.Debug("Skipped shard", zap.Uint64("db_shard_id", sh.ID), zap.String("reason", reason))
		}
	}
	if skipped > 0 {
		s.log.Info("Skipped shards", zap.Int("shards", skipped))
	}
}

// states asks each owner once about all its shards among those given.
func (s *Service) states(ctx context.Context, st *cluster.State, shards []cluster.Shard) (map[uint64]map[uint64]ShardState, map[uint64]error) {
	ids := make(map[uint64][]uint64)
	for _, sh := range shards {
		for _, o := range sh.Owners {
			ids[o] = append(ids[o], sh.ID)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	out, failed := make(map[uint64]map[uint64]ShardState), make(map[uint64]error)
	for owner, ids := range ids {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var m map[uint64]ShardState
			rep, err := s.replica(st, owner)
			if err == nil {
				m, err = rep.States(ctx, ids)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[owner] = err
			} else {
				out[owner] = m
			}
		}()
	}
	wg.Wait()
	return out, failed
}

func (s *Service) lookDue(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checks[id]
	return c != nil && !c.lookAgain.IsZero() && !c.lookAgain.After(s.deps.Now())
}

func (s *Service) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.results, id)
	delete(s.checks, id)
}

// copyOf is one reachable owner's copy of a shard during a check or a repair.
type copyOf struct {
	owner   uint64
	replica Replica
	state   ShardState
}

// checkShard compares the copies of one shard, and says why it did not if there was no need.
func (s *Service) checkShard(ctx context.Context, st *cluster.State, sh cluster.Shard, states map[uint64]map[uint64]ShardState) (skip string, err error) {
	var copies []copyOf
	var owners []uint64
	var now []Version
	for _, o := range sh.Owners {
		m, ok := states[o]
		if !ok || !m[sh.ID].usable() { // the others are compared without it
			continue
		}
		rep, err := s.replica(st, o)
		if err != nil {
			continue
		}
		copies = append(copies, copyOf{o, rep, m[sh.ID]})
		owners, now = append(owners, o), append(now, m[sh.ID].Version)
	}
	if len(copies) == 0 || copies[0].owner != s.deps.Meta.NodeID() {
		s.forget(sh.ID)
		return "another node is the first reachable owner", nil
	}
	if len(copies) < 2 {
		return "no other owner is reachable", nil
	}
	if len(healthy(copies)) < len(copies) && slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.Corrupt != "" }) {
		return s.heal(sh, copies)
	}
	s.mu.Lock()
	var last *lastCheck
	if c := s.checks[sh.ID]; c != nil {
		last = &lastCheck{owners: c.owners, states: c.states, until: c.until, lookAgain: c.lookAgain, seen: c.seen}
	}
	worst, lacks := lacking(copies)
	j := s.running[sh.ID]
	if j != nil && lacks {
		j.again = true // what it lacks may be lost since the repair began
	}
	s.mu.Unlock()
	if j != nil {
		return "a repair is running", nil
	}
	// What is on its way is not entropy, and a delete on its way must not meet its points again.
	if from, to, any := onItsWay(copies, owners); any {
		if s.postpone(sh.ID); lacks {
			s.lookAgain(sh.ID, owners)
		}
		return fmt.Sprintf("%s has hinted handoff for %s", addr(st, from), addr(st, to)), nil
	}
	// What a copy is known to lack is repaired at once, whatever is being written.
	if lacks && !slices.ContainsFunc(copies, func(c copyOf) bool { return !c.state.Exists }) {
		equal, err := equalRoots(ctx, sh, copies, everything)
		if err != nil {
			return "", err
		}
		if equal {
			s.whole(ctx, sh, copies)
			s.conclude(sh, nil, &lastCheck{owners: owners})
			return "", nil
		}
	}
	if known, ok := s.knownRefusals(sh, copies); lacks && ok && known.brought(copies) { // its repair ended so, and would again
		lacks = false
	}
	if lacks {
		s.conclude(sh, lackStatus(st, sh, worst), &lastCheck{owners: owners, lacks: lacksOf(copies)})
		return "", nil
	}
	if last == nil || !slices.Equal(last.owners, owners) {
		last = &lastCheck{owners: owners}
	}
	if last.states != nil && slices.Equal(last.states, now) {
		return "not modified since the last check", nil
	}

	s.retryMarkWhole(ctx, sh, copies)
	have := 0
	for _, c := range copies {
		if c.state.Exists {
			have++
		}
	}
	switch have {
	case len(copies):
		return "", s.compare(ctx, st, sh, copies, last, now)
	case 0:
		s.conclude(sh, nil, &lastCheck{owners: owners, states: now})
		return "", nil
	}
	settle := time.Duration(s.config().Settle)
	// A clock that is far ahead is not believed.
	if at := settledAt(copies, settle); at.After(s.deps.Now()) && at.Sub(s.deps.Now()) <= 2*settle {
		s.conclude(sh, nil, &lastCheck{owners: owners, lookAgain: at})
		notify(s.reload)
		return "its first write may be on its way to the owners that lack it", nil
	}
	s.conclude(sh, &ShardStatus{ID: sh.ID, Status: Missing}, &lastCheck{owners: owners, states: now})
	return "", nil
}

// onItsWay finds a copy for which some node keeps writes or deletes, and that node.
func onItsWay(copies []copyOf, owners []uint64) (from, to uint64, any bool) {
	for _, c := range copies {
		for _, to := range c.state.Hints {
			if slices.Contains(owners, to) {
				return c.owner, to, true
			}
		}
		if len(c.state.Waiting) > 0 {
			return c.state.Waiting[0], c.owner, true
		}
	}
	return 0, 0, false
}

// lackStatus is the status of a shard of which a copy is known to lack something.
func lackStatus(st *cluster.State, sh cluster.Shard, c copyOf) *ShardStatus {
	status := Missing
	if c.state.Exists && c.state.Lack.Kind == copystate.Missed {
		status = Diff
	}
	return &ShardStatus{ID: sh.ID, Status: status, Message: addr(st, c.owner) + ": " + c.state.Lack.Why}
}

// lookLater is after which time a shard is looked at again whose repair waits for hinted handoff. The owner of the copy
// that lacks something says so earlier, when all that waited has arrived.
const lookLater = 30 * time.Second

// lookAgain has a shard checked again in a while.
func (s *Service) lookAgain(id uint64, owners []uint64) {
	s.mu.Lock()
	s.checks[id] = &lastCheck{owners: owners, lookAgain: s.deps.Now().Add(lookLater)}
	s.mu.Unlock()
	notify(s.reload)
}

// postpone puts off the second look at a shard that cannot be compared now: one
// that stays due would have the shard checked without pause.
func (s *Service) postpone(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.checks[id]; c != nil && !c.lookAgain.IsZero() {
		c.lookAgain = s.deps.Now().Add(max(time.Duration(s.cfg.Settle), time.Second))
	}
}

// conclude keeps the result of a check, nil for clean, and queues the shard if that is to be done unasked.
func (s *Service) conclude(sh cluster.Shard, result *ShardStatus, check *lastCheck) {
	s.mu.Lock()
	old, had := s.results[sh.ID]
	before := s.checks[sh.ID]
	s.checks[sh.ID] = check
	if result == nil {
		delete(s.results, sh.ID)
	} else {
		s.results[sh.ID] = *result
	}
	cfg := s.cfg
	s.mu.Unlock()
	if result == nil {
		return
	}
	if !had || old != *result {
		s.log.Info("Found entropy", zap.Uint64("db_shard_id", sh.ID), zap.String("db_instance", sh.Database),
			zap.String("db_rp", sh.RetentionPolicy), zap.String("status", string(result.Status)), zap.String("message", result.Message))
	}
	auto := (result.Status == Missing || check.lacks != nil) && cfg.AutoRepairMissing || result.Status == Diff && cfg.AutoRepairDiff
	if !auto || sh.Owners[0] != s.deps.Meta.NodeID() {
		return
	}
	if err := s.enqueue(sh.ID); err != nil {
		s.fail("Cannot queue shard", sh.ID, err)
		return
	}
	// An earlier attempt that failed, because an owner was away, says nothing of what was lost, or who came, since.
	if before == nil || !slices.Equal(before.owners, check.owners) || !slices.Equal(before.lacks, check.lacks) {
		if err := s.queue.hurry(sh.ID, s.deps.Now()); err != nil {
			s.fail("Cannot hurry the repair of a shard", sh.ID, err)
		}
		notify(s.wake)
	}
}
