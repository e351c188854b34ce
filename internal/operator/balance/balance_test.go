package balance

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// cluster is a State that steps change.
type cluster struct {
	State
	owners map[uint64][]uint64 // by shard
}

func newCluster(s State) *cluster {
	c := &cluster{State: s, owners: make(map[uint64][]uint64)}
	for _, sh := range s.Shards {
		c.owners[sh.ID] = slices.Clone(sh.Owners)
	}
	return c
}

func (c *cluster) shard(id uint64) Shard {
	return c.Shards[slices.IndexFunc(c.Shards, func(s Shard) bool { return s.ID == id })]
}

func (c *cluster) node(id uint64) Node {
	return c.Nodes[slices.IndexFunc(c.Nodes, func(n Node) bool { return n.ID == id })]
}

// wanted is how many copies a shard should have.
func (c *cluster) wanted(s Shard) int { return min(max(s.Copies, 1), len(c.Nodes)) }

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// add makes a node an owner.
func (c *cluster) add(t fataler, s Step) {
	t.Helper()
	if slices.Contains(c.owners[s.Shard], s.To) {
		t.Fatalf("%+v: it is an owner already", s)
	}
	if n := c.node(s.To); n.Away || n.Draining {
		t.Fatalf("%+v: to %+v", s, n)
	}
	if want := c.shard(s.Shard).Bytes; s.Bytes != want {
		t.Fatalf("%+v copies %d bytes, want %d", s, s.Bytes, want)
	}
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.ID == s.To {
			if n.Room -= s.Bytes; n.Room < 0 {
				t.Fatalf("%+v: there is no room", s)
			}
		}
	}
	c.owners[s.Shard] = append(c.owners[s.Shard], s.To)
}

// remove makes a node one that is no owner. Enough copies must be left.
func (c *cluster) remove(t fataler, s Step) {
	t.Helper()
	if !slices.Contains(c.owners[s.Shard], s.From) {
		t.Fatalf("%+v: it is no owner", s)
	}
	c.owners[s.Shard] = slices.DeleteFunc(c.owners[s.Shard], func(id uint64) bool { return id == s.From })
	sh := c.shard(s.Shard)
	if left, least := len(c.owners[s.Shard]), min(len(sh.Owners), c.wanted(sh)); left < least {
		t.Fatalf("%+v leaves %d copies, want %d at least", s, left, least)
	}
}

// carryOut does the steps of a plan one after the other, and returns the state after them.
func carryOut(t fataler, s State, p Plan) State {
	t.Helper()
	c := newCluster(State{Nodes: slices.Clone(s.Nodes), Shards: s.Shards})
	for _, step := range p.Steps {
		switch step.Kind {
		case Copy:
			c.add(t, step)
		case Move:
			c.add(t, step)
			c.remove(t, step)
		case Remove:
			c.remove(t, step)
		}
	}
	out := State{Nodes: c.Nodes, Shards: slices.Clone(s.Shards)}
	for i := range out.Shards {
		out.Shards[i].Owners = c.owners[out.Shards[i].ID]
	}
	return out
}

// zonesOf counts the zones in which a shard has copies.
func zonesOf(s State, sh Shard) int {
	zones := map[string]bool{}
	for _, n := range s.Nodes {
		if slices.Contains(sh.Owners, n.ID) {
			zones[zoneOf(n)] = true
		}
	}
	return len(zones)
}

// limits bound what drawState draws.
type limits struct {
	nodes, shards int
	size          int64 // of the largest shard
	away          bool  // some nodes may be away
	tight         bool  // some nodes may have little room
	pinned        bool  // some shards may be pinned
	zones         int   // how many there may be; 0 for none
}

