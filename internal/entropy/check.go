package entropy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// everything as the until of a comparison means all windows.
const everything int64 = math.MaxInt64

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
	_, busy := s.running[sh.ID]
	s.mu.Unlock()
	if busy {
		return "a repair is running", nil
	}
	// What is on its way is not entropy, and a delete on its way must not meet its points again.
	for _, c := range copies {
		for _, to := range c.state.Hints {
			if slices.Contains(owners, to) {
				s.postpone(sh.ID)
				return fmt.Sprintf("%s has hinted handoff for %s", addr(st, c.owner), addr(st, to)), nil
			}
		}
	}
	if last == nil || !slices.Equal(last.owners, owners) {
		last = &lastCheck{owners: owners}
	}
	if last.states != nil && slices.Equal(last.states, now) {
		return "not modified since the last check", nil
	}

	s.aware(ctx, sh, copies)
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
	if until := youngUntil(copies, settle); until.After(s.deps.Now()) && until.Sub(s.deps.Now()) <= 2*settle {
		s.conclude(sh, nil, &lastCheck{owners: owners, lookAgain: until})
		notify(s.reload)
		return "its first write may be on its way to the owners that lack it", nil
	}
	s.conclude(sh, &ShardStatus{ID: sh.ID, Status: Missing}, &lastCheck{owners: owners, states: now})
	return "", nil
}

// youngUntil is when settle is over since a write began the last of the copies that there are. It is the zero time when one is none that a write began.
func youngUntil(copies []copyOf, settle time.Duration) (until time.Time) {
	for _, c := range copies {
		if !c.state.Exists {
			continue
		}
		if c.state.Begun == 0 || BegunByCopy(c.state.Begun) {
			return time.Time{}
		}
		if at := time.Unix(0, c.state.Begun).Add(settle); at.After(until) {
			until = at
		}
	}
	return until
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
	auto := result.Status == Missing && cfg.AutoRepairMissing || result.Status == Diff && cfg.AutoRepairDiff
	if auto && sh.Owners[0] == s.deps.Meta.NodeID() {
		if err := s.enqueue(sh.ID); err != nil {
			s.fail("Cannot queue shard", sh.ID, err)
		}
	}
}

func quiet(copies []copyOf, before time.Time) bool {
	for _, c := range copies {
		if c.state.Exists && c.state.LastModified >= before.UnixNano() {
			return false
		}
	}
	return true
}

// compare compares the roots of copies that all exist. Of a shard that is
// being written only windows that ended before settle count, and a window has to
// differ twice in the same way: a write in flight is not entropy.
func (s *Service) compare(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, last *lastCheck, states []Version) error {
	now := s.deps.Now()
	settle := time.Duration(s.config().Settle)
	if quiet(copies, now.Add(-settle)) {
		equal, err := equalRoots(ctx, sh, copies, everything)
		if err != nil {
			return err
		}
		if equal {
			s.whole(ctx, sh, copies)
			s.conclude(sh, nil, &lastCheck{owners: last.owners, states: states})
			return nil
		}
		same, err := unchanged(ctx, sh, copies)
		if err != nil {
			return err
		}
		if same {
			return s.concludeDiff(ctx, st, sh, copies, everything, &lastCheck{owners: last.owners, states: states})
		}
	}

	until := now.Add(-settle).UnixNano()
	second := last.seen != nil
	if second {
		if now.Before(last.lookAgain) {
			return nil
		}
		until = last.until
	}
	equal, err := equalRoots(ctx, sh, copies, until)
	switch {
	case err != nil:
		return err
	case equal:
		// Younger windows may still differ: without states the next check looks again.
		s.whole(ctx, sh, copies)
		s.conclude(sh, nil, &lastCheck{owners: last.owners})
		return nil
	}
	found, err := s.findDifferences(ctx, st, sh, copies, until)
	if err != nil {
		return err
	}
	if second && found.again(last.seen) {
		s.concludeFound(sh, copies, found, &lastCheck{owners: last.owners})
		return nil
	}
	s.mu.Lock()
	s.checks[sh.ID] = &lastCheck{owners: last.owners, until: now.Add(-settle).UnixNano(), lookAgain: now.Add(max(settle, time.Second)), seen: found}
	s.mu.Unlock()
	notify(s.reload)
	return nil
}

func (s *Service) concludeDiff(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, until int64, check *lastCheck) error {
	found, err := s.findDifferences(ctx, st, sh, copies, until)
	if err != nil {
		return err
	}
	s.concludeFound(sh, copies, found, check)
	return nil
}

func (s *Service) concludeFound(sh cluster.Shard, copies []copyOf, found *differences, check *lastCheck) {
	result := ShardStatus{ID: sh.ID, Status: Diff}
	if begunLate(copies) {
		result.Status = Missing // an owner has only what was written since it lost the shard
	}
	if found.conflict != "" {
		result.Status, result.Message = Conflict, found.conflict
	}
	s.conclude(sh, &result, check)
}

// begunTogether is within which time the owners of a new shard begin it.
const begunTogether = 10 * time.Second

// begunLate tells whether a write began a copy long after the others.
func begunLate(copies []copyOf) bool {
	first, last := copies[0].state.Begun, copies[0].state.Begun
	for _, c := range copies {
		first, last = min(first, c.state.Begun), max(last, c.state.Begun)
	}
	return BegunAfter(first, last)
}

// BegunAfter tells whether a copy that began at last lacks what one that began
// at first may have; both are as in ShardState.
func BegunAfter(first, last int64) bool {
	return last > first && (first == 0 || BegunByCopy(last) || last-first > int64(begunTogether))
}

