package repair

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
)

const (
	maxRounds      = 3       // comparisons of an attempt that do not end in equal copies
	maxDifferences = 200_000 // held in memory; the rest is for the next round
)

// round is one comparison of the copies, and what came of it.
type round struct {
	number         int
	until          int64               // windows that end at or before it were compared
	windows        *copies.Windows     // that differ
	valueConflicts map[uint64]struct{} // points with different values, in a shard that is written to
	open           int                 // points with different values that were left as they are
	overflow       bool                // there are more differences than a round holds
	done           bool                // the copies are equal, but for what owners refuse and for writes on their way
	verified       bool                // the roots were equal
	diffs          []reconcile.Difference
}

// rounds compares and patches until a round is done, and returns that round.
func (r *Repair) rounds(ctx context.Context) (*round, error) {
	r.progress.change(func(p *entropy.RepairRecord) { p.Rounds = 0 })
	last := &round{}
	for {
		this := &round{number: last.number + 1}
		if last.overflow {
			this.number = last.number // it goes on where that one stopped
		}
		r.progress.change(func(p *entropy.RepairRecord) { p.Rounds = this.number })
		if err := r.round(ctx, this, last); err != nil {
			return nil, err
		}
		if this.done {
			return this, nil
		}
		if away := r.set.AwayError(); this.open > 0 && away != nil {
			return nil, fmt.Errorf("%d points differ, and the owners that are there cannot decide: %w", this.open,
				away)
		}
		if this.number >= maxRounds && !this.overflow {
			return nil, fmt.Errorf("owners %s of shard %d still differ after %d rounds", r.addrs(), r.id, this.number)
		}
		if this.open > 0 { // writes that are under way arrive meanwhile: what differs then is a real difference
			select {
			case <-r.After(time.Duration(r.Config().Settle)):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if err := r.hearOfDeletes(ctx); err != nil {
				return nil, err
			}
		}
		last = this
	}
}

// addrs names the owners that take part.
func (r *Repair) addrs() string { return strings.Join(r.set.Addrs(), ", ") }

// seriesFields counts the series-fields of differences, which are in order. Those of one are next to each other.
func seriesFields(diffs []reconcile.Difference) (n int) {
	for i, d := range diffs {
		if i == 0 || d.Field != diffs[i-1].Field || !bytes.Equal(d.Series, diffs[i-1].Series) {
			n++
		}
	}
	return n
}

// hearOfDeletes asks the copies which deletes they have heard of. The next round reads all points anew: only deletes
// that come while it does can overtake it. Otherwise deletes that come more often than settle would keep a repair from
// ever ending.
func (r *Repair) hearOfDeletes(ctx context.Context) error {
	now, err := r.Cluster.Reach(ctx, r.shard)
	if err != nil {
		return err
	}
	for i, c := range r.set.Copies {
		at := slices.Index(now.Owners(), c.ID)
		if at < 0 {
			return now.AwayError()
		}
		r.set.Copies[i].State.Deletes = now.Copies[at].State.Deletes
	}
	return nil
}

// round compares once, applies what it found and compares the roots.
func (r *Repair) round(ctx context.Context, this, last *round) error {
	this.until = r.until(r.set, this.number)
	if err := r.compare(ctx, this); err != nil {
		return fmt.Errorf("compare the owners of shard %d: %w", r.id, err)
	}
	if err := r.create(ctx); err != nil {
		return err
	}
	before, known := r.Record().Points, r.refused.Size()
	if err := r.patch(ctx, this, last); err != nil {
		return err
	}
	record := r.Record()
	if this.overflow {
		if record.Points == before && r.refused.Size() == known && len(this.diffs) > 0 {
			return fmt.Errorf("a round of the repair of shard %d changed nothing, and owners %s still differ in %d "+
				"series-fields or more", r.id, r.addrs(), seriesFields(this.diffs))
		}
		return nil
	}
	if len(this.diffs) == 0 && record.Refused > 0 {
		this.done = true // but for what is refused
		return nil
	}
	var err error
	if this.verified, err = r.set.EqualRoots(ctx, this.until); err != nil {
		return fmt.Errorf("verify shard %d: %w", r.id, err)
	}
	this.done = this.verified || r.onlyWritesOnTheirWay(this, last)
	return nil
}

// onlyWritesOnTheirWay reports whether what differs is something else than in the last round. The roots are never equal
// while all windows are written to.
func (r *Repair) onlyWritesOnTheirWay(this, last *round) bool {
	return last.windows != nil && r.busy && (this.open == 0 || r.set.Complete()) && !this.windows.Again(last.windows)
}

// compare finds the differences of the copies, but for what they refuse.
func (r *Repair) compare(ctx context.Context, this *round) error {
	this.windows = copies.NewWindows()
	r.progress.change(func(p *entropy.RepairRecord) { p.Refused, p.Refusals = 0, nil })
	how := r.Reconciler
	if this.number >= maxRounds {
		how = reconcile.Flat{} // lists find what two equal hashes of different contents hid
	}
	r.refused.Complete = false
	err := how.Differences(ctx, r.set.Reconciled(this.until), func(d reconcile.Difference) error {
		r.refused.Learn(d.Series, d.Field, d.Types)
		for _, d := range refusal.ByType(d) {
			if r.explained(d) {
				continue
			}
			this.windows.Add(d)
			if len(this.diffs) >= maxDifferences {
				this.overflow = true // conflicts of values are still looked for
				continue
			}
			this.diffs = append(this.diffs, d.Clone())
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The types that a field has in series that come later are known now.
	r.refused.Complete = true
	this.diffs = slices.DeleteFunc(this.diffs, r.explained)
	return nil
}

// explained reports whether the copies differ for what they refuse alone, and counts it.
func (r *Repair) explained(d reconcile.Difference) bool {
	reasons, ok := r.refused.Explain(d)
	if ok {
		r.progress.refused(r.set, d.Series, d.Field, reasons)
	}
	return ok
}

// create makes the shard, empty, on owners that lack it while another has it.
func (r *Repair) create(ctx context.Context) error {
	if r.set.Existing() == 0 {
		return nil
	}
	for i, c := range r.set.Copies {
		if c.State.Exists {
			continue
		}
		if _, err := c.Replica.Apply(ctx, r.shard, entropy.ReadAt{}, nil); err != nil {
			return fmt.Errorf("create shard %d on %s: %w", r.id, c.TCPAddr, err)
		}
		r.set.Copies[i].State.Exists = true
	}
	return nil
}
