package copystate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/services/meta"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is some data nodes that talk to each other without a network. It has a method for each thing that a test does
// to the nodes or waits for.
type world struct {
	t     *testing.T
	mu    sync.Mutex
	state *cluster.State
	news  chan struct{} // closed and replaced when the state changed
	nodes map[uint64]*node
	cut   map[[2]uint64]bool // links that lead nowhere
	older map[uint64]bool    // nodes of a version without the exchange
}

// node is one data node and what its other parts would say. It has many fields because it stands in for all parts of a
// node that a Service asks or tells something.
type node struct {
	w      *world
	id     uint64
	dir    string
	s      *Service
	has    map[uint64]bool
	owed   map[uint64][]uint64
	back   []uint64 // nodes that were heard of again
	gone   []uint64 // nodes of which all processes are gone
	gaveUp bool
	began  uint64                  // Order.Began; beganAt when 0
	giveUp chan struct{}           // GiveUp waits until it is closed; nil for not
	found  map[uint64]int          // how often a copy was found to lack something
	ready  int                     // how often the copies were said to be ready
	heard  func(m *rpc.CopyStates) // is called with a message before it is answered; nil for not
	up     bool
	behind *cluster.State // the metadata that it has; nil for the newest

	process  uint64
	clock    atomic.Uint64 // its version of now
	memory   time.Duration // for which it lasts
	identity string
	checks   int // how often another node did not take it for what it says
}

func newWorld(t *testing.T, nodes int) *world {
	w := &world{
		t:     t,
		state: cluster.NewState(),
		news:  make(chan struct{}),
		nodes: make(map[uint64]*node),
		cut:   make(map[[2]uint64]bool),
		older: make(map[uint64]bool),
	}
	w.state.Data.ClusterID = 42
	for i := range nodes {
		id := uint64(i + 1)
		w.state.DataNodes = append(w.state.DataNodes, cluster.Node{ID: id, TCPAddr: fmt.Sprintf("node%d:8088", id)})
		w.nodes[id] = &node{
			w:     w,
			id:    id,
			dir:   t.TempDir(),
			has:   make(map[uint64]bool),
			found: make(map[uint64]int),
			owed:  make(map[uint64][]uint64),
		}
		w.nodes[id].process = 1
	}
	for id := range w.nodes {
		w.start(id)
	}
	return w
}

func (w *world) start(id uint64) {
	w.t.Helper()
	n := w.nodes[id]
	s, err := Open(Deps{
		Order: Order{Began: cmp.Or(n.began, beganAt), Now: n.clock.Load},
		Path:  filepath.Join(n.dir, "copies.db"), DataDir: filepath.Join(n.dir, "data"), Meta: n,
		Peer: func(to cluster.Node) (rpc.CopyStateClient, error) { return link{w, id, to.ID}, nil },
		Engine: Engine{
			Has:     func(shard uint64) bool { return n.get(func() bool { return n.has[shard] }) },
			Damaged: func(uint64) (string, bool) { return "", true },
		},
		Hints: Hints{
			Owed: func() map[uint64][]uint64 {
				out := make(map[uint64][]uint64)
				n.get(func() bool {
					for to, shards := range n.owed {
						out[to] = append([]uint64(nil), shards...)
					}
					return true
				})
				return out
			},
			GiveUp: func() error {
				if n.giveUp != nil {
					<-n.giveUp
				}
				n.get(func() bool { n.gaveUp, n.owed = true, map[uint64][]uint64{}; return true })
				return nil
			},
		},
		Events: Events{
			Heard: func(id uint64) { n.get(func() bool { n.back = append(n.back, id); return true }) },
			Found: func(shard uint64) { n.get(func() bool { n.found[shard]++; return true }) },
			Ready: func() { n.get(func() bool { n.ready++; return true }) },
			Gone: func(id, process uint64) {
				n.get(func() bool {
					if process == 0 {
						n.gone = append(n.gone, id)
					}
					return true
				})
			},
		},
		Place: Place{
			Process:  func() (p uint64) { n.get(func() bool { p = n.process; return true }); return p },
			Identity: func() (i string) { n.get(func() bool { i = n.identity; return true }); return i },
			Check:    func() { n.get(func() bool { n.checks++; return true }) },
		},
		FreeRAMLasts: func() (d time.Duration) { n.get(func() bool { d = n.memory; return true }); return d },
		Log:          zap.NewNop(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	n.s, n.up = s, true
	w.mu.Unlock()
	w.t.Cleanup(func() { w.stop(id) })
}

func (w *world) stop(id uint64) {
	n := w.nodes[id]
	w.mu.Lock()
	up := n.up
	n.up = false
	w.mu.Unlock()
	if up {
		n.s.Close()
	}
}

// setCut cuts the link between two nodes, or mends it.
func (w *world) setCut(a, b uint64, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]uint64{a, b}], w.cut[[2]uint64{b, a}] = cut, cut
}

// addShard adds a shard with owners to the metadata.
func (w *world) addShard(owners ...uint64) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.state
	data := w.state.Data.Clone()
	data.MaxShardID++
	sh := meta.ShardInfo{ID: data.MaxShardID}
	for _, o := range owners {
		sh.Owners = append(sh.Owners, meta.ShardOwner{NodeID: o})
	}
	at := time.Unix(0, 0).Add(time.Duration(sh.ID) * time.Hour)
	group := meta.ShardGroupInfo{ID: sh.ID, StartTime: at, EndTime: at.Add(time.Hour), Shards: []meta.ShardInfo{sh}}
	if len(data.Databases) == 0 {
		data.Databases = []meta.DatabaseInfo{{Name: "db", RetentionPolicies: []meta.RetentionPolicyInfo{{Name: "rp"}}}}
	}
	rp := &data.Databases[0].RetentionPolicies[0]
	rp.ShardGroups = append(rp.ShardGroups, group)
	next.Data = data
	w.publish(&next)
	return sh.ID
}

