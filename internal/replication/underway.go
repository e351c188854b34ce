package replication

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// longestDelete is after which time a delete ended whose sender does not say so.
const longestDelete = 2 * deleteTimeout

// deleteCounts counts the deletes of each database.
type deleteCounts struct {
	mu   sync.RWMutex // held for reading by who writes points that a delete must not miss
	base uint64       // random for each process
	m    map[string]uint64
	// began are the deletes that were announced and have not ended: some nodes may have run
	// them, and others not yet. By database and ID.
	began map[string]map[string]announced
	ended map[string]time.Time // by ID: an announcement may come after the end
}

// announced is who announced a delete, and when.
type announced struct {
	at      time.Time
	node    uint64
	started uint64 // when the node's process did, in nanoseconds by its clock
}

func (c *deleteCounts) begin(db, id string, a announced) {
	c.next(db)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, late := c.ended[id]; late {
		return
	}
	if c.began == nil {
		c.began = make(map[string]map[string]announced)
	}
	if c.began[db] == nil {
		c.began[db] = make(map[string]announced)
	}
	for id, b := range c.began[db] {
		if a.at.Sub(b.at) > longestDelete {
			delete(c.began[db], id)
		}
	}
	c.began[db][id] = a
}

// end counts, too: what was read before may be deleted.
func (c *deleteCounts) end(db, id string, now time.Time) {
	c.next(db)
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.began[db], id); len(c.began[db]) == 0 {
		delete(c.began, db)
	}
	if c.ended == nil {
		c.ended = make(map[string]time.Time)
	}
	for id, at := range c.ended {
		if now.Sub(at) > longestDelete {
			delete(c.ended, id)
		}
	}
	c.ended[id] = now
}

// endBefore ends the deletes that a node announced before it started anew.
func (c *deleteCounts) endBefore(node, started uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for db, began := range c.began {
		for id, a := range began {
			if a.node == node && a.started < started {
				delete(began, id)
				c.m[db]++
			}
		}
		if len(began) == 0 {
			delete(c.began, db)
		}
	}
}

// underWay is called with mu held.
func (c *deleteCounts) underWay(db string, now time.Time) bool {
	for _, a := range c.began[db] {
		if now.Sub(a.at) <= longestDelete {
			return true
		}
	}
	return false
}

func (c *deleteCounts) next(db string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[string]uint64)
	}
	c.m[db]++
}

func (c *deleteCounts) count(db string) uint64 { return c.base + c.m[db] }

// seen is another number each time while a delete is under way.
func (c *deleteCounts) seen(db string) uint64 {
	c.mu.RLock()
	n, under := c.count(db), c.underWay(db, time.Now())
	c.mu.RUnlock()
	if under {
		c.next(db)
	}
	return n
}

// tellPause is between two attempts to tell a node that deletes have ended.
const tellPause = time.Second

// tell sends an announcement to a node.
func (w *Writer) tell(ctx context.Context, n cluster.Node, r *rpc.ExecuteRequest) error {
	conn, err := w.pool.Conn(n.TCPAddr)
	if err != nil {
		return err
	}
	resp, err := rpc.NewReplicationClient(conn).Execute(ctx, r)
	if err == nil && resp.Error != "" {
		err = errors.New(resp.Error)
	}
	return err
}

// tellLater sends an announcement to a node until it has it, or need not know any more.
func (w *Writer) tellLater(n cluster.Node, r *rpc.ExecuteRequest) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.opened {
		return
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		w.tellAll(func() ([]cluster.Node, *rpc.ExecuteRequest) { return []cluster.Node{n}, r })
	}()
}

// tellRestart tells the other nodes that what this node announced before it started has ended.
func (w *Writer) tellRestart() {
	defer w.wg.Done()
	w.tellAll(func() ([]cluster.Node, *rpc.ExecuteRequest) {
		self := w.meta.NodeID()
		if self == 0 {
			return nil, nil
		}
		others := slices.DeleteFunc(slices.Clone(w.meta.DataNodes()), func(n cluster.Node) bool { return n.ID == self })
		return others, &rpc.ExecuteRequest{
			Kind: rpc.ExecuteRequest_DELETE_SERIES, AnnounceOnly: true, Ended: true, SenderNode: self, Started: w.started,
		}
	})
}

// tellAll sends the nodes that what returns at each attempt an announcement, until all have it; no message says to ask again.
func (w *Writer) tellAll(what func() ([]cluster.Node, *rpc.ExecuteRequest)) {
	ctx, cancel := context.WithTimeout(w.open, longestDelete)
	defer cancel()
	told := make(map[uint64]bool)
	for {
		nodes, r := what()
		waiting := r == nil
		for _, n := range nodes {
			if told[n.ID] {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, w.WriteTimeout)
			told[n.ID] = w.tell(attempt, n, r) == nil
			cancel()
			waiting = waiting || !told[n.ID]
		}
		if !waiting {
			return
		}
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
			return
		}
	}
}
