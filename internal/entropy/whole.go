package entropy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/copystate"
)

// oneBeganLate reports whether a copy lacks older points that another one may have, as their beginnings tell.
func oneBeganLate(copies []copyOf) bool {
	first, last := copies[0].state.Beginning, copies[0].state.Beginning
	for _, c := range copies {
		first, last = min(first, c.state.Beginning), max(last, c.state.Beginning)
	}
	return last.LaterThan(first)
}

// whole tells owners whose copy a write began, or lacked something, that it is equal to the others. While an owner is
// away none is told of its beginning: it would seem to have begun late. Of what it lacked it is told when one of the
// equal copies is whole, or when there is no other.
func (s *Service) whole(ctx context.Context, sh cluster.Shard, copies []copyOf) {
	all := len(copies) == len(sh.Owners)
	anyWhole := slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.whole() })
	for _, c := range copies {
		if lacks := c.state.Lack.Kind != ""; !(all && (c.state.Beginning != copystate.FoundEqual || lacks) || lacks && anyWhole) {
			continue
		}
		if err := c.replica.Whole(ctx, sh.ID, c.state.Lack.Gen); err != nil {
			s.fail("Cannot tell an owner that its copy is whole", sh.ID, err)
			s.mu.Lock()
			if s.pendingWhole[sh.ID] == nil {
				s.pendingWhole[sh.ID] = make(map[uint64]copystate.Beginning)
			}
			s.pendingWhole[sh.ID][c.owner] = c.state.Beginning
			s.mu.Unlock()
		}
	}
}

// whole tells whether a copy has all that the others may lack.
func (s ShardState) whole() bool {
	return s.Exists && s.Corrupt == "" && s.Lack.Kind == "" && len(s.Waiting) == 0 && s.Beginning != copystate.FromFiles
}

// right tells whether what a copy has is what it should have, although it may lack some writes.
func (s ShardState) right() bool {
	return s.Exists && s.Corrupt == "" && !s.Lack.Kind.Worse(copystate.Missed)
}

// lacking is the copy that lacks the most, false when none lacks anything.
func lacking(copies []copyOf) (worst copyOf, any bool) {
	for _, c := range copies {
		if c.state.Lack.Kind.Worse(worst.state.Lack.Kind) {
			worst, any = c, true
		}
	}
	return worst, any
}

// makeAnew removes copies that may hold deleted points, when they differ from the others and another copy holds none:
// a merge would bring these points back everywhere. They are then missing, and filled. The other copy may lack some
// writes: what it has is right.
func (s *Service) makeAnew(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf) (bool, error) {
	stale := func(c copyOf) bool { return c.state.Exists && c.state.Lack.Kind == copystate.Stale }
	if !slices.ContainsFunc(copies, stale) || !slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.right() }) {
		return false, nil
	}
	equal, err := equalRoots(ctx, sh, copies, everything)
	if err != nil || equal {
		return false, err
	}
	for _, c := range copies {
		if !stale(c) {
			continue
		}
		if err := c.replica.Discard(ctx, sh.ID, c.state.Lack.Gen); err != nil {
			return false, fmt.Errorf("remove the copy of shard %d on %s, to make it anew: %w", sh.ID, addr(st, c.owner), err)
		}
		s.log.Info("Removed a copy that may hold deleted points: it is made anew", zap.Uint64("db_shard_id", sh.ID), zap.String("node", addr(st, c.owner)), zap.String("reason", c.state.Lack.Why))
	}
	return true, nil
}

// retryMarkWhole tells the owners that whole could not reach. The other owners were told, and are FoundEqual. Beside
// them such a copy would seem to have begun late.
func (s *Service) retryMarkWhole(ctx context.Context, sh cluster.Shard, copies []copyOf) {
	for i := range copies {
		c := &copies[i]
		s.mu.Lock()
		began, ok := s.pendingWhole[sh.ID][c.owner]
		s.mu.Unlock()
		if !ok {
			continue
		}
		if c.state.Beginning == began { // else it lost the shard since, or a write began it again
			c.state.Beginning = copystate.FoundEqual
			if err := c.replica.Whole(ctx, sh.ID, c.state.Lack.Gen); err != nil {
				s.fail("Cannot tell an owner that its copy is whole", sh.ID, err)
				continue
			}
		}
		s.mu.Lock()
		delete(s.pendingWhole[sh.ID], c.owner)
		s.mu.Unlock()
	}
}

// settledAt is when the time settle is over since a write began the newest of the existing copies. It is the zero time
// when one of them was not begun by a write.
func settledAt(copies []copyOf, settle time.Duration) (settled time.Time) {
	for _, c := range copies {
		if !c.state.Exists {
			continue
		}
		began, ok := c.state.Beginning.Time()
		if !ok {
			return time.Time{}
		}
		if at := began.Add(settle); at.After(settled) {
			settled = at
		}
	}
	return settled
}