// BegunByCopy tells whether that is what a copy begins with, until it is found equal to its source.
func BegunByCopy(begun int64) bool { return begun == copied }

// whole tells owners whose copy a write began that it is equal to the others.
// While one is away none is told: it would seem to have begun late.
func (s *Service) whole(ctx context.Context, sh cluster.Shard, copies []copyOf) {
	if len(copies) < len(sh.Owners) {
		return
	}
	for _, c := range copies {
		if c.state.Begun == 0 {
			continue
		}
		if err := c.replica.Whole(ctx, sh.ID); err != nil {
			s.fail("Cannot tell an owner that its copy is whole", sh.ID, err)
			s.mu.Lock()
			if s.unaware[sh.ID] == nil {
				s.unaware[sh.ID] = make(map[uint64]int64)
			}
			s.unaware[sh.ID][c.owner] = c.state.Begun
			s.mu.Unlock()
		}
	}
}

// aware tells the owners of which whole could not. Beside the others, who were told, they would seem to have begun late.
func (s *Service) aware(ctx context.Context, sh cluster.Shard, copies []copyOf) {
	for i := range copies {
		c := &copies[i]
		s.mu.Lock()
		begun, ok := s.unaware[sh.ID][c.owner]
		s.mu.Unlock()
		if !ok {
			continue
		}
		if c.state.Begun == begun { // else it lost the shard since, or a write began it again
			c.state.Begun = 0
			if err := c.replica.Whole(ctx, sh.ID); err != nil {
				s.fail("Cannot tell an owner that its copy is whole", sh.ID, err)
				continue
			}
		}
		s.mu.Lock()
		delete(s.unaware[sh.ID], c.owner)
		s.mu.Unlock()
	}
}

// equalRoots computes the roots of all copies at the same time.
func equalRoots(ctx context.Context, sh cluster.Shard, copies []copyOf, until int64) (bool, error) {
	roots, errs := make([]digest.Sum, len(copies)), make([]error, len(copies))
	var wg sync.WaitGroup
	for i, c := range copies {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if roots[i], errs[i] = c.replica.Root(ctx, sh, until); errs[i] != nil {
				errs[i] = fmt.Errorf("root of node %d: %w", c.owner, errs[i])
			}
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	for _, r := range roots[1:] {
		if r != roots[0] {
			return false, nil
		}
	}
	return true, nil
}

func unchanged(ctx context.Context, sh cluster.Shard, copies []copyOf) (bool, error) {
	for _, c := range copies {
		m, err := c.replica.States(ctx, []uint64{sh.ID})
		if err != nil {
			return false, fmt.Errorf("state of node %d: %w", c.owner, err)
		}
		if m[sh.ID].LastModified != c.state.LastModified || !m[sh.ID].Exists {
			return false, nil
		}
	}
	return true, nil
}

// owners are the copies as a Reconciler takes them.
func (s *Service) owners(sh cluster.Shard, copies []copyOf, until int64) []reconcile.Owner {
	out := make([]reconcile.Owner, len(copies))
	for i, c := range copies {
		out[i].List = func(ctx context.Context, fn func(*digest.SeriesField) error) error {
			return c.replica.Digests(ctx, sh, until, fn)
		}
		if far, ok := c.replica.(Summarizer); ok && c.owner != s.deps.Meta.NodeID() {
			out[i].Summarize = func(ctx context.Context, key uint64) (reconcile.Summary, error) {
				return far.Summarize(ctx, sh, until, key)
			}
		}
	}
	return out
}

var errStop = errors.New("stop")

// differences are what a look at the owners of a shard found.
type differences struct {
	conflict string              // describes the first field that has different types on two owners
	windows  map[uint64]struct{} // which differ, and how, hashed
	more     bool                // than are in windows
}

// maxSeen bounds the windows that are remembered for the second look.
const maxSeen = 1 << 16

func (d *differences) add(diff reconcile.Difference) {
	field := reconcile.HashOf(0, diff.Series, diff.Field)
	i := 0
	for set := diff.Windows; set != 0; set &= set - 1 {
		if d.more = len(d.windows) >= maxSeen; d.more {
			return
		}
		d.windows[reconcile.Mark([]uint64{field, uint64(bits.TrailingZeros64(set)), diff.Marks[i]})] = struct{}{}
		i++
	}
}

// again tells whether a window differs as it did in the look before.
func (d *differences) again(before *differences) bool {
	if before == nil || d.conflict != "" || d.more && before.more {
		return true
	}
	for w := range d.windows {
		if _, ok := before.windows[w]; ok {
			return true
		}
	}
	return false
}

// findDifferences compares the owners, to their first conflict of types.
func (s *Service) findDifferences(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, until int64) (*differences, error) {
	found := &differences{windows: make(map[uint64]struct{})}
	err := s.deps.Reconciler.Differences(ctx, s.owners(sh, copies, until), func(d reconcile.Difference) error {
		if d.Conflict() {
			found.conflict = describeConflict(st, copies, d)
			return errStop
		}
		found.add(d)
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return found, err
}

var typeNames = [...]string{"nothing", "float", "integer", "boolean", "string", "unsigned"}

func describeConflict(st *cluster.State, copies []copyOf, d reconcile.Difference) string {
	var types []string
	for i, t := range d.Types {
		if t != 0 && i < len(copies) && int(t) < len(typeNames) {
			types = append(types, typeNames[t]+" on "+addr(st, copies[i].owner))
		}
	}
	return fmt.Sprintf("measurement %q field %q is %s", models.ParseName(d.Series), d.Field, strings.Join(types, ", "))
}
