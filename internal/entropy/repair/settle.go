package repair

import (
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

func (d *Deps) settled() time.Time {
	return d.Cluster.Now().Add(-time.Duration(d.Config().Settle))
}

// until bounds a round: all windows of a shard that nobody writes to, else those that ended before settle.
// After the first round the copies were written by the repair itself; there the shard's end decides.
func (d *Deps) until(set copies.Set, round int) int64 {
	before := d.settled()
	if _, lacks := set.MostLacking(); lacks {
		return entropy.Everything // also what is written to: the copy may lack all of it
	}
	if round == 1 && set.Quiet(before) || round > 1 && set.Shard.End <= before.UnixNano() {
		return entropy.Everything
	}
	return before.UnixNano()
}
