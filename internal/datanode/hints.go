package datanode

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"concord/internal/handoff"
)

// newHandoff makes hinted handoff. Its queues are opened when there is who empties them.
func (n *Node) newHandoff() error {
	if err := n.checkKept(); err != nil {
		return err
	}
	if !n.cfg.HintedHandoff.Enabled {
		return nil
	}
	n.handoff = handoff.New(n.cfg.HintedHandoff, handoff.Deps{
		Due: n.due,
		Now: n.timeBounds,
		Database: func(shard uint64) string {
			sh, _ := n.Meta.State().Shard(shard)
			return sh.Database
		},
		Dropped: n.lost,
		Log:     n.log,
	})
	return nil
}

// lost is told of what a node's copy of a shard lacks and nobody keeps for it.
func (n *Node) lost(node, shard uint64) {
	n.copies.Lose(node, shard)
	if e := n.suspects.Load(); e != nil {
		e.Suspect(shard)
	}
}

// openHandoff opens the queues, and sends what they hold.
func (n *Node) openHandoff() error {
	if n.handoff == nil {
		return nil
	}
	if err := n.handoff.Open(n.deletes.Deliver); err != nil {
		return fmt.Errorf("open hinted handoff: %w", err)
	}
	n.onClose(n.handoff.Close)
	n.queues.handoff.Store(n.handoff)
	return nil
}

// due tells whether a node still is to get what hinted handoff has of a shard. Nothing is known before
// the first metadata: a node whose copy of it is damaged begins with none.
func (n *Node) due(node, shard uint64) (due, known bool) {
	st := n.Meta.State()
	if st.Data.ClusterID == 0 || !n.copies.Ready() { // it may turn out that the queues are older than they were
		return false, false
	}
	if _, ok := st.DataNode(node); !ok {
		return false, true
	}
	sh, ok := st.Shard(shard)
	return shard == handoff.WholeDatabase || ok && slices.Contains(sh.Owners, node), true
}

// checkKept refuses to start over queues that nobody would send now. Kept until somebody does, they would put old
// writes over newer ones, and their deletes would take later points along; given up, the writes and deletes in
// them would be lost. Only an operator knows which it is to be.
func (n *Node) checkKept() error {
	cfg := n.cfg.HintedHandoff
	var why string
	switch {
	case !cfg.Enabled:
		why = "[hinted-handoff] enabled is false"
	case n.Meta.NodeID() == 0 && !n.place.left.Load():
		why = "this node is in no cluster"
	default:
		return nil
	}
	if cfg.Dir == "" {
		return nil
	}
	kept, err := handoff.Kept(cfg.Dir)
	if errors.Is(err, fs.ErrPermission) && !cfg.Enabled {
		return nil // no folder of this node's
	} else if err != nil {
		return fmt.Errorf("[hinted-handoff] dir: %w", err)
	}
	if len(kept) == 0 {
		return nil
	}
	return fmt.Errorf("%s, and %s still holds what other nodes miss (queues: %d): start with it enabled and in its "+
		"cluster until they have it, or move the folder away to give it up",
		why, cfg.Dir, len(kept))
}
