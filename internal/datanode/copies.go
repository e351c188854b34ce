package datanode

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/distquery"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/replication"
	"concord/internal/rpc"
)

// queues are where this node keeps what others miss, as far as they are open. Other nodes are told of it before.
type queues struct {
	handoff atomic.Pointer[handoff.Service]
	writer  atomic.Pointer[replication.Writer]
}

// close forgets the queues when they are closed.
func (q *queues) close() {
	q.handoff.Store(nil)
	q.writer.Store(nil)
}

// sender names this process as a sender of writes, 0 before it can send any.
func (q *queues) sender() uint64 {
	if w := q.writer.Load(); w != nil {
		return w.Sender()
	}
	return 0
}

// senderGone tells the writer that all processes of a node are gone but this one.
func (q *queues) senderGone(node, process uint64) {
	if w := q.writer.Load(); w != nil {
		w.SenderGone(node, process)
	}
}

// says is what another node is told of the order of writes, and told takes over what another node says of it.
func (q *queues) says(to uint64) (clock, floor, underWay uint64) {
	if w := q.writer.Load(); w != nil {
		return w.Says(to)
	}
	return 0, 0, 0
}

// now is the version of now, 0 before this node can write any.
func (q *queues) now() uint64 {
	if w := q.writer.Load(); w != nil {
		return uint64(w.Order.Clock.Now())
	}
	return 0
}

func (q *queues) told(s copystate.Said) {
	if w := q.writer.Load(); w != nil {
		w.Told(replication.Said(s))
	}
}

// openCopies opens the knowledge of which copies are whole, and begins to exchange it with other nodes.
func (n *Node) openCopies() (err error) {
	n.copies, err = copystate.Open(copystate.Deps{
		Path: filepath.Join(n.cfg.Meta.Dir, "copies.db"), DataDir: n.cfg.Data.Dir, Meta: n.Meta,
		Peer: func(node cluster.Node) (rpc.CopyStateClient, error) {
			conn, err := n.pool.Conn(node.TCPAddr)
			if err != nil {
				return nil, err
			}
			return rpc.NewCopyStateClient(conn), nil
		},
		Wake:   func(node cluster.Node) { n.pool.Wake(node.TCPAddr) },
		Engine: copystate.Engine{Written: n.stopped, Has: n.memory.Has, Damaged: n.memory.Damage},
		Hints:  copystate.Hints{Owed: n.owed, GiveUp: n.giveUpQueues},
		Place:  copystate.Place{Process: n.queues.sender, Identity: n.Meta.Identity, Check: n.CheckPlace},
		Order: copystate.Order{
			Says: n.queues.says, Told: n.queues.told, Timeout: time.Duration(n.cfg.Cluster.WriteTimeout),
			Began: uint64(order.Reached(n.clockFile())), Now: n.queues.now,
		},
		Events: copystate.Events{
			Heard: n.heardNode, Gone: n.queues.senderGone, Found: n.foundLacking, Ready: n.copiesAnswer,
			Clock: n.compareClock,
		},
		FreeRAMLasts: memoryLasts, Log: n.log, Now: n.now,
	})
	if err != nil {
		return fmt.Errorf("open what is known of copies: %w", err)
	}
	n.closeCopies = sync.OnceValue(n.copies.Close)
	n.onClose(n.closeCopies)
	return nil
}

// heardNode is told each time that another node answers after a silence.
func (n *Node) heardNode(node uint64) {
	if h := n.queues.handoff.Load(); h != nil {
		h.Back(node)
	}
	if e := n.suspects.Load(); e != nil {
		e.Back(node)
	}
}

// foundLacking is told of each copy here that was found to lack something.
func (n *Node) foundLacking(shard uint64) {
	if e := n.suspects.Load(); e != nil {
		e.Lacks(shard)
	}
}