// drawState draws a cluster with any owners.
func drawState(t *rapid.T, l limits) State {
	var s State
	for i := range rapid.IntRange(1, l.nodes).Draw(t, "nodes") {
		n := Node{ID: uint64(3*i + 1), Room: math.MaxInt64}
		if l.zones > 0 {
			if z := rapid.IntRange(0, l.zones).Draw(t, "zone"); z > 0 {
				n.Zone = fmt.Sprint("z", z)
			}
		}
		n.Draining = rapid.IntRange(0, 7).Draw(t, "draining") == 0
		n.Away = l.away && rapid.IntRange(0, 7).Draw(t, "away") == 0
		if l.tight && rapid.Bool().Draw(t, "tight") {
			n.Room = rapid.Int64Range(0, 3*l.size).Draw(t, "room")
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range rapid.IntRange(0, l.shards).Draw(t, "shards") {
		sh := Shard{
			ID: uint64(i + 1), Copies: rapid.IntRange(0, 4).Draw(t, "copies"),
			Bytes:  rapid.Int64Range(0, l.size).Draw(t, "bytes"),
			Pinned: l.pinned && rapid.IntRange(0, 9).Draw(t, "pinned") == 0,
		}
		owners := rapid.IntRange(1, min(len(s.Nodes), 4)).Draw(t, "owners")
		first := rapid.IntRange(0, len(s.Nodes)-1).Draw(t, "first")
		for o := range owners {
			sh.Owners = append(sh.Owners, s.Nodes[(first+o)%len(s.Nodes)].ID)
		}
		s.Shards = append(s.Shards, sh)
	}
	return s
}

// Whatever the cluster looks like, no step takes too much away, and what a plan does not reach it says.
func TestPlanKeepsItsRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t, limits{
			nodes: 12, shards: 60, size: 1000, away: true, tight: true, pinned: true, zones: 3,
		})
		p := Make(before)
		after := carryOut(t, before, p)
		unplaced := map[uint64]Unplaced{}
		for _, u := range p.Unplaced {
			unplaced[u.Shard] = u
		}
		c := newCluster(after)
		for i, sh := range after.Shards {
			u, known := unplaced[sh.ID]
			if sh.Pinned {
				if d := cmp.Diff(before.Shards[i], sh); d != "" {
					t.Fatalf("a pinned shard changed: %s", d)
				}
				continue
			}
			if got, want := len(sh.Owners), c.wanted(sh); got > want || got < want && (!known || u.Copies != got) {
				t.Fatalf("shard %d has %d copies, want %d; unplaced: %+v", sh.ID, got, want, u)
			}
			for _, id := range sh.Owners {
				if c.node(id).Draining && !slices.Contains(u.Drained, id) {
					t.Fatalf("shard %d is still on node %d; unplaced: %+v", sh.ID, id, u)
				}
			}
			if got, was := zonesOf(after, sh), zonesOf(before, before.Shards[i]); got < was &&
				!losesCopies(before, before.Shards[i]) {
				t.Fatalf("shard %d is in %d zones, was in %d", sh.ID, got, was)
			}
		}
		for _, l := range p.Loads {
			if got := loadOf(after, l.Node); got != l.After {
				t.Fatalf("node %d has %d bytes, the plan says %d", l.Node, got, l.After)
			}
		}
	})
}

// losesCopies reports whether a shard cannot keep the zones that it is in: an owner is drained, or it has too many.
func losesCopies(s State, sh Shard) bool {
	return len(sh.Owners) > min(max(sh.Copies, 1), len(s.Nodes)) ||
		slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Draining && slices.Contains(sh.Owners, n.ID) })
}

func loadOf(s State, node uint64) (n int64) {
	for _, sh := range s.Shards {
		if slices.Contains(sh.Owners, node) {
			n += sh.Bytes
		}
	}
	return n
}

// Where all nodes answer and have room, every target is met: copies, drained nodes, zones. A second plan is empty.
func TestPlanReachesItsTargets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t, limits{nodes: 12, shards: 60, size: 1000, zones: 3})
		p := Make(before)
		after := carryOut(t, before, p)
		stay, zones := 0, map[string]bool{}
		for _, n := range after.Nodes {
			if !n.Draining {
				stay++
				zones[zoneOf(n)] = true
			}
		}
		if again := Make(after); len(again.Steps) > 0 {
			t.Fatalf("the second plan is %+v, after %+v", again.Steps, p.Steps)
		}
		for _, sh := range after.Shards {
			if stay < min(max(sh.Copies, 1), len(after.Nodes)) {
				continue // there are too few nodes: TestPlanKeepsItsRules says what holds then
			}
			if got, want := zonesOf(after, sh), min(len(sh.Owners), len(zones)); got < want {
				t.Fatalf("shard %d is in %d zones, want %d", sh.ID, got, want)
			}
			for _, n := range after.Nodes {
				if n.Draining && slices.Contains(sh.Owners, n.ID) {
					t.Fatalf("shard %d is on node %d, which is drained", sh.ID, n.ID)
				}
			}
		}
	})
}

