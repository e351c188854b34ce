package datanode

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
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

// ranLogFile is where the log of the deletes that ran here is.
func (n *Node) ranLogFile() string { return filepath.Join(n.cfg.Meta.Dir, "deletes.db") }

// openRanLog opens the log of the deletes that ran here. Without hinted handoff there is none.
func (n *Node) openRanLog() (err error) {
	n.ran = nil
	if !n.cfg.HintedHandoff.Enabled {
		return nil
	}
	keep := rememberDeletes(time.Duration(n.cfg.HintedHandoff.MaxAge))
	n.ran, err = deletes.OpenRanLog(n.ranLogFile(), keep, n.copies.Mark)
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
		Missed: func(node, shard uint64) { n.missed(node, shard, true) },
		Lost:   func(node uint64) { n.lost(node, handoff.WholeDatabase) },
		Mark:   n.copies.DiskMark, HearMark: n.copies.Hear,
		LastUnversioned: func(shard uint64) order.Version { return order.Version(n.copies.LastUnversioned(shard)) },
		Lacks:           n.copies.Missed, Failed: n.disk.StallAll, Ready: n.disk.Ready, Log: n.log,
	}
	if n.handoff != nil {
		deps.Handoff, deps.Ran = n.handoff, n.ran
	}
	n.deletes = deletes.New(deps)
	return n.deletes.Load()
}

const (
	catchUpEvery = time.Second     // between two looks for copies that may hold deleted points
	catchUpAgain = 5 * time.Second // the same, when not all deletes could run that they missed
)

// keepCatchingUp runs deletes that this node lost, because its disk is older than it was or nobody keeps them for it
// any more, until ctx ends.
func (n *Node) keepCatchingUp(ctx context.Context) {
	failing := false
	for {
		pause := catchUpEvery
		if failing {
			pause = catchUpAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		caughtUp, err := n.runLostDeletes(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			n.log.Warn("Cannot run all deletes that this node missed, and goes on trying", zap.Error(err))
		case caughtUp > 0:
			n.log.Info("All deletes have run here that other nodes remember", zap.Int("shards", caughtUp))
		}
		failing = err != nil
	}
}

// runLostDeletes runs the deletes that this node lost, and returns on how many copies they have run.
func (n *Node) runLostDeletes(ctx context.Context) (copies int, _ error) {
	rolledBack, others, since := n.copies.Stale()
	var errs []error
	if len(rolledBack) > 0 {
		var err error
		if since != 0 {
			err = n.deletes.CatchUp(ctx, order.Version(since))
		}
		if err == nil { // all must answer: nobody keeps anything for a node that had it once
			_, err = n.deletes.RunMissed(ctx, func(cluster.Node) bool { return false })
		}
		if err == nil {
			err = n.copies.CaughtUp(rolledBack, true)
		}
		if err == nil {
			copies = len(rolledBack)
		}
		errs = append(errs, err)
	}
	if len(others) > 0 {
		away := n.copies.Away()
		all, err := n.deletes.RunMissed(ctx, func(node cluster.Node) bool { return away[node.TCPAddr] > 0 })
		if err == nil {
			err = n.copies.CaughtUp(others, all)
		}
		switch {
		case err == nil && all:
			copies += len(others)
		case err == nil:
			n.log.Warn("Deletes that other nodes remember may not run here, as it is not known which points are newer: "+
				"the copies are compared, and made anew where they differ", zap.Int("shards", len(others)))
		}
		errs = append(errs, err)
	}
	return copies, errors.Join(errs...)
}

// replicationServer takes what other nodes write, and what nodes of the version before delete.
type replicationServer struct {
	*replication.Server
	deletes.OldServer
}
