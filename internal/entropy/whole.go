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

// whole tells owners whose copy a write began, or lacked something, that it is equal to the others. While an owner is
// away none is told of its beginning: it would seem to have begun late. Of what it lacked it is told when one of the
// equal copies is whole, or when there is no other.
func (s *Service) whole(ctx context.Context, sh cluster.Shard, copies []copyOf) {
	all := len(copies) == len(sh.Owners)
	anyWhole := slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.whole() })
	for _, c := range copies {
		if lacks := c.state.Lack.Kind != ""; !(all && (c.state.Begun != 0 || lacks) || lacks && anyWhole) {
			continue
		}
		if err := c.replica.Whole(ctx, sh.ID, c.state.Lack.Gen); err != nil {
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

// whole tells whether a copy has all that the others may lack.
func (s ShardState) whole() bool {
	return s.Exists && s.Corrupt == "" && s.Lack.Kind == "" && len(s.Waiting) == 0 && !BegunByCopy(s.Begun)
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
			if err := c.replica.Whole(ctx, sh.ID, c.state.Lack.Gen); err != nil {
				s.fail("Cannot tell an owner that its copy is whole", sh.ID, err)
				continue
			}
		}
		s.mu.Lock()
		delete(s.unaware[sh.ID], c.owner)
		s.mu.Unlock()
	}
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
