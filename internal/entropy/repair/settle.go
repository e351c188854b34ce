package repair

import (
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

func (d *Deps) settled() time.Time {
	return d.Cluster.Now().Add(-time.Duration(d.Config().Settle))
}

// until returns, in nanoseconds, by when the windows of a round must have ended. It is entropy.Everything when a copy
// lacks something, and for a shard that is not written to. Otherwise it is settle ago. The repair itself writes in its
// first round. So in later rounds a shard counts as written to until it ended longer than settle ago.
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
