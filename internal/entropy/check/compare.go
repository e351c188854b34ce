package check

import (
	"context"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
)

// compare compares the roots of copies that all exist. Of a shard that is
// being written only windows that ended before settle count, and a window has to
// differ twice in the same way: a write that is under way is not entropy.
func (j *judge) compare(ctx context.Context, set copies.Set, last lastCheck) error {
	settled := j.Cluster.Now().Add(-j.settle())
	if set.Quiet(settled) {
		if done, err := j.compareQuiet(ctx, set); done || err != nil {
			return err
		}
	}
	return j.compareBusy(ctx, set, last, settled.UnixNano())
}

// compareQuiet compares all windows of a shard that nobody writes to. done is false when somebody did meanwhile.
func (j *judge) compareQuiet(ctx context.Context, set copies.Set) (done bool, err error) {
	equal, err := set.EqualRoots(ctx, entropy.Everything)
	if err != nil {
		return false, err
	}
	check := &lastCheck{owners: set.Owners(), states: set.Versions()}
	if equal {
		j.Equality.Tell(ctx, set)
		j.conclude(set, nil, check)
		return true, nil
	}
	if same, err := set.Unchanged(ctx); err != nil || !same {
		return false, err
	}
	found, err := j.find(ctx, set, entropy.Everything)
	if err != nil {
		return false, err
	}
	j.concludeFound(set, found, check)
	return true, nil
}

// compareBusy compares the windows of a shard that ended before settled. When they differ for the first time, it has
// them looked at again.
func (j *judge) compareBusy(ctx context.Context, set copies.Set, last lastCheck, settled int64) error {
	until := settled
	if second := last.seen != nil; second {
		if j.Cluster.Now().Before(last.lookAgain) {
			return nil
		}
		until = last.until
	}
	equal, err := set.EqualRoots(ctx, until)
	switch {
	case err != nil:
		return err
	case equal:
		// Younger windows may still differ: without states the next check looks again.
		j.Equality.Tell(ctx, set)
		j.conclude(set, nil, &lastCheck{owners: last.owners})
		return nil
	}
	found, err := j.find(ctx, set, until)
	if err != nil {
		return err
	}
	if last.seen != nil {
		if again := found.windows.Again(last.seen.windows); again || found.conflict != "" {
			found.repairable = found.repairable && again
			j.concludeFound(set, found, &lastCheck{owners: last.owners})
			return nil
		}
	}
	j.lookAgain(set.Shard.ID, &lastCheck{
		owners: last.owners, until: settled, lookAgain: j.secondLook(), seen: found,
	})
	j.wake.up()
	return nil
}

// found is what a comparison of the owners found.
type found struct {
	windows    *copies.Windows
	conflict   string // says what owners refuse: fields that have different types on two owners
	repairable bool   // beside a conflict there is something that they do not refuse
}

// find finds how the owners differ.
func (j *judge) find(ctx context.Context, set copies.Set, until int64) (*found, error) {
	out := &found{windows: copies.NewWindows()}
	look, refused := refusal.NewLook(), false
	left, known := j.Refusals.Of(set.Shard.ID, set.Owners())
	err := j.Reconciler.Differences(ctx, set.Reconciled(until), func(d reconcile.Difference) error {
		for _, of := range refusal.ByType(d) {
			if known {
				if _, explained := left.Explain(of); explained {
					refused = true
					continue
				}
			}
			look.Add(of)
			out.windows.Add(of)
		}
		return nil
	})
	if out.conflict = look.TypeConflicts(set.Addrs()); refused {
		out.conflict = left.Message
	}
	out.repairable = look.Repairable()
	return out, err
}

func (j *judge) concludeFound(set copies.Set, found *found, check *lastCheck) {
	result := entropy.ShardStatus{ID: set.Shard.ID, Status: entropy.Diff}
	late := set.OneBeganLate()
	if late {
		result.Status = entropy.Missing // an owner has only what was written since it lost the shard
	}
	if found.conflict != "" {
		result.Status, result.Message = entropy.Conflict, found.conflict
	}
	j.conclude(set, &result, check)
	if found.conflict != "" && found.repairable {
		j.repairBeside(set, late)
	}
}
