package balance

import (
	"cmp"
	"slices"
)

// worthwhile is by which part of the gap between two nodes an exchange must make it smaller. Else it would copy many
// bytes for little. A small copy that goes one way is always worthwhile: each of its bytes counts.
const worthwhile = 1. / 8

// spread moves copies from nodes with many bytes to nodes with few. It reports whether it changed something.
//
// Each exchange makes the sum of the squares of all loads smaller, so it ends. An exchange that costs more bytes is
// made only where no cheaper one is left: first copies that bring both nodes nearer to the mean, then any copy, and
// then two nodes exchange copies of different sizes.
func (p *planner) spread() (changed bool) {
	kinds := []func(gap) (exchange, bool){toTheMean, oneWay, bothWays}
	for kind := 0; kind < len(kinds); {
		if p.relieveAny(kinds[kind]) {
			kind, changed = 0, true
		} else {
			kind++
		}
	}
	return changed
}

// relieveAny makes an exchange of the fullest node that has one.
func (p *planner) relieveAny(find func(gap) (exchange, bool)) bool {
	fullest, mean := p.byLoad()
	for _, from := range fullest {
		for _, to := range slices.Backward(fullest) {
			g := gap{from: from, to: to, mean: mean}
			if float64(g.bytes()) <= Tolerance*float64(mean) {
				break // all others have more
			}
			if e, ok := find(g); ok {
				p.move(e.there, from, to, Bytes)
				if e.back != nil {
					p.move(e.back, to, from, Bytes)
				}
				return true
			}
		}
	}
	return false
}

// byLoad are the nodes that take and give copies, the one with the most bytes first, and the mean of their bytes.
func (p *planner) byLoad() (nodes []*node, mean int64) {
	for _, n := range p.nodes {
		if n.takes() {
			nodes = append(nodes, n)
			mean += n.bytes
		}
	}
	slices.SortStableFunc(nodes, func(a, b *node) int { return cmp.Compare(b.bytes, a.bytes) })
	return nodes, mean / int64(max(len(nodes), 1))
}

// gap is that between two nodes.
type gap struct {
	from, to *node
	mean     int64 // of the bytes of all nodes
}

// bytes is by how much from has more than to.
func (g gap) bytes() int64 { return g.from.bytes - g.to.bytes }

// closedBy reports whether moving so many bytes from one to the other makes the gap enough smaller.
func (g gap) closedBy(bytes int64) bool {
	part := float64(bytes) / float64(g.bytes())
	return bytes > 0 && part <= 1-worthwhile/2
}

// wanted is how many bytes should be moved: neither node should pass the mean. Where both are on one side of it, they
// meet in the middle.
func (g gap) wanted() int64 {
	if w := min(g.from.bytes-g.mean, g.mean-g.to.bytes); w > 0 {
		return w
	}
	return g.bytes() / 2
}

// exchange is one copy that goes from the fuller to the emptier node, and perhaps one that goes back.
type exchange struct{ there, back *shard }

// toTheMean is oneWay of copies after which neither node has passed the mean: no byte of them is moved twice.
func toTheMean(g gap) (exchange, bool) {
	if g.from.bytes <= g.mean || g.to.bytes >= g.mean {
		return exchange{}, false
	}
	e, ok := oneWay(g)
	return e, ok && e.there.Bytes <= g.wanted()
}

// oneWay finds the copy whose move closes the gap best: the largest that is not larger than what is wanted, or the
// smallest that is. Copies that have to be made anyway come before others.
func oneWay(g gap) (exchange, bool) {
	var best *shard
	for _, s := range g.from.shards {
		if g.closedBy(s.Bytes) && movable(s, g.from, g.to) && (best == nil || g.better(s, best)) {
			best = s
		}
	}
	return exchange{there: best}, best != nil
}

// better reports whether to move a rather than b.
func (g gap) better(a, b *shard) bool {
	free := func(s *shard) bool { return !slices.Contains(s.before, g.from) || slices.Contains(s.before, g.to) }
	fits := func(s *shard) bool { return s.Bytes <= g.wanted() }
	size := cmp.Compare(a.Bytes, b.Bytes)
	if !fits(a) {
		size = -size
	}
	return cmp.Or(compareBools(free(a), free(b)), compareBools(fits(a), fits(b)), size, cmp.Compare(b.ID, a.ID)) > 0
}

// bothWays finds two copies of different sizes whose exchange closes the gap enough, with the fewest bytes.
func bothWays(g gap) (best exchange, ok bool) {
	back := slices.Clone(g.to.shards)
	slices.SortFunc(back, func(a, b *shard) int {
		return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(b.ID, a.ID))
	})
	least := max(int64(worthwhile/2*float64(g.bytes())), 1)
	for _, there := range g.from.shards {
		if !movable(there, g.from, g.to) {
			continue
		}
		// The largest that can come back makes the smallest difference that is worthwhile.
		end, _ := slices.BinarySearchFunc(back, there.Bytes-least+1, func(s *shard, bytes int64) int {
			return cmp.Compare(s.Bytes, bytes)
		})
		for _, s := range slices.Backward(back[:end]) {
			if !g.closedBy(there.Bytes - s.Bytes) {
				break
			}
			if ok && there.Bytes+s.Bytes >= best.there.Bytes+best.back.Bytes {
				continue
			}
			if movable(s, g.to, g.from) {
				best, ok = exchange{there: there, back: s}, true
			}
		}
	}
	return best, ok
}

// movable reports whether a copy may go from one node to another: its copies are then in as many zones as before.
func movable(s *shard, from, to *node) bool {
	return !s.Pinned && to.fits(s) && (s.zoneFree(to.zone, from) || s.inZone(from.zone) > 1)
}
