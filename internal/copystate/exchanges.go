package copystate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// exchanges tell the other data nodes what this one knows, and take over what they know. Each other node has a
// goroutine of its own, so that one that hangs does not hold up what the others are told. It has many fields because
// what is said and learned comes from other parts of the node, and many methods because each part of a message has its
// own.
type exchanges struct {
	*ledger
	dial   func(cluster.Node) (rpc.CopyStateClient, error)
	wake   func(cluster.Node)
	place  Place
	order  Order
	events Events
	giveUp func() error // Hints.GiveUp
	memory func() time.Duration
	now    func() time.Time

	peers     map[uint64]*peer  // guarded by mu, like the next two
	processes map[uint64]uint64 // of other nodes, the newest known
	changed   chan struct{}     // closed and replaced when an exchange ended
	freshness

	processMu   sync.Mutex // held while a new process of a node is noted and told
	goingBackMu sync.Mutex // held while folders that are older than they were are dealt with
	backFailed  bool       // it was logged that this fails; guarded by goingBackMu
	saidReady   bool       // events.Ready was called; guarded by mu

	wg    sync.WaitGroup
	stats struct{ exchanges, failed, announced atomic.Int64 }
}

func newExchanges(l *ledger, deps Deps) *exchanges {
	return &exchanges{
		ledger: l, dial: deps.Peer, wake: deps.Wake, place: deps.Place, order: deps.Order, events: deps.Events,
		giveUp: deps.Hints.GiveUp, memory: deps.FreeRAMLasts, now: deps.Now,
		peers: make(map[uint64]*peer), processes: make(map[uint64]uint64), changed: make(chan struct{}),
		freshness: freshness{base: time.Now(), counts: countsFor(deps.Order.Timeout)},
	}
}

// Ready reports whether enough other nodes were heard since the start. Before, the folders of this node may have gone
// back without its knowing: it sends nothing that it kept, and its copies take no part in repairs.
func (x *exchanges) Ready() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.isReady()
}

// isReady is Ready. mu must be held.
func (x *exchanges) isReady() bool {
	return x.ready.Load() && x.enough.Load() && !x.folders.goingBack()
}

// follow starts and ends exchanges as nodes come and go.
func (x *exchanges) follow(ctx context.Context) {
	for _, id := range x.followPeers(ctx) {
		x.events.Gone(id, 0)
	}
}

// followPeers returns the nodes that left the cluster. What they had under way may have reached some owners only.
func (x *exchanges) followPeers(ctx context.Context) (gone []uint64) {
	st := x.meta.State()
	me := x.meta.NodeID()
	x.mu.Lock()
	defer x.mu.Unlock()
	live := make(map[uint64]cluster.Node)
	if me != 0 {
		for _, n := range st.DataNodes {
			if n.ID != me {
				live[n.ID] = n
			}
		}
	}
	for id, p := range x.peers {
		n, ok := live[id]
		if !ok && me != 0 {
			gone = append(gone, id)
		}
		if !ok || n.TCPAddr != p.node.TCPAddr {
			p.cancel()
			delete(x.peers, id)
		}
	}
	for id, n := range live {
		if x.peers[id] != nil {
			continue
		}
		p := &peer{node: n, kick: make(chan struct{}, 1), since: time.Now()}
		var pctx context.Context
		pctx, p.cancel = context.WithCancel(ctx)
		x.peers[id] = p
		x.wg.Add(1)
		go func() { defer x.wg.Done(); x.talk(pctx, p) }()
	}
	x.updateFreshness()
	return gone
}

