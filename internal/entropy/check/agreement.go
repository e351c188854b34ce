package check

import (
	"time"

	"concord/internal/entropy"
)

// Agreement counts the shards that this node checks, by what is known of their copies.
type Agreement struct {
	Shards  int                    // with more than one owner
	Equal   int                    // all copies held the same data when they were last compared
	Found   map[entropy.Status]int // diff, missing and conflict
	Unknown int                    // the others: not compared yet, an owner is away, or writes wait for a copy

	// Oldest is when the shard that has differed for the longest time was first found to differ; zero when none
	// differs. Shards in conflict are not counted: no repair ends a conflict.
	Oldest     time.Time
	CheckedAll time.Time // when the last check of all shards ended; the start before the first one
}

// Agreement counts the shards of which this node is the first owner, or has been the first that could be reached.
func (c *Checker) Agreement() Agreement {
	out := Agreement{Found: make(map[entropy.Status]int)}
	live, self := c.Cluster.Live(), c.Cluster.Self()
	c.mu.Lock()
	defer c.mu.Unlock()
	if out.CheckedAll = c.full; c.full.IsZero() {
		out.CheckedAll = c.began
	}
	for id, sh := range live {
		r, differs := c.results[id]
		last := c.last[id]
		if len(sh.Owners) < 2 || sh.Owners[0] != self && !differs && last == nil {
			continue
		}
		out.Shards++
		switch {
		case differs:
			out.Found[r.Status]++
			since := c.since[id]
			if r.Status != entropy.Conflict && (out.Oldest.IsZero() || since.Before(out.Oldest)) {
				out.Oldest = since
			}
		case !c.compared[id].IsZero() && !c.partial[id] && (last == nil || last.lookAgain.IsZero()):
			out.Equal++
		default:
			out.Unknown++
		}
	}
	return out
}