// dropShard takes a shard out of the metadata.
func (w *world) dropShard(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.state
	next.Data = w.state.Data.Clone()
	rp := &next.Data.Databases[0].RetentionPolicies[0]
	rp.ShardGroups = slices.DeleteFunc(rp.ShardGroups, func(g meta.ShardGroupInfo) bool { return g.ID == id })
	w.publish(&next)
}

// giveShard makes nodes the owners of a shard.
func (w *world) giveShard(id uint64, owners ...uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.state
	next.Data = w.state.Data.Clone()
	groups := next.Data.Databases[0].RetentionPolicies[0].ShardGroups
	sh := &groups[slices.IndexFunc(groups, func(g meta.ShardGroupInfo) bool { return g.ID == id })].Shards[0]
	sh.Owners = nil
	for _, o := range owners {
		sh.Owners = append(sh.Owners, meta.ShardOwner{NodeID: o})
	}
	w.publish(&next)
}

// publish makes a state that of the cluster. mu must be held.
func (w *world) publish(st *cluster.State) {
	w.state = st
	close(w.news)
	w.news = make(chan struct{})
}

func (n *node) get(fn func() bool) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return fn()
}

// change changes what a node says.
func (w *world) change(id uint64, change func(*node)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.nodes[id])
}

func (n *node) NodeID() uint64 { return n.id }
func (n *node) State() *cluster.State {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return cmp.Or(n.behind, n.w.state)
}
func (n *node) Changed() <-chan struct{} {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.news
}

// owe makes a node keep writes of shards for another one.
func (n *node) owe(to uint64, shards ...uint64) {
	n.get(func() bool { n.owed[to] = shards; return true })
}

// link is the way from one node to another.
type link struct {
	w        *world
	from, to uint64
}

func (l link) Exchange(ctx context.Context, m *rpc.CopyStates, _ ...grpc.CallOption) (*rpc.CopyStates, error) {
	l.w.mu.Lock()
	n, cut := l.w.nodes[l.to], l.w.cut[[2]uint64{l.from, l.to}]
	up, s, older, heard := n.up, n.s, l.w.older[l.to], n.heard
	l.w.mu.Unlock()
	if older {
		return nil, status.Error(codes.Unimplemented, "unknown service")
	}
	if !up {
		return nil, errors.New("connection refused")
	}
	if cut {
		return nil, errors.New("the link is cut")
	}
	answer, err := Server{Service: s}.Exchange(ctx, m)
	if heard != nil {
		heard(m)
	}
	return answer, err
}

