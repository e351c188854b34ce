package datanode

import (
	"fmt"
	"path/filepath"
	"time"

	"concord/internal/deletes"
	"concord/internal/replication"
)

// rememberDeletes is for how long a node knows which deletes it ran: a holder that was away as long may send one
// again.
const rememberDeletes = 365 * 24 * time.Hour

// newDeletes makes what runs deletes. Hinted handoff is not open yet, if there is any: its queues hold deletes.
func (n *Node) newDeletes() error {
	deps := deletes.Deps{
		Meta: n.Meta, Store: n.Store, Pool: n.pool, Memory: n.deleted, Writes: n.writer,
		Clock: n.writer.Order.Clock, Journal: n.writer.Order.Journal, Timeout: n.writer.WriteTimeout,
		Missed: func(node, shard uint64) { n.missed(node, shard, true) }, Failed: n.disk.StallAll, Log: n.log,
	}
	if n.handoff != nil {
		path := filepath.Join(n.cfg.Meta.Dir, "deletes.db")
		ran, err := deletes.OpenRanLog(path, max(2*time.Duration(n.cfg.HintedHandoff.MaxAge), rememberDeletes))
		if err != nil {
			return fmt.Errorf("open the log of deletes: %w", err)
		}
		n.onClose(ran.Close)
		ran.Recorded = n.copies.Mark
		deps.Handoff, deps.Ran = n.handoff, ran
	}
	n.deletes = deletes.New(deps)
	return nil
}

// replicationServer takes what other nodes write, and what nodes of the version before delete.
type replicationServer struct {
	*replication.Server
	deletes.OldServer
}