// copiesAnswer is called when the node serves, and when its copies take part in repairs. At the later of the two, what
// they lack is told: whoever looked at them before got no answer.
func (n *Node) copiesAnswer() {
	e := n.suspects.Load()
	if e == nil || n.place.refusal.Load() != nil || !n.copies.Ready() {
		return
	}
	if n.copies.Lacking() != 0 {
		e.Lacks(0)
	} else {
		e.CheckSoon()
	}
}

// Unfit says why this node's copy of a shard is not whole; it is empty when it is.
func (n *Node) Unfit(ctx context.Context, shard uint64) string {
	if n.place.refusal.Load() != nil {
		return "the node does not serve yet"
	}
	return n.copies.Unfit(ctx, shard)[shard].Reason
}

// Marked is this node's mark, and Heard reports whether it has heard of such a mark of another node, as package
// copystate has them.
func (n *Node) Marked() uint64 { return n.copies.Marked() }

// Heard reports whether this node has heard of a mark of another one.
func (n *Node) Heard(node, mark uint64) bool { return n.copies.HeardMark(node) >= mark }

// DeletesRemembered is how many deletes this node compares with what arrives.
func (n *Node) DeletesRemembered() int { return n.deleted.Remembered() }

// unfitToRead says which copies of this node a query does not read as if they were whole. A shard that is not here, and
// that other nodes own, was given away: who asks for it has older metadata.
func (n *Node) unfitToRead(ctx context.Context, ids ...uint64) map[uint64]copystate.Unfit {
	unfit := n.copies.Unfit(ctx, ids...)
	for _, id := range ids {
		if _, bad := unfit[id]; bad || n.Store.Shard(id) != nil {
			continue
		}
		if sh, ok := n.Meta.State().Shard(id); ok && !sh.Owned(n.Meta.NodeID()) {
			if unfit == nil {
				unfit = make(map[uint64]copystate.Unfit)
			}
			unfit[id] = copystate.Unfit{Reason: "its node does not own it any more"}
		}
	}
	return unfit
}

// whole says which copies queries may read.
func (n *Node) whole() distquery.Whole {
	await := func(ctx context.Context, node uint64, shards []uint64) []uint64 {
		// A node that could not be told of a write lately does not know itself that its copy lacks it.
		return append(n.writer.AwaitWrites(ctx, node, shards), n.copies.Owes(node, shards)...)
	}
	return distquery.Whole{Unfit: n.unfitToRead, AwaitWrites: await, Heard: n.copies.Heard}
}

// missed is told of each write and delete that a copy misses, before it is acknowledged.
func (n *Node) missed(node, shard uint64, kept bool) {
	if kept {
		n.handoff.Owe(node, shard)
		n.copies.TellOthers(node, shard)
	} else {
		n.copies.Lose(node, shard)
	}
}

// owed lists the shards, by node, for whose copies this node keeps writes or deletes, or has some under way for long.
func (n *Node) owed() map[uint64][]uint64 {
	var out map[uint64][]uint64
	if h := n.queues.handoff.Load(); h != nil {
		out = h.Owed()
	} else if n.cfg.HintedHandoff.Enabled {
		kept, _ := handoff.Kept(n.cfg.HintedHandoff.Dir) // an error is met when it is opened
		out = make(map[uint64][]uint64)
		for _, k := range kept {
			out[k.Node] = append(out[k.Node], k.Shard)
		}
	}
	if w := n.queues.writer.Load(); w != nil {
		for node, shards := range w.Slow() {
			if out == nil {
				out = make(map[uint64][]uint64)
			}
			out[node] = append(out[node], shards...)
		}
	}
	return out
}

// giveUpQueues sets aside what this node keeps for others.
func (n *Node) giveUpQueues() error {
	if !n.cfg.HintedHandoff.Enabled {
		return nil
	}
	if h := n.queues.handoff.Load(); h != nil {
		return h.SetAside()
	}
	return copystate.ErrNotOpen
}
