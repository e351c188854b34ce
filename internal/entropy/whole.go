package entropy

import (
	"context"
	"time"

	"concord/internal/cluster"
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