// talk exchanges with one node until ctx ends.
func (x *exchanges) talk(ctx context.Context, p *peer) {
	again, quick := false, 0
	for ctx.Err() == nil {
		// Once: a node that does not take a table does not get it without pause.
		if again = x.exchange(ctx, p) && !again; again {
			continue
		}
		pause := exchangeEvery
		x.mu.Lock()
		if !p.reached {
			quick = 0
		} else if quick++; quick <= quickExchanges {
			x.mu.Unlock()
			continue
		}
		if len(x.own.owed[p.node.ID]) > 0 {
			pause = owingEvery
		}
		x.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-p.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// updateFreshness works out from the exchanges what this node can know. mu must be held.
func (x *exchanges) updateFreshness() {
	all := x.freshness.settle(x.peers)
	if !all || x.meta.State().Data.ClusterID == 0 {
		return
	}
	x.freshness.hear(x.peers)
	if !x.ready.Load() {
		x.renewOwn()
		x.ready.Store(true)
		for _, p := range x.peers {
			notify(p.kick)
		}
	}
	if x.isReady() && !x.saidReady {
		x.saidReady = true
		x.wg.Go(x.events.Ready) // not under the lock
	}
}

// await waits for exchanges to end until ok reports true, or until ctx ends. It calls ok with mu held.
func (x *exchanges) await(ctx context.Context, ok func() bool) bool {
	for {
		x.mu.Lock()
		done, changed := ok(), x.changed
		x.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// ask exchanges with all nodes now.
func (x *exchanges) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout+200*time.Millisecond)
	defer cancel()
	x.mu.Lock()
	due := make(map[*peer]uint64, len(x.peers))
	for _, p := range x.peers {
		due[p] = p.begun + 1
		notify(p.kick)
	}
	x.mu.Unlock()
	if !x.await(ctx, func() bool {
		for p, n := range due {
			if p.ended < n && x.peers[p.node.ID] == p {
				return false
			}
		}
		return true
	}) {
		x.setUnsure("its node waits until the other data nodes have told what they keep for it, for some seconds")
	}
}

// TellOthers returns when the other nodes that can be reached know that a copy on a node lacks a write or a delete
// which this node keeps, or did not bring there, after a second at the latest. It is called before such a write is
// acknowledged, and costs nothing while they know.
func (x *exchanges) TellOthers(node, shard uint64) {
	x.mu.Lock()
	if x.own.owed[node].has(shard) && x.told() {
		x.mu.Unlock()
		return
	}
	x.refreshOwn()
	due := x.own.sequence
	attempt := make(map[*peer]uint64, len(x.peers))
	for _, p := range x.peers {
		if !p.away() || p.refused { // one that was down may be up again, and is asked at no cost
			attempt[p] = p.begun + 1
		}
		notify(p.kick)
	}
	x.mu.Unlock()
	x.stats.announced.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	x.await(ctx, func() bool {
		for p, n := range attempt {
			if p.told < due && (p.ended < n || p.reached) && x.peers[p.node.ID] == p {
				return false
			}
		}
		return true
	})
}

// told reports whether all nodes that can be reached have this node's table. mu must be held.
func (x *exchanges) told() bool {
	for _, p := range x.peers {
		if !p.away() && p.told < x.own.sequence {
			return false
		}
	}
	return true
}

// Lose notes that a write or delete for a copy on another node, or on this one, is lost: nobody keeps it. Shard 0 is
// for all shards of the node.
func (x *exchanges) Lose(node, shard uint64) {
	if node == x.meta.NodeID() {
		x.missed([]uint64{shard}, "it lacks writes or deletes that nobody keeps for it")
		return
	}
	x.mu.Lock()
	known := x.own.lost[node].has(shard)
	x.own.addLost(node, shard)
	if !known {
		x.refreshOwn()
	}
	x.mu.Unlock()
	if !known {
		x.saveLost()
	}
	x.TellOthers(node, shard)
}

// NoteLacking notes that the copies of a shard on other nodes lack what this node's copy has, and that nobody keeps it
// for them. When it returns nil, that is on disk, and the nodes that can be reached know it. The others hear of it when
// they are back.
func (x *exchanges) NoteLacking(nodes []uint64, shard uint64) error {
	if slices.Contains(nodes, x.meta.NodeID()) {
		return fmt.Errorf("node %d is this node: its copy of shard %d cannot lack what it has itself",
			x.meta.NodeID(), shard)
	}
	x.mu.Lock()
	for _, node := range nodes {
		x.own.addLost(node, shard)
	}
	x.refreshOwn()
	x.mu.Unlock()
	if err := x.saveLost(); err != nil {
		return err
	}
	for _, node := range nodes {
		x.TellOthers(node, shard)
	}
	return nil
}

// Differ notes that copies of these shards differ, because each owner has points of its own. So the copies here and on
// other nodes lack something for good. When Differ returns, the nodes that can be reached know it. Noted waits for the
// rest.
func (x *exchanges) Differ(shards []cluster.Shard, why string) {
	me := x.meta.NodeID()
	var mine []uint64
	var node, shard uint64
	x.mu.Lock()
	for _, sh := range shards {
		for _, owner := range sh.Owners {
			if owner == me {
				mine = append(mine, sh.ID)
				continue
			}
			x.own.addLost(owner, sh.ID)
			node, shard = owner, sh.ID
		}
	}
	x.refreshOwn()
	x.mu.Unlock()
	x.missed(mine, why)
	if node != 0 {
		x.saveLost()
		x.TellOthers(node, shard) // with all others: nodes tell each other whole tables
	}
}

// Noted returns when all nodes have stored what they lack of some shards, also those that were away, or when ctx ends.
// It reports whether they have.
func (x *exchanges) Noted(ctx context.Context, shards []uint64) bool {
	return x.await(ctx, func() bool {
		for _, lost := range x.own.lost {
			if slices.ContainsFunc(shards, lost.has) {
				return false
			}
		}
		return true
	})
}

// replaceAway gives up the writes that nodes which stay away keep for this node, and has its copies repaired instead.
func (x *exchanges) replaceAway() {
	me := x.meta.NodeID()
	mine := make(shardSet)
	var away uint64
	x.mu.Lock()
	for holder, t := range x.holders.tables {
		p := x.peers[holder]
		if holder == me || p == nil || !p.silent() || !x.holders.counts(holder, t) || len(t.owed[me]) == 0 {
			continue
		}
		for id := range t.owed[me] {
			mine[id] = struct{}{}
		}
		x.holders.voided[holder] = t.version
		away = holder
	}
	x.mu.Unlock()
	if len(mine) > 0 {
		x.missed(mine.sorted(), "data node "+x.addr(away)+", which keeps writes or deletes for it, is away")
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
