package entropy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

// maxDiffFields is how many differing series-fields a dry run lists.
const maxDiffFields = 1000

// DryRun is: what a repair would find and send.
type DryRun struct {
	Owners    []string // TCP addresses of those that were compared
	Away      string   // why others were not; empty when all were
	Pairs     []PairDiff
	Bytes     int64 // of points that a repair would send, as blocks
	Fields    []FieldDiff
	Count     int    // of differing series-fields; Fields has the first 1,000
	Truncated bool   // there are more differences than fit into one comparison: the numbers are of a part
	Conflict  string // what no repair brings: a field has different types
}

// PairDiff is how two owners differ, in points.
type PairDiff struct {
	A, B string // TCP addresses
	patch.Compared
}

// FieldDiff is a series-field that differs somewhere in a range of time.
type FieldDiff struct {
	Series     string
	Field      string
	Start, End int64 // nanoseconds, [Start, End): the windows that differ
}

// Diff compares the owners of a shard, of which this node must be the first, and changes nothing.
func (s *Service) Diff(ctx context.Context, id uint64) (DryRun, error) {
	if !s.config().Enabled {
		return DryRun{}, ErrDisabled
	}
	st := s.deps.Meta.State()
	sh, ok := s.live()[id]
	if !ok {
		return DryRun{}, fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	if self := s.deps.Meta.NodeID(); len(sh.Owners) == 0 || sh.Owners[0] != self {
		return DryRun{}, fmt.Errorf("shard %d is compared by its first owner, which node %d is not", id, self)
	}
	copies, missing, err := s.reach(ctx, st, sh)
	if err != nil {
		return DryRun{}, err
	}
	var out DryRun
	if copies, missing, err = sound(st, sh, copies, missing); err != nil {
		return DryRun{}, err
	}
	if missing != nil {
		out.Away = missing.Error()
	}
	for i, a := range copies {
		out.Owners = append(out.Owners, addr(st, a.owner))
		for _, b := range copies[i+1:] {
			out.Pairs = append(out.Pairs, PairDiff{A: addr(st, a.owner), B: addr(st, b.owner)})
		}
	}
	err = s.diff(ctx, st, sh, copies, &out)
	return out, err
}

// sound leaves damaged copies out: what a repair would bring to them shows when their damaged files are set aside.
func sound(st *cluster.State, sh cluster.Shard, copies []copyOf, missing error) (left []copyOf, away, err error) {
	for _, c := range copies {
		if c.state.Corrupt == "" {
			left = append(left, c)
		} else {
			missing = errors.Join(missing, fmt.Errorf("the copy on %s is damaged: %s", addr(st, c.owner), c.state.Corrupt))
		}
	}
	if len(left) < len(copies) && len(left) < 2 {
		return nil, nil, fmt.Errorf("shard %d has no two sound copies to compare: %w", sh.ID, missing)
	}
	return left, missing, nil
}

func (s *Service) diff(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, out *DryRun) error {
	var diffs []reconcile.Difference
	known := newRefusals()
	err := s.deps.Reconciler.Differences(ctx, s.owners(sh, copies, s.until(sh, copies, 1)), func(d reconcile.Difference) error {
		known.learn(d.Series, d.Field, d.Types)
		out.Count++
		for _, d := range byType(d) {
			if len(diffs) >= maxDifferences {
				out.Truncated = true
				return nil
			}
			diffs = append(diffs, d.Clone())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare the owners of shard %d: %w", sh.ID, err)
	}
	out.Conflict = conflictMessage(known.conflicts(st, copies))
	rng := digest.Range{Start: sh.Start, End: sh.End}
	for i, d := range diffs[:min(len(diffs), maxDiffFields)] {
		if i > 0 && d.Field == diffs[i-1].Field && bytes.Equal(d.Series, diffs[i-1].Series) {
			continue // of another type
		}
		lo, _ := rng.Bounds(bits.TrailingZeros64(d.Windows))
		_, hi := rng.Bounds(63 - bits.LeadingZeros64(d.Windows))
		out.Fields = append(out.Fields, FieldDiff{Series: string(d.Series), Field: d.Field, Start: max(lo, sh.Start), End: min(hi, sh.End-1) + 1})
	}
	rules := patch.Rules{Absent: len(sh.Owners) - len(copies)}
	return s.eachDifference(ctx, st, sh, copies, diffs, &outcome{}, func(c piece) error {
		if c.owners == nil {
			out.addWhole(c, known)
			return nil
		}
		m, err := patch.MergeValues(c.Series, c.Field, c.owners, rules)
		if err != nil {
			return err
		}
		for i, blocks := range m.Lacking {
			for _, b := range blocks {
				if _, refused := known.refused(i, c.Series, c.Field, c.Type); !refused {
					out.Bytes += b.Size()
				}
			}
		}
		pair := 0
		for i := range c.owners {
			for _, other := range c.owners[i+1:] {
				out.Pairs[pair].add(patch.Compare(c.owners[i], other))
				pair++
			}
		}
		return nil
	})
}

// addWhole counts a block that some copies have and the others have nothing of; known is what they refuse.
func (d *DryRun) addWhole(c piece, known *refusals) {
	pair := 0
	for i, a := range c.groups {
		if _, refused := known.refused(i, c.Series, c.Field, c.Type); a == 0 && !refused {
			d.Bytes += c.whole.Size()
		}
		for _, b := range c.groups[i+1:] {
			switch {
			case a == 0 && b != 0:
				d.Pairs[pair].add(patch.Compared{MissingA: c.count})
			case a != 0 && b == 0:
				d.Pairs[pair].add(patch.Compared{MissingB: c.count})
			}
			pair++
		}
	}
}

func (p *PairDiff) add(c patch.Compared) {
	p.MissingA, p.MissingB, p.Conflicts = p.MissingA+c.MissingA, p.MissingB+c.MissingB, p.Conflicts+c.Conflicts
}
