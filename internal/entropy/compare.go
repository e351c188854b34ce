package entropy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// everything as the until of a comparison means all windows.
const everything int64 = math.MaxInt64

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
	if again := found.again(last.seen); second && (again || found.conflict != "") {
		found.repairable = found.repairable && again
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
	if oneBeganLate(copies) {
		result.Status = Missing // an owner has only what was written since it lost the shard
	}
	late := result.Status == Missing
	if found.conflict != "" {
		result.Status, result.Message = Conflict, found.conflict
	}
	s.conclude(sh, &result, check)
	if found.conflict != "" && found.repairable {
		s.repairBeside(sh, late)
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
		if c.owner != s.deps.Meta.NodeID() { // this node lists its own copy: nothing crosses the network
			out[i].Summarize = func(ctx context.Context, key uint64) (reconcile.Summary, error) {
				return c.replica.Summarize(ctx, sh, until, key)
			}
		}
	}
	return out
}

// differences are what a look at the owners of a shard found.
type differences struct {
	conflict   string              // describes what owners refuse: fields that have different types on two owners
	repairable bool                // beside a conflict there is something that they do not refuse
	windows    map[uint64]struct{} // which differ, and how, hashed
	more       bool                // than are in windows
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
	if before == nil || d.more && before.more {
		return true
	}
	for w := range d.windows {
		if _, ok := before.windows[w]; ok {
			return true
		}
	}
	return false
}

// findDifferences compares the owners.
func (s *Service) findDifferences(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, until int64) (*differences, error) {
	found := &differences{windows: make(map[uint64]struct{})}
	look, refused := newTypedLook(), 0
	known, ok := s.knownRefusals(sh, copies)
	err := s.deps.Reconciler.Differences(ctx, s.owners(sh, copies, until), func(d reconcile.Difference) error {
		for _, of := range byType(d) {
			if ok {
				if _, explained := known.explain(of); explained {
					refused++
					continue
				}
			}
			look.add(of)
			found.add(of)
		}
		return nil
	})
	found.conflict = conflictMessage(look.conflicts(st, copies))
	if refused > 0 {
		found.conflict = known.message
	}
	found.repairable = look.repairable()
	return found, err
}