// unfit returns why a node's copy is not whole.
func (w *world) unfit(id, shard uint64) string {
	return w.nodes[id].s.Unfit(w.t.Context(), shard)[shard].Reason
}

// await waits until ok.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// knows waits until a node has looked through the metadata up to a shard.
func (w *world) knows(id, shard uint64) {
	w.t.Helper()
	w.await("the node knows the shard", func() bool {
		s := w.nodes[id].s
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.folders.self.Newest >= shard
	})
}

// heardOwed waits until a node knows that a holder keeps something for another one's copy of a shard. TellOthers does
// not wait for nodes that are late.
func (w *world) heardOwed(id, holder, to, shard uint64) {
	w.t.Helper()
	w.await("the node has heard what waits", func() bool {
		s := w.nodes[id].s
		s.mu.Lock()
		defer s.mu.Unlock()
		_, owed := s.holders.tables[holder].owed[to][shard]
		return owed
	})
}

// isWhole waits until a node counts its copy of a shard as whole. It may be unsure while others answer late.
func (w *world) isWhole(id, shard uint64, when string) {
	w.t.Helper()
	w.await("the copy is whole "+when, func() bool { return w.unfit(id, shard) == "" })
}

func TestNewShardIsWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(1, id)
	w.isWhole(1, id, "before the first write")
	if err := w.nodes[1].s.Begin(id); err != nil {
		t.Fatal(err)
	}
	w.isWhole(1, id, "after it")
}

// A write is acknowledged only when the owner that missed it knows, be it through a third node.
func TestMissedWriteIsKnownBeforeItIsAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.await("node 2 is sure", func() bool { return w.unfit(2, id) == "" })
	w.setCut(1, 2, true)
	w.nodes[1].owe(2, id)
	began := time.Now()
	w.nodes[1].s.TellOthers(2, id)
	late := time.Since(began) >= forwardTimeout // on a busy machine: a node that does not answer is not waited for
	if why := w.unfit(2, id); !strings.Contains(why, "node1:8088 keeps writes") && !late {
		t.Errorf("node 2 thinks %q", why)
	}
	w.setCut(1, 2, false)
	w.nodes[1].owe(2)
	w.await("node 2 is whole again", func() bool { return w.unfit(2, id) == "" })
}

// A node that reaches nobody knows itself what it keeps for others.
func TestNodeKnowsWhatItOwes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id, other := w.addShard(1, 2), w.addShard(1, 2)
	w.await("node 2 is sure", func() bool { return w.unfit(2, id) == "" })
	w.setCut(1, 2, true)
	w.setCut(1, 3, true)
	n := w.nodes[1]
	n.owe(2, id)
	n.s.TellOthers(2, id)
	if got := n.s.Owes(2, []uint64{other, id}); !slices.Equal(got, []uint64{id}) {
		t.Errorf("it owes node 2 writes of %d", got)
	}
	if got := n.s.Owes(3, []uint64{other, id}); len(got) > 0 {
		t.Errorf("it owes node 3 writes of %d", got)
	}
	n.owe(2)
	w.await("node 1 owes nothing", func() bool { return len(n.s.Owes(2, []uint64{id})) == 0 })
}

// A node that was down learns what it missed from a third node, while the one that keeps it is down.
func TestHolderThatIsDownIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.stop(2)
	w.nodes[1].owe(2, id)
	w.nodes[1].s.TellOthers(2, id)
	w.heardOwed(3, 1, 2, id)
	w.stop(1)
	w.start(2)
	w.await("node 2 knows", func() bool { // that it does, or did before it was away for long
		why := w.unfit(2, id)
		return strings.Contains(why, "node1:8088") && strings.Contains(why, "keeps writes")
	})
	// It does not come back: a repair has to bring the writes.
	w.await("node 2 asks for a repair", func() bool { return w.nodes[2].s.Lacks(id).Kind == Missed })
	gen := w.nodes[2].s.Lacks(id).Gen
	if err := w.nodes[2].s.Whole(id, gen-1); err != nil || w.unfit(2, id) == "" {
		t.Error("an older comparison made the copy whole", err)
	}
	if err := w.nodes[2].s.Whole(id, gen); err != nil {
		t.Error(err)
	}
	w.isWhole(2, id, "after a repair")
}

