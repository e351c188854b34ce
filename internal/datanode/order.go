package datanode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"concord/internal/order"
	"concord/internal/replication"
)

// openOrder opens what the writer knows of the order of writes.
func (n *Node) openOrder() error {
	dir := filepath.Join(n.cfg.Meta.Dir, "order")
	_, err := os.Stat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the folder of the order of writes: %w", err)
	}
	clock, err := order.OpenClock(filepath.Join(dir, "clock"), n.now, n.log)
	if err != nil {
		return fmt.Errorf("open the clock of writes: %w", err)
	}
	n.onClose(clock.Close)
	journal, err := order.OpenJournal(order.JournalConfig{
		Dir: filepath.Join(dir, "journal"), Log: n.log, Begins: clock.Now(),
	})
	if err != nil {
		return fmt.Errorf("open the journal of writes: %w", err)
	}
	n.onClose(journal.Close)
	n.reporters.add(journal)
	n.writer.Order = &replication.Order{Clock: clock, Journal: journal}
	why := ""
	switch {
	case journal.Damaged():
		why = "the journal of writes of its node was damaged"
	case isNew && n.Meta.NodeID() != 0 && len(n.Store.ShardIDs()) > 0:
		why = "its node has no journal of writes"
		n.log.Warn("The journal of writes is gone: the copies of this node are compared before they are read",
			zap.String("dir", dir))
	}
	if why == "" {
		return nil
	}
	if err := n.copies.Doubt(why + ", and an older write may have undone a newer one"); err != nil {
		return fmt.Errorf("note that copies may lack writes: %w", err)
	}
	return nil
}