// Shards that are small beside what a node has can always be spread, and for each byte that a node has too much about
// one is copied.
func TestPlanSpreadsBytesAndCopiesFew(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := State{}
		nodes := rapid.IntRange(2, 40).Draw(t, "nodes")
		for i := range nodes {
			s.Nodes = append(s.Nodes, Node{ID: uint64(i + 1), Room: math.MaxInt64})
		}
		owned := rapid.IntRange(1, nodes).Draw(t, "nodes with shards") // the others were just added
		const most = 1000
		var total int64
		for i := range 60 * nodes {
			sh := Shard{ID: uint64(i + 1), Copies: min(rapid.IntRange(1, 3).Draw(t, "copies"), owned)}
			sh.Bytes = rapid.Int64Range(most/2, most).Draw(t, "bytes")
			first := rapid.IntRange(0, owned-1).Draw(t, "first")
			for c := range sh.Copies {
				sh.Owners = append(sh.Owners, uint64((first+c)%owned+1))
			}
			total += int64(sh.Copies) * sh.Bytes
			s.Shards = append(s.Shards, sh)
		}
		mean := total / int64(nodes)
		p := Make(s)
		after := carryOut(t, s, p)
		var loads []int64
		var excess int64
		for _, l := range p.Loads {
			loads = append(loads, loadOf(after, l.Node))
			excess += max(l.Before-mean, 0)
		}
		if spread := slices.Max(loads) - slices.Min(loads); float64(spread) > Tolerance*float64(mean) {
			t.Fatalf("nodes have from %d to %d bytes, mean %d", slices.Min(loads), slices.Max(loads), mean)
		}
		if p.Bytes() > excess+int64(nodes)*most {
			t.Fatalf("%d bytes are copied, and nodes have %d too much", p.Bytes(), excess)
		}
	})
}

// A drain copies what is on the node, and what spreads the rest is bounded by what is out of balance.
func TestDrainCopiesWhatIsOnTheNode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(4, 200).Draw(t, "nodes")
		s := State{}
		for i := range nodes {
			s.Nodes = append(s.Nodes, Node{ID: uint64(i + 1), Room: math.MaxInt64})
		}
		for i := range 10 * nodes {
			s.Shards = append(s.Shards, Shard{ID: uint64(i + 1), Copies: 2, Bytes: 100,
				Owners: []uint64{uint64(i%nodes + 1), uint64((i+1)%nodes + 1)}})
		}
		drained := uint64(rapid.IntRange(1, nodes).Draw(t, "drained"))
		s.Nodes[drained-1].Draining = true
		p := Make(s)
		after := carryOut(t, s, p)
		if left := loadOf(after, drained); left != 0 || len(p.Unplaced) > 0 {
			t.Fatalf("%d bytes are left: %+v", left, p.Unplaced)
		}
		if on := loadOf(s, drained); p.Bytes() < on || p.Bytes() > on+on/10 {
			t.Fatalf("%d bytes are copied, want the %d of the node", p.Bytes(), on)
		}
	})
}

