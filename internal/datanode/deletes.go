package datanode

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"concord/internal/deletes"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/replication"
)

// rememberDeletes is for how long a node knows which deletes it ran: a node that was away as long may send one again.
// Their versions are needed for as long as writes may wait in hinted handoff.
func rememberDeletes(maxAge time.Duration) deletes.Keep {
	const day = 24 * time.Hour
	return deletes.Keep{IDs: max(2*maxAge, 365*day), Versions: max(2*maxAge, day)}
}

// openRanLog opens the log of the deletes that ran here. Without hinted handoff there is none.
func (n *Node) openRanLog() (err error) {
	n.ran = nil
	if !n.cfg.HintedHandoff.Enabled {
		return nil
	}
	path := filepath.Join(n.cfg.Meta.Dir, "deletes.db")
	n.ran, err = deletes.OpenRanLog(path, rememberDeletes(time.Duration(n.cfg.HintedHandoff.MaxAge)), n.copies.Mark)
	if err != nil {
		return fmt.Errorf("open the log of deletes: %w", err)
	}
	n.onClose(n.ran.Close)
	return nil
}

// newDeletes makes what runs deletes, and loads those that ran before. Hinted handoff is not open yet, if there is any:
// its queues hold deletes, and writes that an earlier delete may remove.
func (n *Node) newDeletes() error {
	deps := deletes.Deps{
		Meta: n.Meta, Store: n.drops, Pool: n.pool, Memory: n.deleted, Writes: n.writer,
		Clock: n.order.Clock, Journal: n.order.Journal, Timeout: n.writer.WriteTimeout,
		Missed:   func(node, shard uint64) { n.missed(node, shard, true) },
		Lost:     func(node uint64) { n.lost(node, handoff.WholeDatabase) },
		MadeAnew: func(shard uint64) order.Version { return order.Version(n.copies.MadeAnew(shard)) },
		Lacks:    n.copies.Missed, Failed: n.disk.StallAll, Ready: n.disk.Ready, Log: n.log,
	}
	if n.handoff != nil {
		deps.Handoff, deps.Ran = n.handoff, n.ran
	}
	n.deletes = deletes.New(deps)
	return n.deletes.Load()
}

// catchUpEvery is the time between two looks for copies that may hold deleted points.
const catchUpEvery = time.Second

// keepCatchingUp runs deletes that this node lost, when its disk turns out to be older than it was, until ctx ends.
func (n *Node) keepCatchingUp(ctx context.Context) {
	tick := time.NewTicker(catchUpEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stale, since := n.copies.Stale()
		if len(stale) == 0 {
			continue
		}
		var err error
		if since != 0 {
			err = n.deletes.CatchUp(ctx, order.Version(since))
		}
		all := false
		if err == nil {
			all, err = n.deletes.RunMissed(ctx)
		}
		if err == nil {
			err = n.copies.CaughtUp(stale, all)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			n.log.Info("All deletes have run here that other nodes remember", zap.Int("shards", len(stale)))
		case !failing:
			n.log.Warn("Cannot run all deletes that this node missed, and goes on trying", zap.Error(err))
		}
		failing = err != nil
	}
}

// replicationServer takes what other nodes write, and what nodes of the version before delete.
type replicationServer struct {
	*replication.Server
	deletes.OldServer
}