func TestLostDiskMakesCopiesUnfitUntilTheyAreRepaired(t *testing.T) {
	t.Parallel()
	for name, wipe := range map[string]func(t *testing.T, n *node){
		"the data folder": func(t *testing.T, n *node) { n.remove(t, "data") },
		"the meta folder": func(t *testing.T, n *node) { n.remove(t, "copies.db") },
		"both":            func(t *testing.T, n *node) { n.remove(t, "data"); n.remove(t, "copies.db") },
		"one shard":       func(t *testing.T, n *node) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			id := w.addShard(1, 2)
			w.knows(2, id)
			if err := w.nodes[2].s.Begin(id); err != nil {
				t.Fatal(err)
			}
			w.nodes[2].get(func() bool { w.nodes[2].has[id] = true; return true })
			w.stop(2)
			w.start(2)
			w.isWhole(2, id, "after a restart")
			w.stop(2)
			w.nodes[2].get(func() bool { w.nodes[2].has[id] = name == "the meta folder"; return true })
			wipe(t, w.nodes[2])
			w.start(2)
			if why := w.unfit(2, id); why == "" {
				t.Fatal("the copy counts as whole")
			}
			later := w.addShard(1, 2)
			w.knows(2, later)
			w.isWhole(2, later, "that is newer than the loss")
			if err := w.nodes[2].s.Whole(id, w.nodes[2].s.Lacks(id).Gen); err != nil {
				t.Fatal(err)
			}
			w.nodes[2].get(func() bool { w.nodes[2].has[id] = true; return true })
			w.stop(2)
			w.start(2)
			w.isWhole(2, id, "after the repair and a restart")
		})
	}
}

// A node was away for so long that other copies gave what it keeps. Once it is back, more may wait behind that.
func TestHolderThatComesBackCountsAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	holder, owner := w.nodes[1], w.nodes[2].s
	holder.owe(2, id)
	holder.s.TellOthers(2, id)
	w.heardOwed(2, 1, 2, id)
	for _, other := range []uint64{2, 3} {
		w.setCut(1, other, true)
	}
	w.await("node 2 asks for the repair", func() bool { return owner.Lacks(id).Kind == Missed })
	if err := owner.Whole(id, owner.Lacks(id).Gen); err != nil {
		t.Fatal(err)
	}
	w.isWhole(2, id, "after the repair")
	for _, other := range []uint64{2, 3} {
		w.setCut(1, other, false)
	}
	w.await("node 1 reaches node 2", func() bool { return !holder.s.isAway(2) })
	holder.s.TellOthers(2, id) // of one more write, behind the others
	w.await("node 2 is told", func() bool { return strings.Contains(w.unfit(2, id), "node1:8088 keeps writes") })
	holder.owe(2)
	w.await("node 2 has it", func() bool { return w.unfit(2, id) == "" })
}

func (s *Service) isAway(node uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[node].away()
}

func (n *node) remove(t *testing.T, name string) {
	t.Helper()
	if err := removeAll(filepath.Join(n.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestShardThatALostNodeBeginsAgainLacksWhatWasBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	for range 2 { // the second time the shard was lost meanwhile
		if err := w.nodes[2].s.Begin(id); err != nil {
			t.Fatal(err)
		}
	}
	if kind := w.nodes[2].s.Lacks(id).Kind; kind != Lost {
		t.Errorf("it lacks %q", kind)
	}
}

// What a node kept for others and lost with its files is lost for them, and they find out.
func TestLostHintsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(2, 3)
	w.knows(2, id)
	w.stop(2)
	w.nodes[1].owe(2, id)
	w.nodes[1].s.TellOthers(2, id)
	w.heardOwed(3, 1, 2, id)
	w.stop(1)
	w.nodes[1].owe(2)
	w.nodes[1].remove(t, "copies.db")
	w.nodes[1].remove(t, "data")
	w.start(1)
	w.start(2)
	w.await("node 2 knows that it lacks writes for good", func() bool { return w.nodes[2].s.Lacks(id).Kind == Missed })

	other := w.addShard(2, 3)
	w.knows(2, other)
	w.nodes[1].s.Lose(2, other)
	w.await("node 2 knows of the dropped hints", func() bool { return w.nodes[2].s.Lacks(other).Kind == Missed })
	w.await("node 1 forgets what node 2 knows", func() bool {
		s := w.nodes[1].s
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.own.lost[2]) == 0
	})
}

