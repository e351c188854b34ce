package datanode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"concord/internal/deletes"
	"concord/internal/order"
	"concord/internal/replication"
	"concord/internal/rpc"
)

// clockFile is where the clock of writes and deletes stores how far it may have come.
func (n *Node) clockFile() string { return filepath.Join(n.cfg.Meta.Dir, "order", "clock") }

// openOrder opens what the node knows of the order of writes and deletes.
func (n *Node) openOrder() error {
	dir := filepath.Join(n.cfg.Meta.Dir, "order")
	_, err := os.Stat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the folder of the order of writes: %w", err)
	}
	boot, wentDown, err := readBoot(dir, bootID)
	if err != nil {
		return err
	}
	n.onClose(boot.end)
	clock, err := order.OpenClock(n.clockFile(), n.now, n.log)
	if err != nil {
		return fmt.Errorf("open the clock of writes: %w", err)
	}
	n.onClose(clock.Close)
	journal, err := order.OpenJournal(order.JournalConfig{Dir: filepath.Join(dir, "journal"), Log: n.log})
	if err != nil {
		return fmt.Errorf("open the journal of writes: %w", err)
	}
	n.onClose(journal.Close)
	n.reporters.add(journal)
	if err := n.openRanLog(); err != nil {
		return err
	}
	if err := beginOrder(clock, journal, n.ran); err != nil {
		return err
	}
	switch {
	case isNew, journal.Damaged():
		err = journal.Lost(clock.Now())
	case wentDown:
		// The power may have taken what was written in the last seconds. A write that hinted handoff kept in these
		// could undo a newer one.
		err = journal.Lost(clock.Opened())
	}
	if err != nil {
		return err
	}
	if err := boot.begin(); err != nil {
		return err
	}
	n.onClose(n.closeCopies) // before the clock: until then others tell this node of their clocks
	n.order = &replication.Order{Clock: clock, Journal: journal}
	return n.noteJournalLoss(journal.Damaged(), isNew)
}

// beginOrder moves the clock past all that this node wrote or removed before it started. After a crash the clock may
// begin below versions that other nodes gave. Ran is nil when this node keeps no log of deletes.
func beginOrder(clock *order.Clock, journal *order.Journal, ran *deletes.RanLog) error {
	clock.Heard(journal.Loaded())
	if ran != nil {
		if err := ran.Each(func(r *rpc.Delete) { clock.Heard(order.Version(r.Version)) }); err != nil {
			return fmt.Errorf("read the deletes that ran here: %w", err)
		}
	}
	return journal.SetBegins(clock.Now())
}

// noteJournalLoss notes that the copies of this node may have older values if its journal of writes is damaged or gone.
func (n *Node) noteJournalLoss(damaged, isNew bool) error {
	why := ""
	switch {
	case damaged:
		why = "the journal of writes of its node was damaged"
	case isNew && n.Meta.NodeID() != 0 && len(n.Store.ShardIDs()) > 0:
		why = "its node has no journal of writes"
		n.log.Warn("The journal of writes is gone: the copies of this node are compared before they are read",
			zap.String("dir", filepath.Join(n.cfg.Meta.Dir, "order")))
	default:
		return nil
	}
	if err := n.copies.MissedAll(why + ", and an older write may have undone a newer one"); err != nil {
		return fmt.Errorf("note that copies may lack writes: %w", err)
	}
	return nil
}
