package datanode

import (
	"fmt"
	"os"
	"path/filepath"

	"concord/internal/order"
	"concord/internal/replication"
)

// openOrder opens what the writer knows of the order of writes.
func (n *Node) openOrder() error {
	dir := filepath.Join(n.cfg.Meta.Dir, "order")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the folder of the order of writes: %w", err)
	}
	clock, err := order.OpenClock(filepath.Join(dir, "clock"), n.now)
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
	return nil
}
