package check

import (
	"context"
	"fmt"
	"slices"
	"time"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// shard checks the copies of one shard, and says why it did not if there was no need.
//
// The questions are in this order: does another node check it? Is a copy damaged? Is it being repaired? Is something on
// its way? Is a copy known to lack something? Did it change since the last check? Does a copy not exist? Only then the
// contents are compared.
func (c *Checker) shard(ctx context.Context, set copies.Set) (skip string, err error) {
	id := set.Shard.ID
	if len(set.Copies) == 0 || !set.Copies[0].Own {
		c.Forget(id)
		return "another node is the first reachable owner", nil
	}
	if len(set.Copies) < 2 {
		return "no other owner is reachable", nil
	}
	if set.Any(func(st entropy.ShardState) bool { return st.Corrupt != "" }) {
		return c.heal(set)
	}
	_, lacks := set.MostLacking()
	// What a copy lacks may be lost since its repair began.
	if c.Repairs.Running(id, lacks) {
		return "a repair is running", nil
	}
	// What is on its way is not entropy, and a delete on its way must not meet its points again.
	if from, to, any := set.OnItsWay(); any {
		if c.postpone(id); lacks {
			c.lookAgain(set)
		}
		return fmt.Sprintf("%s has hinted handoff for %s", c.Cluster.Addr(from), c.Cluster.Addr(to)), nil
	}
	if lacks {
		if done, err := c.lacking(ctx, set); done || err != nil {
			return "", err
		}
	}
	last := c.lastOf(set)
	if last.states != nil && slices.Equal(last.states, set.Versions()) {
		return "not modified since the last check", nil
	}
	c.Equality.Retry(ctx, set)
	switch set.Existing() {
	case len(set.Copies):
		return "", c.compare(ctx, set, last)
	case 0:
		c.conclude(set, nil, &lastCheck{owners: last.owners, states: set.Versions()})
		return "", nil
	}
	return c.missing(set, last), nil
}

// lastOf is what is remembered of a shard when the same owners were reached.
func (c *Checker) lastOf(set copies.Set) lastCheck {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.last[set.Shard.ID]; l != nil && slices.Equal(l.owners, set.Owners()) {
		return *l
	}
	return lastCheck{owners: set.Owners()}
}

// heal queues the repair of a shard with damaged copies, when another copy is sound.
func (c *Checker) heal(set copies.Set) (reason string, err error) {
	sh := set.Shard
	if !set.Any(entropy.ShardState.Healthy) {
		return "no owner that is reachable has an undamaged copy", nil
	}
	c.Forget(sh.ID) // the damaged owner says what is wrong
	if sh.Owners[0] != c.Cluster.Self() {
		return "a copy is damaged, and the first owner is away", nil
	}
	if left, ok := c.Refusals.Of(sh.ID, set.Owners()); ok { // its repair ended so, and would again
		return "a copy is damaged, and lacks points that it refuses: " + left.Message, nil
	}
	return "a copy is damaged: its repair is queued", c.Repairs.Queue(sh.ID)
}

// lacking checks a shard of which a copy is known to lack something: it is repaired at once, whatever is being written.
// done is false when it is to be compared like any other.
func (c *Checker) lacking(ctx context.Context, set copies.Set) (done bool, err error) {
	if set.Existing() == len(set.Copies) {
		equal, err := set.EqualRoots(ctx, entropy.Everything)
		if err != nil {
			return false, err
		}
		if equal {
			c.Equality.Tell(ctx, set)
			c.conclude(set, nil, &lastCheck{owners: set.Owners()})
			return true, nil
		}
	}
	left, ok := c.Refusals.Of(set.Shard.ID, set.Owners())
	if ok && slices.Equal(left.Lacks, set.Lacks()) { // nothing was lost since its repair, which would end as it did
		return false, nil
	}
	worst, _ := set.MostLacking()
	status := entropy.Missing
	if worst.State.Exists && worst.State.Lack.Kind == copystate.Missed {
		status = entropy.Diff
	}
	c.conclude(set, &entropy.ShardStatus{
		ID: set.Shard.ID, Status: status, Message: worst.TCPAddr + ": " + worst.State.Lack.Why,
	}, &lastCheck{owners: set.Owners(), lacks: set.Lacks()})
	return true, nil
}

// missing checks a shard that some owners have and others lack.
func (c *Checker) missing(set copies.Set, last lastCheck) (skip string) {
	settle := c.settle()
	settled := set.SettledAt(settle)
	wait := settled.Sub(c.Cluster.Now())
	if wait > 0 && wait <= 2*settle { // a clock that is far ahead is not believed
		c.conclude(set, nil, &lastCheck{owners: last.owners, lookAgain: settled})
		c.wakeUp()
		return "its first write may be on its way to the owners that lack it"
	}
	c.conclude(set, &entropy.ShardStatus{ID: set.Shard.ID, Status: entropy.Missing},
		&lastCheck{owners: last.owners, states: set.Versions()})
	return ""
}

// lookLater is after which time a shard is looked at again whose repair waits for hinted handoff. The owner of the copy
// that lacks something says so earlier, when all that waited has arrived.
const lookLater = 30 * time.Second

// lookAgain has a shard checked again in a while.
func (c *Checker) lookAgain(set copies.Set) {
	c.mu.Lock()
	c.last[set.Shard.ID] = &lastCheck{owners: set.Owners(), lookAgain: c.Cluster.Now().Add(lookLater)}
	c.mu.Unlock()
	c.wakeUp()
}

// postpone puts off the second look at a shard that cannot be compared now: one
// that stays due would have the shard checked without pause.
func (c *Checker) postpone(shard uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.last[shard]; l != nil && !l.lookAgain.IsZero() {
		l.lookAgain = c.Cluster.Now().Add(max(c.settle(), time.Second))
	}
}
