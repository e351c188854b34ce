package check

import (
	"context"
	"fmt"
	"slices"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// shard checks the copies of one shard, and says why it did not if there was no need.
//
// The questions are in this order: does another node check it? Is a copy damaged? Is it being repaired? Is something on
// its way? Is a copy known to lack something? Did it change since the last check? Does a copy not exist? Only then the
// contents are compared.
func (j *judge) shard(ctx context.Context, set copies.Set) (skip string, err error) {
	id := set.Shard.ID
	if len(set.Copies) == 0 || !set.Copies[0].Own {
		j.Forget(id)
		return "another node is the first reachable owner", nil
	}
	from, to, onItsWay := set.OnItsWay()
	j.reached(id, set.Complete() && !onItsWay)
	if len(set.Copies) < 2 {
		return "no other owner is reachable", nil
	}
	if set.Any(func(st entropy.ShardState) bool { return st.Corrupt != "" }) {
		return j.heal(set)
	}
	_, lacks := set.MostLacking()
	// What a copy lacks may be lost since its repair began.
	if j.Repairs.Running(id, lacks) {
		return "a repair is running", nil
	}
	// What is on its way is not entropy, and a delete on its way must not meet its points again.
	if onItsWay {
		if lacks {
			j.lookLater(set)
		}
		return fmt.Sprintf("%s has hinted handoff for %s", j.Cluster.Addr(from), j.Cluster.Addr(to)), nil
	}
	if lacks {
		if done, err := j.lacking(ctx, set); done || err != nil {
			return "", err
		}
	}
	last := j.lastOf(set)
	if last.states != nil && slices.Equal(last.states, set.Versions()) {
		return "not modified since the last check", nil
	}
	j.Equality.Retry(ctx, set)
	switch set.Existing() {
	case len(set.Copies):
		return "", j.compare(ctx, set, last)
	case 0:
		j.conclude(set, nil, &lastCheck{owners: last.owners, states: set.Versions()})
		return "", nil
	}
	return j.missing(set, last), nil
}

// heal queues the repair of a shard with damaged copies, when another copy is sound.
func (j *judge) heal(set copies.Set) (reason string, err error) {
	sh := set.Shard
	if !set.Any(entropy.ShardState.Healthy) {
		return "no owner that is reachable has an undamaged copy", nil
	}
	j.Forget(sh.ID) // the damaged owner says what is wrong
	if sh.Owners[0] != j.Cluster.Self() {
		return "a copy is damaged, and the first owner is away", nil
	}
	if left, ok := j.Refusals.Of(sh.ID, set.Owners()); ok { // its repair ended so, and would again
		return "a copy is damaged, and lacks points that it refuses: " + left.Message, nil
	}
	return "a copy is damaged: its repair is queued", j.Repairs.Queue(sh.ID)
}

// lacking checks a shard of which a copy is known to lack something: it is repaired at once, whatever is being written.
// done is false when it is to be compared like any other.
func (j *judge) lacking(ctx context.Context, set copies.Set) (done bool, err error) {
	if set.Existing() == len(set.Copies) {
		equal, err := set.EqualRoots(ctx, entropy.Everything)
		if err != nil {
			return false, err
		}
		if equal {
			j.Equality.Tell(ctx, set)
			j.conclude(set, nil, &lastCheck{owners: set.Owners()})
			return true, nil
		}
	}
	left, ok := j.Refusals.Of(set.Shard.ID, set.Owners())
	if ok && slices.Equal(left.Lacks, set.Lacks()) { // nothing was lost since its repair, which would end as it did
		return false, nil
	}
	worst, _ := set.MostLacking()
	status := entropy.Missing
	if worst.State.Exists && worst.State.Lack.Kind == copystate.Missed {
		status = entropy.Diff
	}
	j.conclude(set, &entropy.ShardStatus{
		ID: set.Shard.ID, Status: status, Message: worst.TCPAddr + ": " + worst.State.Lack.Why,
	}, &lastCheck{owners: set.Owners(), lacks: set.Lacks()})
	return true, nil
}

// missing checks a shard that some owners have and others lack.
func (j *judge) missing(set copies.Set, last lastCheck) (skip string) {
	settle := j.settle()
	settled := set.SettledAt(settle)
	wait := settled.Sub(j.Cluster.Now())
	if wait > 0 && wait <= 2*settle { // a clock that is far ahead is not believed
		j.conclude(set, nil, &lastCheck{owners: last.owners, lookAgain: settled})
		j.wake.up()
		return "its first write may be on its way to the owners that lack it"
	}
	j.conclude(set, &entropy.ShardStatus{ID: set.Shard.ID, Status: entropy.Missing},
		&lastCheck{owners: last.owners, states: set.Versions()})
	return ""
}
