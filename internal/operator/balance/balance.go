// Package balance plans which copies of shards to make, move and remove. It is pure: it knows no network, no disk and
// no clock. Package operator asks the nodes, and carries a plan out.
//
// A plan follows these rules, the first ones first:
//
//  1. A shard keeps as many copies as it has, unless these are more than its policy asks for.
//  2. A node that is being drained ends up without copies.
//  3. Each shard has as many copies as its policy asks for, or one on each node if there are fewer nodes.
//  4. The copies of a shard are in as many zones as possible.
//  5. Bytes of two nodes that can exchange copies differ by Tolerance at most, where the sizes of shards allow it.
//  6. As few bytes as possible are copied.
//
// Make searches for owners of all shards in that order (place.go, spread.go), beginning with those that they have. The
// steps are the difference between the two. So a plan for the state that a plan leads to is empty.
package balance

import (
	"cmp"
	"slices"
	"strconv"
)

// Tolerance is by how much the bytes of two nodes may differ, as a part of the mean of all nodes.
const Tolerance = 0.05

// State is what a plan is made for.
type State struct {
	Nodes  []Node // those that may own shards
	Shards []Shard
}

// Node is a data node that may own shards.
type Node struct {
	ID       uint64
	Zone     string // the copies of a shard go to different zones; a node without one is a zone of its own
	Draining bool   // all its copies go to other nodes
	Away     bool   // it does not answer: it gets no copies, and gives none unless it is drained
	Room     int64  // bytes of copies that it can take
}

// Shard is a shard with the nodes that have copies of it.
type Shard struct {
	ID     uint64
	Copies int      // as many as its policy asks for
	Owners []uint64 // IDs of nodes, each once
	Bytes  int64    // of one copy
	Pinned bool     // no copy of it can be read: it stays where it is
}

// Kind is what a step does.
type Kind string

// The kinds of steps.
const (
	Copy   Kind = "copy"   // To gets a copy
	Move   Kind = "move"   // To gets a copy, and then From loses its copy
	Remove Kind = "remove" // From loses its copy
)

// Reason is why a step is there.
type Reason string

// The reasons for steps, in the order in which a plan has them.
const (
	TooFew  Reason = "too few copies"
	TooMany Reason = "too many copies"
	Drain   Reason = "the node is drained"
	Zones   Reason = "two copies in one zone"
	Bytes   Reason = "bytes"
)

// Step is one step of a plan. From and To are IDs of nodes, 0 for none.
type Step struct {
	Shard    uint64
	Kind     Kind
	From, To uint64
	Bytes    int64 // that are copied
	Reason   Reason
}

// Unplaced is a shard with a copy that has nowhere to go: no node that answers, owns no copy of it yet and is not
// drained has room for it.
type Unplaced struct {
	Shard   uint64
	Copies  int      // that it has in the end
	Wanted  int      // that it should have
	Drained []uint64 // owners that keep their copies although they are drained
}

// Plan is what Make returns.
type Plan struct {
	Steps    []Step
	Unplaced []Unplaced // by ascending shard
	Loads    []Load     // in the order of State.Nodes
}

// Load is how many bytes of copies a node has.
type Load struct {
	Node          uint64
	Before, After int64
}

// Bytes is how much the plan copies.
func (p Plan) Bytes() (n int64) {
	for _, s := range p.Steps {
		n += s.Bytes
	}
	return n
}

// Make makes a plan.
func Make(s State) Plan {
	p := newPlanner(s)
	// What one search changes may make room for another one. Each change is an improvement by the first rule that it
	// touches, so this ends.
	for again := true; again; {
		placed := p.place()
		zoned := p.separate()
		spread := p.spread()
		again = placed || zoned || spread
	}
	return p.plan()
}

// planner searches for owners of all shards.
type planner struct {
	nodes  []*node  // by ascending ID
	shards []*shard // the largest first
}

// node is a Node with what it has if the plan is carried out.
type node struct {
	Node
	zone   string // never empty
	bytes  int64
	before int64 // bytes
	shards []*shard
}

// takes reports whether the node may get copies.
func (n *node) takes() bool { return !n.Away && !n.Draining }

// fits reports whether the node may get a copy of a shard.
func (n *node) fits(s *shard) bool {
	return n.takes() && !s.isOn(n) && (slices.Contains(s.before, n) || n.Room >= s.Bytes)
}

// shard is a Shard with its owners if the plan is carried out.
type shard struct {
	Shard
	before  []*node
	on      []*node
	reasons map[*node]Reason // why new owners get a copy
}

func (s *shard) isOn(n *node) bool { return slices.Contains(s.on, n) }

func newPlanner(s State) *planner {
	p := &planner{}
	byID := make(map[uint64]*node, len(s.Nodes))
	for _, n := range s.Nodes {
		one := &node{Node: n, zone: zoneOf(n)}
		byID[n.ID] = one
		p.nodes = append(p.nodes, one)
	}
	slices.SortFunc(p.nodes, func(a, b *node) int { return cmp.Compare(a.ID, b.ID) })
	for _, sh := range s.Shards {
		one := &shard{Shard: sh, reasons: make(map[*node]Reason)}
		for _, id := range sh.Owners {
			if n := byID[id]; n != nil {
				one.before = append(one.before, n)
				n.before += sh.Bytes
				p.put(one, n)
			}
		}
		p.shards = append(p.shards, one)
	}
	slices.SortFunc(p.shards, func(a, b *shard) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.ID, b.ID))
	})
	return p
}

// zoneOf is what must differ between two copies of a shard, where possible.
func zoneOf(n Node) string {
	if n.Zone == "" {
		return "node " + strconv.FormatUint(n.ID, 10)
	}
	return "zone " + n.Zone
}

// give makes a node an owner.
func (p *planner) give(s *shard, n *node, why Reason) {
	p.put(s, n)
	if !slices.Contains(s.before, n) {
		n.Room -= s.Bytes
		s.reasons[n] = why
	}
}

func (p *planner) put(s *shard, n *node) {
	s.on = append(s.on, n)
	n.shards = append(n.shards, s)
	n.bytes += s.Bytes
}

// take makes a node one that is no owner.
func (p *planner) take(s *shard, n *node) {
	s.on = slices.DeleteFunc(s.on, func(o *node) bool { return o == n })
	n.shards = slices.DeleteFunc(n.shards, func(o *shard) bool { return o == s })
	n.bytes -= s.Bytes
	if !slices.Contains(s.before, n) {
		n.Room += s.Bytes
		delete(s.reasons, n)
	}
}

// move gives one owner's copy to another node.
func (p *planner) move(s *shard, from, to *node, why Reason) {
	if earlier, ok := s.reasons[from]; ok {
		why = earlier // it is not there yet: the copy is made for the same reason, elsewhere
	}
	p.take(s, from)
	p.give(s, to, why)
}
