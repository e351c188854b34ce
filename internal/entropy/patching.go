package entropy

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

// patch finds which points differ, merges those of all copies, and pushes what each lacks.
func (s *Service) patch(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, diffs []reconcile.Difference, out *outcome) error {
	pending := make([]pusher, len(copies))
	for i, c := range copies {
		pending[i] = pusher{s: s, name: addr(st, c.owner), copyOf: c, at: i, shard: sh, out: out}
	}
	merge := merger{parts: &parts{s: s, st: st, sh: sh, copies: copies, out: out}, rules: s.rules(sh, copies, out)}
	merge.merged = func(m patch.Merged) error {
		out.change(func() {
			out.conflicts += m.Conflicts
			out.decided = append(out.decided, m.Decided[:min(len(m.Decided), maxDecisions-len(out.decided))]...)
		})
		out.open += m.Open
		s.stats.conflicts.Add(int64(m.Conflicts))
		for i := range m.Lacking {
			if err := pending[i].add(ctx, m.Lacking[i]); err != nil {
				return err
			}
		}
		return nil
	}
	err := s.eachDifference(ctx, st, sh, copies, diffs, out, func(c piece) error {
		if c.owners == nil {
			for i, g := range c.groups {
				if g == 0 {
					if err := pending[i].add(ctx, []patch.Block{c.whole}); err != nil {
						return err
					}
				}
			}
			return nil
		}
		return merge.add(ctx, c)
	})
	if err == nil {
		err = merge.flush(ctx)
	}
	if err != nil {
		return err
	}
	for i := range pending {
		if err := pending[i].flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// eachDifference calls fn with pieces of the differing windows: all points that are not the same on all copies, and some that are.
func (s *Service) eachDifference(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, diffs []reconcile.Difference, out *outcome,
	fn func(piece) error) error {
	rng := digest.Range{Start: sh.Start, End: sh.End}
	p := parts{s: s, st: st, sh: sh, copies: copies, out: out, untold: make([]untold, len(copies))}
	for len(diffs) > 0 {
		n, regions := nextBatch(rng, diffs, len(copies))
		told, rest, err := p.tell(ctx, regions)
		if err != nil {
			return err
		}
		for _, t := range told {
			if err := fn(piece{region: t.region, owners: t.owners}); err != nil {
				return err
			}
		}
		if err := p.narrow(ctx, p.within(rest), 0, fn); err != nil {
			return err
		}
		out.change(func() { out.fixed += n })
		diffs = diffs[n:]
	}
	return nil
}

// rules are those of the next round. In a shard that is written to, two owners may differ by
// a write in flight, and the copies are not read at the same instant: there a
// conflict counts when it was the same in the round before. A copy of another owner's files has no vote
// of its own: what a minority holds would become the majority.
func (s *Service) rules(sh cluster.Shard, copies []copyOf, out *outcome) patch.Rules {
	r := patch.Rules{Absent: len(sh.Owners) - len(copies), Doubtful: make([]bool, len(copies))}
	for i, c := range copies {
		r.Doubtful[i] = c.state.Corrupt != "" || c.state.Beginning == copystate.FromFiles || c.state.Lack.Kind != ""
	}
	if quiet(copies, s.deps.Now().Add(-time.Duration(s.config().Settle))) {
		return r
	}
	last := out.seen
	out.seen = make(map[uint64]struct{})
	r.Settled = func(fingerprint uint64) bool {
		out.seen[fingerprint] = struct{}{}
		_, same := last[fingerprint]
		return same
	}
	return r
}

// region is a part of a differing series-field.
type region struct {
	patch.Region
	groups []uint8 // by copy, as reconcile.GroupsOf
	points int     // that a copy has in it, about; -1 is not known
}

// source tells whether the points of copy i are those of its group.
func (r region) source(i int) bool { return int(r.groups[i]) == i+1 }

// mixed tells whether two copies have points in it, and not the same.
func (r region) mixed() bool {
	var group uint8
	for _, g := range r.groups {
		if g != 0 && group != 0 && g != group {
			return true
		}
		group = max(group, g)
	}
	return false
}

// nextBatch returns the regions of as many differences as are worked on at once, one at least.
func nextBatch(rng digest.Range, diffs []reconcile.Difference, copies int) (n int, regions []region) {
	for i, d := range diffs {
		if i > 0 && len(regions)+bits.OnesCount64(d.Windows) > batchRegions {
			break
		}
		var typ digest.Type
		for _, t := range d.Types {
			typ = max(typ, t)
		}
		groups, last := d.Groups, -2
		for set := d.Windows; set != 0; set &= set - 1 {
			w := bits.TrailingZeros64(set)
			g := groups[:copies]
			groups = groups[copies:]
			lo, hi := rng.Bounds(w)
			if last == w-1 && slices.Equal(g, regions[len(regions)-1].groups) {
				regions[len(regions)-1].Max = hi
			} else {
				regions = append(regions, region{patch.Region{Series: d.Series, Field: d.Field, Type: typ, Min: lo, Max: hi}, g, -1})
			}
			last = w
		}
		n = i + 1
	}
	return n, regions
}

// Throttle waits until n bytes may be sent or read for repair.
func (s *Service) Throttle(ctx context.Context, n int) error {
	for n > 0 {
		if s.limiter.Limit() == rate.Inf {
			return ctx.Err()
		}
		part := min(n, max(s.limiter.Burst(), 1))
		if err := s.limiter.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue // a reload made the burst smaller
		}
		n -= part
	}
	return ctx.Err()
}

// pusher gathers what one copy lacks and applies it in batches: large ones, as each becomes a file there,
// but none waits for longer than pushAge, which is what a crash loses.
type pusher struct {
	copyOf
	s      *Service
	name   string
	at     int // its place among the copies
	shard  cluster.Shard
	out    *outcome
	blocks []patch.Block
	size   int
	since  time.Time // of the first block
}

func (p *pusher) add(ctx context.Context, blocks []patch.Block) error {
	for _, b := range blocks {
		if _, refused := p.out.refusals.refused(p.at, b.Series, b.Field, digest.Type(b.Data[0]+1)); refused {
			continue
		}
		if len(p.blocks) == 0 {
			p.since = p.s.deps.Now()
		}
		p.blocks = append(p.blocks, b)
		p.size += int(b.Size())
		if p.size >= pushBytes || p.s.deps.Now().Sub(p.since) > pushAge {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pusher) flush(ctx context.Context) error {
	if len(p.blocks) == 0 {
		return nil
	}
	if sh, ok := p.s.live()[p.shard.ID]; !ok || !owns(sh, p.owner) {
		return fmt.Errorf("shard %d was dropped, expired, or moved away from %s meanwhile", p.shard.ID, p.name) // writing would create it anew
	}
	if err := p.s.Throttle(ctx, p.size); err != nil {
		return err
	}
	done, err := p.replica.Apply(ctx, p.shard, p.state.Deletes, p.blocks)
	if err != nil {
		return fmt.Errorf("apply points of shard %d on %s: %w", p.shard.ID, p.name, err)
	}
	for _, r := range done.Refused {
		p.out.refusals.add(p.at, len(p.out.copies), p.blocks[r.Block], r)
	}
	p.out.change(func() { p.out.points += done.Points })
	p.s.stats.pointsRepaired.Add(int64(done.Points))
	if p.owner != p.s.deps.Meta.NodeID() {
		p.s.stats.bytesTx.Add(int64(p.size))
		p.out.change(func() { p.out.tx += int64(p.size) })
	}
	p.blocks, p.size = nil, 0
	return nil
}
