package datanode

import (
	"fmt"
	"path/filepath"
	"slices"

	"concord/internal/entropy"
	"concord/internal/entropy/local"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/service"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/view"
	"concord/internal/shardcopy"
)

// beginnings is where it is noted how copies of this node begin.
func (n *Node) beginnings() local.Beginnings {
	return local.Beginnings{Memory: n.memory, Copies: n.copies}
}

// openEntropy starts the anti-entropy service and answers other nodes. The view is the whole cluster's anti-entropy,
// which also answers when the service is off.
func (n *Node) openEntropy() error {
	rate := pace.NewLimit(0)
	if n.cfg.AntiEntropy.Enabled {
		rate.Set(uint64(n.cfg.AntiEntropy.MaxRate))
	}
	disk := local.Disk{Dir: n.Store.Path(), Free: n.seams.Free}
	shards := &shardcopy.Server{
		Store: n.drops, Pool: n.pool, Begun: n.beginnings().Copied, Missed: n.copies.Missed,
		OthersLack: n.copies.NoteLacking, NotWhole: n.notWhole,
		Owns:    func(shard uint64) bool { return slices.Contains(n.Meta.OwnersOf(shard), n.Meta.NodeID()) },
		Deletes: n.deleted.DeletesSeen, DeleteUnderWay: n.deleted.DeleteUnderWay, Hold: n.deleted.HoldDeletes,
		HoldWrites: n.cache.Hold, Wait: rate.Wait, CheckDisk: disk.Check,
		Dir: filepath.Join(n.cfg.entropyDir(), "incoming"), Log: n.log,
	}
	n.onClose(shards.Close)
	if err := shards.Discard(func(id uint64) bool { _, ok := n.Meta.Shard(id); return ok }); err != nil {
		return fmt.Errorf("remove files of shards that are gone: %w", err)
	}
	swept, stop := make(chan struct{}), make(chan struct{})
	go func() { defer close(swept); n.sweep(shards, stop) }()
	n.onClose(func() error { close(stop); <-swept; return nil })

	copies := n.localCopies(shards, disk, rate)
	peers := transport.New(n.pool)
	var own entropy.Control
	if n.cfg.AntiEntropy.Enabled {
		if err := n.startEntropy(copies, peers); err != nil {
			return fmt.Errorf("open anti-entropy: %w", err)
		}
		own = n.Entropy
	}
	n.view = &view.View{State: n.Meta.State, Transport: peers, Self: own, NodeID: n.Meta.NodeID, Now: n.leaderTime}
	n.overview = n.newOverview(shards, copies)
	n.serveNodes(copies, own, shards)
	return nil
}

// localCopies are this node's copies of shards.
func (n *Node) localCopies(shards *shardcopy.Server, disk local.Disk, rate *pace.Limit) *local.Local {
	repairs := n.writer.Repairs()
	deps := local.Deps{
		Store: n.drops, Key: n.Meta.ClusterID, Beginnings: n.beginnings(), Shards: repairs, Order: repairs,
		Deletes: n.deleted, Files: shards.FillFrom, HoldWrites: n.holds.Hold, Disk: disk,
		Pace: pace.New(n.requests()), Limit: rate, Log: n.log,
	}
	if n.handoff != nil {
		deps.Hints = n.handoff.Nodes
	}
	return local.New(deps)
}

// startEntropy starts the anti-entropy service.
func (n *Node) startEntropy(copies *local.Local, tr entropy.Transport) error {
	s, err := service.New(n.cfg.AntiEntropy, service.Deps{
		Dir: n.cfg.entropyDir(), Meta: n.Meta, Local: copies, Transport: tr, Limit: copies.Limit, Pace: copies.Pace,
		Leader: n.leaderTime, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.Entropy = s
	n.suspects.Store(s)
	s.Open()
	n.onClose(s.Close)
	n.reporters.add(s)
	return nil
}