// The node has noted the first loss, and repaired its copy, before the second one.
func TestWhatIsLostWhileANodeIsToldOfALossIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id, other := w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, other)
	first, second := w.nodes[1].s, w.nodes[2].s
	w.await("both are ready", func() bool { return first.Ready() && second.Ready() })
	done := make(chan struct{})
	again := sync.OnceFunc(func() {
		defer close(done)
		if err := second.Whole(id, second.Lacks(id).Gen); err != nil {
			t.Error(err)
		}
		first.mu.Lock()
		first.own.addLost(2, id)
		first.own.addLost(2, other)
		first.fill(new(rpc.CopyStates), 2, nil, true) // as for an answer to node 2, which asks at the same time
		first.mu.Unlock()
	})
	w.change(2, func(n *node) {
		n.heard = func(m *rpc.CopyStates) {
			if slices.Contains(m.Lost, id) {
				again()
			}
		}
	})
	first.Lose(2, id)
	<-done
	w.await("node 2 is told of the second loss, too", func() bool { return second.Lacks(id).Kind == Missed })
	w.await("and of that of another shard", func() bool { return second.Lacks(other).Kind == Missed })
}

func TestRolledBackNodeFindsOut(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{true, false} {
		t.Run(
			fmt.Sprintf("and kept something for another until it went back: %v", kept),
			func(t *testing.T) { rollBack(t, kept) },
		)
	}
}

// folderOf is the folder of a node's newest table.
func (s *Service) folderOf(node uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holders.tables[node].folder
}

func rollBack(t *testing.T, kept bool) {
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	alone := w.addShard(2)
	w.knows(2, alone)
	w.nodes[2].get(func() bool { w.nodes[2].has[id], w.nodes[2].has[alone] = true, true; return true })
	w.stop(2)
	old := t.TempDir()
	mustCopy(t, w.nodes[2].dir, old)
	w.start(2)
	if err := w.nodes[2].s.Mark(); err != nil { // a delete ran
		t.Fatal(err)
	}
	mark := w.foldersOf(2).self.Mark
	if kept {
		w.nodes[2].owe(1, id)
		w.nodes[2].s.TellOthers(1, id)
		w.heardOwed(1, 2, 1, id)
	}
	w.await("both others have heard of it", func() bool {
		return w.nodes[1].s.HeardMark(2) >= mark && w.nodes[3].s.HeardMark(2) >= mark
	})
	w.stop(2)
	before := w.nodes[1].s.folderOf(2)
	w.nodes[2].dir = old
	w.nodes[2].owe(1, id) // as when the copy was made
	w.nodes[2].giveUp = make(chan struct{})
	giveUp := sync.OnceFunc(func() { close(w.nodes[2].giveUp) })
	w.start(2)
	t.Cleanup(giveUp)
	// It may take long until what it kept for others is set aside. Nobody takes its copies for right meanwhile.
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
	if w.nodes[2].s.Ready() {
		t.Error("it may send what it kept for others, which is not set aside yet")
	}
	giveUp()
	w.await("it is ready", w.nodes[2].s.Ready)
	if w.nodes[2].s.Lacks(alone).Kind != "" {
		t.Error("a copy that no other node has is to be made anew")
	}
	w.await("what node 2 kept for others is set aside", func() bool {
		return w.nodes[2].get(func() bool { return w.nodes[2].gaveUp })
	})
	if kept {
		w.await(
			"node 1 knows that node 2 lost what it kept for it",
			func() bool { return w.nodes[1].s.Lacks(id).Kind == Missed },
		)
	} else {
		// It has brought all to node 1, as node 1 and 3 know.
		w.await("node 1 has heard of the new folder", func() bool { return w.nodes[1].s.folderOf(2) != before })
		if why := w.nodes[1].s.Lacks(id).Why; why != "" {
			t.Errorf("node 1 thinks that its copy lacks something: %s", why)
		}
	}
	w.stop(2)
	w.start(2)
	if w.foldersOf(2).wentBack || w.nodes[2].s.Lacks(id).Kind != Stale {
		t.Error("after one more start it is not what it was")
	}

	// All deletes that it missed have run on the copies that were stale when it asked for them.
	s := w.nodes[2].s
	stale, _, since := s.Stale()
	if len(stale) != 1 || stale[id] == 0 || since != beganAt {
		t.Fatalf("stale copies: %v, since %d", stale, since)
	}
	if err := s.CaughtUp(map[uint64]uint64{id: stale[id] - 1}, true); err != nil || s.Lacks(id).Kind != Stale {
		t.Errorf("%v; deletes that were lost since are taken for run", err)
	}
	if err := s.CaughtUp(stale, true); err != nil || s.Lacks(id).Kind != Outdated || left(s) != 0 {
		t.Errorf("%v; the copy is %+v", err, s.Lacks(id))
	}
}

