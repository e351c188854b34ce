package copies

import (
	"context"
	"sync"

	"concord/internal/copystate"
	"concord/internal/entropy"
)

// Equality tells owners that their copies were found equal to the others. It remembers those that it could not reach.
type Equality struct {
	report *entropy.Report

	mu         sync.Mutex
	notReached map[uint64]map[uint64]compared // owners that could not be told, by shard, by node
}

// compared is what the copy of an owner was when it was found equal.
type compared struct {
	began copystate.Beginning
	lacks uint64 // Lack.Gen
}

// NewEquality returns an Equality that has told nothing yet.
func NewEquality(report *entropy.Report) *Equality {
	return &Equality{report: report, notReached: make(map[uint64]map[uint64]compared)}
}

// Tell tells owners that their copies were found equal to the others. It leaves out copies that lack nothing and are
// FoundEqual already. Which other owners are told depends on who takes part:
//
//   - All owners: each is told.
//   - Not all, but one of the equal copies is whole: only owners of copies that lacked something are told. If the rest
//     became FoundEqual too, the copy of the absent owner would seem to have begun late.
//   - Not all, and none of the copies is whole: nobody is told.
//
// The owner of a Stale copy is told only if one of the equal copies is whole. Otherwise all may lack the same deletes.
func (e *Equality) Tell(ctx context.Context, set Set) {
	all, anyWhole := set.Complete(), set.Any(entropy.ShardState.Whole)
	for _, c := range set.Copies {
		lacks, began := c.State.Lack.Kind != "", c.State.Beginning != copystate.FoundEqual
		if !(all && (began || lacks) || lacks && anyWhole) || c.State.Lack.Kind == copystate.Stale && !anyWhole {
			continue
		}
		was := compared{c.State.Beginning, c.State.Lack.Gen}
		if e.tell(ctx, set.Shard.ID, c, was.lacks) {
			continue
		}
		e.mu.Lock()
		if e.notReached[set.Shard.ID] == nil {
			e.notReached[set.Shard.ID] = make(map[uint64]compared)
		}
		e.notReached[set.Shard.ID][c.ID] = was
		e.mu.Unlock()
	}
}

func (e *Equality) tell(ctx context.Context, shard uint64, c Copy, lacks uint64) bool {
	err := c.Replica.Whole(ctx, shard, lacks)
	if err != nil {
		e.report.Fail("Cannot tell an owner that its copy is whole", shard, err)
	}
	return err == nil
}

// Retry tells the owners that Tell could not reach. The other owners were told, and are FoundEqual. Beside them such a
// copy would seem to have begun late, so in set it is FoundEqual, too.
func (e *Equality) Retry(ctx context.Context, set Set) {
	for i := range set.Copies {
		c := &set.Copies[i]
		e.mu.Lock()
		was, ok := e.notReached[set.Shard.ID][c.ID]
		e.mu.Unlock()
		if !ok {
			continue
		}
		if c.State.Beginning == was.began { // else it lost the shard since, or a write began it again
			c.State.Beginning = copystate.FoundEqual
			if !e.tell(ctx, set.Shard.ID, *c, was.lacks) { // what it has missed since stays noted
				continue
			}
		}
		e.mu.Lock()
		delete(e.notReached[set.Shard.ID], c.ID)
		e.mu.Unlock()
	}
}

// Forget forgets shards that are gone.
func (e *Equality) Forget(gone func(shard uint64) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.notReached {
		if gone(id) {
			delete(e.notReached, id)
		}
	}
}
