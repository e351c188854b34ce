package balance

import (
	"cmp"
	"slices"
)

// order is that of the steps of a plan: first what makes data safer, then what makes room.
var order = []Reason{TooFew, TooMany, Drain, Zones, Bytes}

// plan is the difference between the owners that shards have and those that they are to have.
func (p *planner) plan() Plan {
	var out Plan
	for _, s := range p.shards {
		out.Steps = append(out.Steps, s.steps()...)
		if u, ok := p.unplaced(s); ok {
			out.Unplaced = append(out.Unplaced, u)
		}
	}
	slices.SortFunc(out.Unplaced, func(a, b Unplaced) int { return cmp.Compare(a.Shard, b.Shard) })
	slices.SortStableFunc(out.Steps, func(a, b Step) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Reason), slices.Index(order, b.Reason)), cmp.Compare(a.Shard, b.Shard),
		)
	})
	for _, n := range p.nodes {
		out.Loads = append(out.Loads, Load{Node: n.ID, Before: n.before, After: n.bytes})
	}
	return out
}

// steps are those of one shard. A new copy that takes the place of another one is paired with one that goes away.
func (s *shard) steps() (out []Step) {
	var gone []*node
	for _, n := range s.before {
		if !s.isOn(n) {
			gone = append(gone, n)
		}
	}
	slices.SortStableFunc(gone, func(a, b *node) int { return compareBools(b.Draining, a.Draining) })
	for _, n := range s.added() {
		why := s.reasons[n]
		step := Step{Shard: s.ID, Kind: Copy, To: n.ID, Bytes: s.Bytes, Reason: why}
		if len(gone) > 0 {
			step.Kind, step.From = Move, gone[0].ID
			if gone[0].Draining {
				step.Reason = Drain
			}
			gone = gone[1:]
		}
		out = append(out, step)
	}
	for _, n := range gone {
		why := TooMany
		if n.Draining {
			why = Drain
		}
		out = append(out, Step{Shard: s.ID, Kind: Remove, From: n.ID, Reason: why})
	}
	return out
}

// added are the new owners. Those that the shard has too few of come last: they take no place of another one.
func (s *shard) added() (out []*node) {
	for _, n := range s.on {
		if _, ok := s.reasons[n]; ok {
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(a, b *node) int {
		return compareBools(s.reasons[a] == TooFew, s.reasons[b] == TooFew)
	})
	return out
}

// unplaced reports whether a shard has too few copies in the end, or one on a node that is drained.
func (p *planner) unplaced(s *shard) (Unplaced, bool) {
	u := Unplaced{Shard: s.ID, Copies: len(s.on), Wanted: p.wanted(s)}
	for _, n := range s.on {
		if n.Draining {
			u.Drained = append(u.Drained, n.ID)
		}
	}
	slices.Sort(u.Drained)
	return u, len(s.on) < u.Wanted && !s.Pinned || len(u.Drained) > 0
}
