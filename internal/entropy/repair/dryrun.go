package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
)

// maxDiffFields is how many differing series-fields a dry run lists.
const maxDiffFields = 1000

// dryRun finds what a repair would, and changes nothing.
type dryRun struct {
	*Deps
	set     copies.Set
	refused *refusal.Known
	diffs   []reconcile.Difference
	out     entropy.DryRun
}

// DryRun compares the owners of a shard, of which this node must be the first, and changes nothing.
func DryRun(ctx context.Context, deps Deps, sh cluster.Shard) (entropy.DryRun, error) {
	set, err := deps.Cluster.Reach(ctx, sh)
	if err == nil {
		set, err = withoutDamaged(set)
	}
	if err != nil {
		return entropy.DryRun{}, err
	}
	d := dryRun{Deps: &deps, set: set, refused: refusal.NewKnown(), out: entropy.DryRun{Owners: set.Addrs()}}
	if away := set.AwayError(); away != nil {
		d.out.Away = away.Error()
	}
	for i, a := range set.Copies {
		for _, b := range set.Copies[i+1:] {
			d.out.Pairs = append(d.out.Pairs, entropy.PairDiff{A: a.TCPAddr, B: b.TCPAddr})
		}
	}
	if err := d.compare(ctx); err != nil {
		return d.out, fmt.Errorf("compare the owners of shard %d: %w", sh.ID, err)
	}
	d.out.TypeConflicts = d.refused.TypeConflicts(set.Addrs())
	d.listFields()
	if err = d.countPoints(ctx); errors.Is(err, entropy.ErrOvertaken) {
		err = errors.New("a delete is under way in the database of the shard: ask again when it has ended")
	}
	return d.out, err
}

// withoutDamaged leaves damaged copies out: what a repair would bring to them shows when their damaged files are set
// aside.
func withoutDamaged(set copies.Set) (copies.Set, error) {
	all := set.Copies
	set.Copies = nil
	for _, c := range all {
		if c.State.Corrupt == "" {
			set.Copies = append(set.Copies, c)
			continue
		}
		set.Away = append(set.Away, fmt.Errorf("the copy on %s is damaged: %s", c.TCPAddr, c.State.Corrupt))
	}
	if len(set.Copies) < len(all) && len(set.Copies) < 2 {
		return set, fmt.Errorf("shard %d has no two sound copies to compare: %w", set.Shard.ID,
			errors.Join(set.Away...))
	}
	return set, nil
}

func (d *dryRun) compare(ctx context.Context) error {
	owners := d.set.Reconciled(d.until(d.set, 1))
	return d.Reconciler.Differences(ctx, owners, func(diff reconcile.Difference) error {
		d.refused.Learn(diff.Series, diff.Field, diff.Types)
		d.out.Count++
		for _, of := range refusal.ByType(diff) {
			if len(d.diffs) >= maxDifferences {
				d.out.Truncated = true
				return nil
			}
			d.diffs = append(d.diffs, of.Clone())
		}
		return nil
	})
}

// listFields lists the first of the series-fields that differ.
func (d *dryRun) listFields() {
	sh := d.set.Shard
	rng := digest.Range{Start: sh.Start, End: sh.End}
	for i, diff := range d.diffs[:min(len(d.diffs), maxDiffFields)] {
		if i > 0 && diff.Field == d.diffs[i-1].Field && bytes.Equal(diff.Series, d.diffs[i-1].Series) {
			continue // of another type
		}
		lo, _ := rng.Bounds(bits.TrailingZeros64(diff.Windows))
		_, hi := rng.Bounds(63 - bits.LeadingZeros64(diff.Windows))
		d.out.Fields = append(d.out.Fields, entropy.FieldDiff{
			Series: string(diff.Series), Field: diff.Field, Start: max(lo, sh.Start), End: min(hi, sh.End-1) + 1,
		})
	}
}

// countPoints counts the points that differ between each two owners, and the bytes that a repair would send. It lists
// what a repair would decide.
func (d *dryRun) countPoints(ctx context.Context) error {
	find := newFinder(d.set, d.Cluster.Now, func(ctx context.Context, c copies.Copy, bytes int) error {
		if !c.Own {
			d.Report.BytesRx.Add(int64(bytes))
		}
		return d.Limit.Wait(ctx, bytes)
	})
	merge := merger{finder: find, rules: rulesOf(d.set), age: pushAge, merged: d.addMerged}
	err := find.each(ctx, d.diffs, func(p piece) error {
		if p.owners == nil {
			d.addWhole(p)
			return nil
		}
		pair := 0
		for i := range p.owners {
			for _, other := range p.owners[i+1:] {
				d.addPair(pair, patch.Compare(p.owners[i], other))
				pair++
			}
		}
		return merge.add(ctx, p)
	}, func(int) {})
	if err != nil {
		return err
	}
	return merge.flush(ctx)
}

// addMerged counts what copies lack, and lists how their values were decided.
func (d *dryRun) addMerged(p piece, m patch.Merged) error {
	for i, blocks := range m.Lacking {
		for _, b := range blocks {
			d.addBytes(i, p, b)
		}
	}
	for _, of := range [][]patch.Decision{m.Decided, m.Undecided, m.Outdated} {
		d.out.Decided = listDecisions(d.out.Decided, of, d.set)
	}
	return nil
}

// addWhole counts a block that some copies have and the others have nothing of.
func (d *dryRun) addWhole(p piece) {
	pair := 0
	for i, a := range p.groups {
		if a == 0 {
			d.addBytes(i, p, p.whole)
		}
		for _, b := range p.groups[i+1:] {
			switch {
			case a == 0 && b != 0:
				d.addPair(pair, patch.Compared{LackingA: p.count})
			case a != 0 && b == 0:
				d.addPair(pair, patch.Compared{LackingB: p.count})
			}
			pair++
		}
	}
}

// addBytes counts a block that a copy lacks, unless it refuses it.
func (d *dryRun) addBytes(copy int, p piece, b patch.Block) {
	if _, refused := d.refused.Refused(copy, p.Series, p.Field, p.Type); !refused {
		d.out.Bytes += b.Size()
	}
}

func (d *dryRun) addPair(pair int, c patch.Compared) {
	p := &d.out.Pairs[pair]
	p.LackingA += c.LackingA
	p.LackingB += c.LackingB
	p.ValueConflicts += c.ValueConflicts
}