// What a node is told to lack is on its disk before it says so: the one that tells it forgets it then.
func TestWhatCannotBeStoredIsNotTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id, other := w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, other)
	s := w.nodes[2].s
	if err := s.store.close(); err != nil {
		t.Fatal(err)
	}
	m := &rpc.CopyStates{Node: 1, Starting: true, Lost: []uint64{id}}
	if _, err := (Server{Service: s}).Exchange(t.Context(), m); err == nil {
		t.Error("it was taken over")
	}
	if w.unfit(2, id) == "" {
		t.Error("the copy counts as whole")
	}
	if err := s.Begin(other); err == nil || s.records.byShard[other].Had {
		t.Error("a copy begins that is not remembered:", err)
	}
}

// A repair waits for what is kept for a copy, and for no longer.
func TestCopyIsRepairedOnceWhatWaitedHasArrived(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.nodes[1].owe(2, id)
	w.nodes[1].s.TellOthers(2, id)
	w.heardOwed(2, 1, 2, id)
	w.nodes[2].s.Missed(id, "of a test")
	before := 0
	w.nodes[2].get(func() bool { before = w.nodes[2].found[id]; return true })
	w.nodes[1].owe(2)
	w.await("node 2 asks for the repair again", func() bool {
		return w.nodes[2].get(func() bool { return w.nodes[2].found[id] > before })
	})
}

// While a cluster is upgraded node by node, the new nodes answer as before.
func TestNodesOfAnOlderVersionAreThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(1, id)
	w.mu.Lock()
	w.older[2], w.older[3] = true, true
	w.mu.Unlock()
	w.stop(1)
	w.start(1)
	w.isWhole(1, id, "beside them")
	w.nodes[1].owe(2, id)
	w.nodes[1].s.TellOthers(2, id)
	s := w.nodes[1].s
	w.await("writes do not wait for nodes that do not listen", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.told()
	})
}

func TestNodeThatReachesFewOthersIsUnsure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id, alone := w.addShard(1, 2), w.addShard(1)
	w.knows(1, alone)
	w.setCut(1, 2, true)
	w.setCut(1, 3, true)
	w.await("node 1 is unsure", func() bool { return strings.Contains(w.unfit(1, id), "can reach 1 of 3") })
	if why := w.unfit(1, alone); why != "" {
		t.Error("of a shard that only it has:", why)
	}
	w.setCut(1, 3, false)
	w.await("node 1 is sure", func() bool { return w.unfit(1, id) == "" })
	// Nodes that are down take no writes.
	w.stop(2)
	w.stop(3)
	w.await("node 1 is sure beside nodes that are down", func() bool { return w.unfit(1, id) == "" })
	w.await("node 1 does not reach node 3", func() bool { return w.nodes[1].s.isAway(3) })
	w.nodes[1].get(func() bool { w.nodes[1].back = nil; return true })
	w.start(3)
	w.await("node 1 hears of node 3 again", func() bool {
		return w.nodes[1].get(func() bool {
			back := w.nodes[1].back
			return len(back) > 0 && back[len(back)-1] == 3
		})
	})
}

// beganAt is the version that nodes had reached when they started.
const beganAt = 7

// left is how many copies may hold deleted points.
func left(s *Service) int {
	stale, others, _ := s.Stale()
	return len(stale) + len(others)
}
