package datanode

import (
	"fmt"
	"path/filepath"
	"time"

	"concord/internal/deletes"
	"concord/internal/handoff"
	"concord/internal/replication"
)

// rememberDeletes is for how long a node knows which deletes it ran: a holder that was away as long may send one
// again.
const rememberDeletes = 365 * 24 * time.Hour

// openRanLog opens the log of the deletes that ran here. Without hinted handoff there is none.
func (n *Node) openRanLog() (err error) {
	n.ran = nil
	if !n.cfg.HintedHandoff.Enabled {
		return nil
	}
	path := filepath.Join(n.cfg.Meta.Dir, "deletes.db")
	n.ran, err = deletes.OpenRanLog(path, max(2*time.Duration(n.cfg.HintedHandoff.MaxAge), rememberDeletes))
	if err != nil {
		return fmt.Errorf("open the log of deletes: %w", err)
	}
	n.onClose(n.ran.Close)
	n.ran.Recorded = n.copies.Mark
	return nil
}

// newDeletes makes what runs deletes. Hinted handoff is not open yet, if there is any: its queues hold deletes.
func (n *Node) newDeletes() {
	deps := deletes.Deps{
		Meta: n.Meta, Store: n.Store, Pool: n.pool, Memory: n.deleted, Writes: n.writer,
		Clock: n.writer.Order.Clock, Journal: n.writer.Order.Journal, Timeout: n.writer.WriteTimeout,
		Missed: func(node uint64) { n.missed(node, handoff.WholeDatabase, true) }, Failed: n.disk.StallAll, Log: n.log,
	}
	if n.handoff != nil {
		deps.Handoff, deps.Ran = n.handoff, n.ran
	}
	n.deletes = deletes.New(deps)
}

// replicationServer takes what other nodes write, and what nodes of the version before delete.
type replicationServer struct {
	*replication.Server
	deletes.OldServer
}
