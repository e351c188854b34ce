package datanode

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/copystate"
	"concord/internal/deletes"
	"concord/internal/entropy/local"
	"concord/internal/entropy/retype"
	"concord/internal/replication"
)

func (n *Node) openSubscriber() error {
	n.sub = subscriber.NewService(n.cfg.Subscriber, n.certs.monitor)
	n.sub.MetaClient = n.Meta
	n.sub.WithLogger(n.log)
	if err := n.sub.Open(); err != nil {
		return fmt.Errorf("open the subscriber: %w", err)
	}
	n.onClose(n.sub.Close)
	return nil
}

// forgetEvery is the time between two looks at what the journal of writes may forget.
const forgetEvery = time.Second

// openWrites makes what writes and what deletes, and opens the queues of hinted handoff, which both fill and empty.
func (n *Node) openWrites() error {
	if err := n.newHandoff(); err != nil {
		return err
	}
	n.deleted = deletes.NewMemory(n.Meta)
	n.holds = &retype.Gate{Store: n.disk}
	deps := replication.Deps{
		Meta: n.Meta, Store: n.Store, Shards: n.holds, Subscriber: n.sub, NotSent: notSent(n.sub), Pool: n.pool,
		Order:        n.order,
		Deletes:      n.deleted,
		Copies:       writerCopies{n.copies, n.beginnings(), n.missed},
		WriteTimeout: time.Duration(n.cfg.Cluster.WriteTimeout),
		MaxNewGroups: n.cfg.Cluster.MaxNewGroups, ForgetEvery: forgetEvery, Log: n.log,
	}
	if n.handoff != nil {
		deps.Handoff, deps.MaxPending = n.handoff, n.cfg.HintedHandoff.MaxWritesPending
	}
	n.writer = replication.NewWriter(deps)
	if err := n.newDeletes(); err != nil {
		return err
	}
	return n.openHandoff()
}

// leaveCluster forgets what belongs to the cluster that this node left.
func (n *Node) leaveCluster() error {
	if !n.place.left.Swap(false) {
		return nil
	}
	if err := n.forgetCluster(); err != nil {
		return fmt.Errorf("this node left its cluster, but %w", err)
	}
	return nil
}

// startWrites takes writes and deletes from now on.
func (n *Node) startWrites() error {
	if err := n.deletes.Open(); err != nil {
		return fmt.Errorf("open the deletes: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var catchingUp sync.WaitGroup
	catchingUp.Go(func() { n.keepCatchingUp(ctx) })
	n.onClose(func() error {
		cancel()
		err := n.deletes.Close() // from now on no delete begins, be it one that was missed
		catchingUp.Wait()
		return err
	})
	n.writer.Open()
	n.onClose(n.writer.Close)
	n.queues.writer.Store(n.writer)
	return nil
}

// writerCopies is which copies lack something, as the writer sees it.
type writerCopies struct {
	copies     *copystate.Service
	beginnings local.Beginnings
	missed     func(node, shard uint64, kept bool)
}

// Begin notes that this node begins a shard with a write.
func (w writerCopies) Begin(shard uint64) error { return w.beginnings.Begin(shard) }

// Missed notes that a node's copy lacks a write.
func (w writerCopies) Missed(node, shard uint64, kept bool) { w.missed(node, shard, kept) }

// LastUnversioned is as package copystate has it.
func (w writerCopies) LastUnversioned(shard uint64) uint64 { return w.copies.LastUnversioned(shard) }

// Lacks notes that this node's copy lacks writes that other owners have.
func (w writerCopies) Lacks(shard uint64, why string) { w.copies.Missed(shard, why) }

// Lacking is not 0 while a copy of this node lacks something.
func (w writerCopies) Lacking() uint64 { return w.copies.Lacking() }

// Admit returns when this node may take writes of clients.
func (w writerCopies) Admit(ctx context.Context) { w.copies.Admit(ctx) }

// NotWhole reports whether this node's copy of a shard may lack acknowledged writes.
func (w writerCopies) NotWhole(ctx context.Context, shard uint64) bool {
	return len(w.copies.Unfit(ctx, shard)) > 0
}

// monitorWriter lets the monitor write _internal through the cluster.
type monitorWriter struct{ w *replication.Writer }

func (m monitorWriter) WritePoints(db, rp string, points models.Points) error {
	return m.w.WritePointsPrivileged(tsdb.WriteContext{UserId: tsdb.MonitorUser}, db, rp, models.ConsistencyLevelAny,
		points)
}

// notSent tells what subscriptions did not get: their queues were full, or their destinations failed.
func notSent(sub *subscriber.Service) func() int64 {
	return func() int64 {
		n, _ := sub.Statistics(nil)[0].Values["writeFailures"].(int64)
		return n
	}
}