func TestPlans(t *testing.T) {
	t.Parallel()
	node := func(id uint64, change ...func(*Node)) Node {
		n := Node{ID: id, Room: 1000}
		for _, c := range change {
			c(&n)
		}
		return n
	}
	drained, away := func(n *Node) { n.Draining = true }, func(n *Node) { n.Away = true }
	zone := func(z string) func(*Node) { return func(n *Node) { n.Zone = z } }
	room := func(b int64) func(*Node) { return func(n *Node) { n.Room = b } }
	for _, c := range []struct {
		name     string
		state    State
		steps    []Step
		unplaced []Unplaced
	}{
		{"nothing", State{}, nil, nil},
		{
			"a balanced cluster is left alone",
			State{
				[]Node{node(1), node(2)},
				[]Shard{
					{ID: 1, Copies: 1, Owners: []uint64{1}, Bytes: 100},
					{ID: 2, Copies: 1, Owners: []uint64{2}, Bytes: 97},
				},
			}, nil, nil,
		},
		{
			"a policy gets its copies",
			State{[]Node{node(1), node(2)}, []Shard{{ID: 1, Copies: 2, Owners: []uint64{1}, Bytes: 10}}},
			[]Step{{Shard: 1, Kind: Copy, To: 2, Bytes: 10, Reason: TooFew}}, nil,
		},
		{
			"a policy that asks for more copies than there are nodes",
			State{[]Node{node(1), node(2)}, []Shard{{ID: 1, Copies: 3, Owners: []uint64{1, 2}, Bytes: 10}}}, nil, nil,
		},
		{
			"too many copies: the one of the node that is away goes",
			State{
				[]Node{node(1), node(2, away), node(3)},
				[]Shard{{ID: 1, Copies: 2, Owners: []uint64{1, 2, 3}, Bytes: 10}},
			},
			[]Step{{Shard: 1, Kind: Remove, From: 2, Reason: TooMany}}, nil,
		},
		{
			"a move that ended half: only the drained copy is removed",
			State{
				[]Node{node(1, drained), node(2), node(3)},
				[]Shard{{ID: 1, Copies: 2, Owners: []uint64{1, 2, 3}, Bytes: 10}},
			},
			[]Step{{Shard: 1, Kind: Remove, From: 1, Reason: Drain}}, nil,
		},
		{
			"a drain of a node that is away",
			State{
				[]Node{node(1, drained, away), node(2), node(3)},
				[]Shard{{ID: 1, Copies: 2, Owners: []uint64{1, 2}, Bytes: 10}},
			},
			[]Step{{Shard: 1, Kind: Move, From: 1, To: 3, Bytes: 10, Reason: Drain}}, nil,
		},
		{
			"a drain with nowhere to go",
			State{
				[]Node{node(1, drained), node(2)},
				[]Shard{{ID: 1, Copies: 2, Owners: []uint64{1, 2}, Bytes: 10}},
			},
			nil, []Unplaced{{Shard: 1, Copies: 2, Wanted: 2, Drained: []uint64{1}}},
		},
		{
			"a drain without room",
			State{
				[]Node{node(1, drained), node(2, room(9))},
				[]Shard{{ID: 1, Copies: 1, Owners: []uint64{1}, Bytes: 10}},
			},
			nil, []Unplaced{{Shard: 1, Copies: 1, Wanted: 1, Drained: []uint64{1}}},
		},
		{
			"a drain of a shard that no node can read",
			State{
				[]Node{node(1, drained), node(2)},
				[]Shard{{ID: 1, Copies: 1, Owners: []uint64{1}, Pinned: true}},
			},
			nil, []Unplaced{{Shard: 1, Copies: 1, Wanted: 1, Drained: []uint64{1}}},
		},
		{
			"too few copies of a drained shard",
			State{
				[]Node{node(1, drained), node(2), node(3)},
				[]Shard{{ID: 1, Copies: 2, Owners: []uint64{1}, Bytes: 10}},
			},
			[]Step{
				{Shard: 1, Kind: Copy, To: 2, Bytes: 10, Reason: TooFew},
				{Shard: 1, Kind: Move, From: 1, To: 3, Bytes: 10, Reason: Drain},
			}, nil,
		},
		{
			"copies of one zone are separated, not brought together for the sake of bytes",
			State{
				[]Node{node(1, zone("a")), node(2, zone("a")), node(3, zone("b"))},
				[]Shard{
					{ID: 1, Copies: 2, Owners: []uint64{1, 2}, Bytes: 10},
					{ID: 2, Copies: 2, Owners: []uint64{1, 3}, Bytes: 100},
				},
			},
			[]Step{{Shard: 1, Kind: Move, From: 1, To: 3, Bytes: 10, Reason: Zones}}, nil,
		},
		{
			"a new node gets its share and no more",
			State{
				[]Node{node(1), node(2), node(3)},
				[]Shard{
					{ID: 1, Copies: 1, Owners: []uint64{1}, Bytes: 10},
					{ID: 2, Copies: 1, Owners: []uint64{1}, Bytes: 10},
					{ID: 3, Copies: 1, Owners: []uint64{1}, Bytes: 10},
					{ID: 4, Copies: 1, Owners: []uint64{2}, Bytes: 10},
					{ID: 5, Copies: 1, Owners: []uint64{2}, Bytes: 10},
					{ID: 6, Copies: 1, Owners: []uint64{2}, Bytes: 10},
				},
			},
			[]Step{
				{Shard: 1, Kind: Move, From: 1, To: 3, Bytes: 10, Reason: Bytes},
				{Shard: 4, Kind: Move, From: 2, To: 3, Bytes: 10, Reason: Bytes},
			}, nil,
		},
		{
			"two nodes exchange shards where no single one helps",
			State{
				[]Node{node(1), node(2)},
				[]Shard{
					{ID: 1, Copies: 1, Owners: []uint64{1}, Bytes: 60},
					{ID: 2, Copies: 1, Owners: []uint64{1}, Bytes: 60},
					{ID: 3, Copies: 1, Owners: []uint64{2}, Bytes: 50},
					{ID: 4, Copies: 1, Owners: []uint64{2}, Bytes: 50},
				},
			},
			[]Step{
				{Shard: 1, Kind: Move, From: 1, To: 2, Bytes: 60, Reason: Bytes},
				{Shard: 3, Kind: Move, From: 2, To: 1, Bytes: 50, Reason: Bytes},
			}, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := Make(c.state)
			if d := cmp.Diff(c.steps, p.Steps); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.unplaced, p.Unplaced); d != "" {
				t.Error(d)
			}
			carryOut(t, c.state, p)
		})
	}
}

func BenchmarkMake(b *testing.B) {
	var s State
	const nodes = 200
	for i := range nodes {
		s.Nodes = append(s.Nodes, Node{ID: uint64(i + 1), Zone: fmt.Sprint(i % 3), Room: math.MaxInt64})
	}
	for i := range 50 * nodes {
		first := (i * i) % (nodes - nodes/5)
		s.Shards = append(s.Shards, Shard{ID: uint64(i + 1), Copies: 2, Bytes: int64(1000 + i*7919%9000),
			Owners: []uint64{uint64(first + 1), uint64(first + 2)}})
	}
	for b.Loop() {
		Make(s)
	}
}
