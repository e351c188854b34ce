package balance

import (
	"cmp"
	"slices"
)

// wanted is how many copies a shard should have.
func (p *planner) wanted(s *shard) int { return min(max(s.Copies, 1), len(p.nodes)) }

// place gives each shard its number of copies, none of them on a node that is drained. It reports whether it changed
// something.
func (p *planner) place() (changed bool) {
	for _, s := range p.shards {
		if s.Pinned {
			continue
		}
		changed = p.fill(s) || changed
		changed = p.trim(s) || changed
	}
	return changed
}

// fill gives a shard new owners until enough of them are not drained.
func (p *planner) fill(s *shard) (changed bool) {
	for staying(s) < p.wanted(s) {
		to := p.best(s, nil)
		if to == nil {
			break
		}
		why := TooFew
		if len(s.on) >= p.wanted(s) {
			why = Drain
		}
		p.give(s, to, why)
		changed = true
	}
	return changed
}

// staying counts the owners that are not drained.
func staying(s *shard) (n int) {
	for _, o := range s.on {
		if !o.Draining {
			n++
		}
	}
	return n
}

// trim takes a shard away from owners while it has more than it should have.
func (p *planner) trim(s *shard) (changed bool) {
	for len(s.on) > p.wanted(s) {
		p.take(s, p.worst(s))
		changed = true
	}
	return changed
}

// worst is the owner that gives up its copy first: one that is drained, is away, shares its zone with another copy, or
// has the most bytes.
func (p *planner) worst(s *shard) *node {
	return slices.MaxFunc(s.on, func(a, b *node) int {
		return cmp.Or(
			compareBools(a.Draining, b.Draining), compareBools(a.Away, b.Away),
			compareBools(s.inZone(a.zone) > 1, s.inZone(b.zone) > 1),
			cmp.Compare(a.bytes, b.bytes), cmp.Compare(a.ID, b.ID),
		)
	})
}

// best is the node that gets a copy of a shard instead of its owner from, nil for an additional one: one of a zone
// without a copy, with the fewest bytes. It is nil when no node can take it.
func (p *planner) best(s *shard, from *node) (best *node) {
	free := func(n *node) bool { return s.zoneFree(n.zone, from) }
	for _, n := range p.nodes {
		if !n.fits(s) {
			continue
		}
		if best == nil || cmp.Or(
			compareBools(free(n), free(best)), cmp.Compare(best.bytes, n.bytes),
			cmp.Compare(len(best.shards), len(n.shards)),
		) > 0 {
			best = n
		}
	}
	return best
}

// separate moves copies out of zones that have another copy of the same shard, where another zone has none.
func (p *planner) separate() (changed bool) {
	for _, s := range p.shards {
		for p.separateOne(s) {
			changed = true
		}
	}
	return changed
}

func (p *planner) separateOne(s *shard) bool {
	if s.Pinned {
		return false
	}
	// A copy that has to be made anyway costs nothing to move.
	owners := slices.Clone(s.on)
	slices.SortStableFunc(owners, func(a, b *node) int {
		return compareBools(slices.Contains(s.before, a), slices.Contains(s.before, b))
	})
	for _, from := range owners {
		if from.Away || from.Draining || s.inZone(from.zone) < 2 {
			continue
		}
		if to := p.best(s, from); to != nil && s.zoneFree(to.zone, from) {
			p.move(s, from, to, Zones)
			return true
		}
	}
	return false
}

// inZone counts the copies of a shard in a zone.
func (s *shard) inZone(zone string) (n int) {
	for _, o := range s.on {
		if o.zone == zone {
			n++
		}
	}
	return n
}

// zoneFree reports whether no owner besides except is in a zone.
func (s *shard) zoneFree(zone string, except *node) bool {
	return !slices.ContainsFunc(s.on, func(o *node) bool { return o != except && o.zone == zone })
}

// compareBools orders true after false.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
