package deletes

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"concord/internal/order"
)

// longestDelete is after which time a delete counts as ended, although nobody has said so.
const longestDelete = 2 * deleteTimeout

// deleteCounts counts the deletes of each database.
type deleteCounts struct {
	mu   sync.RWMutex // never held for long: each write of a client asks
	base uint64       // random for each process
	m    map[string]uint64
	// held is how many repairs write points of each database that a delete must not miss. A delete that wants to begin
	// waits for them, and lets no more of them begin.
	held     map[string]int
	released sync.Cond // of mu; when one of held has ended
	// began are the deletes that were announced and have not ended: some nodes may have run
	// them, and others not yet. By database and ID.
	began map[string]map[string]announcer
	ended map[string]time.Time // by ID: an announcement may come after the end
}

// start is that of a process of a node.
type start struct {
	at      uint64 // nanoseconds by the clock of its machine, which may have been set back since
	process uint64 // names the process; 0 for an earlier build
}

// announcer is who announced a delete, and when.
type announcer struct {
	at      time.Time
	node    uint64
	started start // the node's process

	above order.Version // for a delete that this node may have to keep for others: its version is greater
	runs  bool          // the delete runs here, or waits for its turn: it ends by itself
}

// expired reports whether a delete counts as ended, although nobody has said so.
func (a announcer) expired(now time.Time) bool { return !a.runs && now.Sub(a.at) > longestDelete }

func newDeleteCounts(base uint64) *deleteCounts {
	c := &deleteCounts{
		base: base, m: make(map[string]uint64), held: make(map[string]int),
		began: make(map[string]map[string]announcer), ended: make(map[string]time.Time),
	}
	c.released.L = &c.mu
	return c
}

// begin notes that a delete is under way, and waits for repairs that hold it back. It reports false for one that has
// ended: its announcement came late.
func (c *deleteCounts) begin(db, id string, a announcer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[db]++
	for {
		if _, late := c.ended[id]; late {
			return false
		}
		if c.began[db] == nil {
			c.began[db] = make(map[string]announcer)
		}
		c.began[db][id] = a
		if c.held[db] == 0 {
			return true
		}
		c.released.Wait()
		a.at = time.Now()
	}
}

// hold keeps deletes of a database from beginning until release is called, unless one is under way, or the count is not
// what seen returned.
func (c *deleteCounts) hold(db string, seen uint64) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count(db) != seen || c.underWay(db, time.Now()) {
		return nil, false
	}
	c.held[db]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held[db]--; c.held[db] == 0 {
			delete(c.held, db)
			c.released.Broadcast()
		}
	}, true
}

// giveUp ends the deletes that have taken longer than a delete may take. It reports whether another node announced one
// of them.
func (c *deleteCounts) giveUp(now time.Time) (announced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for db, began := range c.began {
		for id, a := range began {
			if a.expired(now) {
				delete(began, id)
				announced = announced || a.node != 0
			}
		}
		if len(began) == 0 {
			delete(c.began, db)
		}
	}
	return announced
}

// oldest returns when the oldest delete began that is under way.
func (c *deleteCounts) oldest(now time.Time) (at time.Time, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, began := range c.began {
		for _, a := range began {
			if !a.expired(now) && (!ok || a.at.Before(at)) {
				at, ok = a.at, true
			}
		}
	}
	return at, ok
}

// above returns a version that is below those of the deletes under way which this node may have to keep for others. It
// is the greatest of all when there are none.
func (c *deleteCounts) above() order.Version {
	c.mu.RLock()
	defer c.mu.RUnlock()
	above := order.Version(^uint64(0))
	for _, began := range c.began {
		for _, a := range began {
			if a.above != 0 {
				above = min(above, a.above)
			}
		}
	}
	return above
}

// runsKey is that of a delete which runs here, beside the one of its announcement.
func runsKey(id string) string { return "run " + id }

// hasEnded reports whether a delete has ended lately, for all nodes.
func (c *deleteCounts) hasEnded(id string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ended := c.ended[id]
	return ended
}

// runsAlone reports whether a delete runs here that nobody has announced, or that has ended for its coordinator.
func (c *deleteCounts) runsAlone() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, began := range c.began {
		for key := range began {
			if id, runs := strings.CutPrefix(key, runsKey("")); runs {
				if _, announced := began[id]; !announced {
					return true
				}
			}
		}
	}
	return false
}

// end ends a delete. That changes the count, too: what was read before may be deleted.
func (c *deleteCounts) end(db, id string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(db, id)
	c.noteEnd(id, now)
}

// leave takes a delete out of those that have begun. mu must be held.
func (c *deleteCounts) leave(db, id string) {
	c.m[db]++
	if delete(c.began[db], id); len(c.began[db]) == 0 {
		delete(c.began, db)
	}
}

// endRun ends a delete that runs here. It may run again, when it failed.
func (c *deleteCounts) endRun(db, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(db, key)
}

// noteEnd remembers that a delete has ended. mu must be held.
func (c *deleteCounts) noteEnd(id string, now time.Time) {
	for id, at := range c.ended {
		if now.Sub(at) > longestDelete {
			delete(c.ended, id)
		}
	}
	c.ended[id] = now
}

// endBefore ends the deletes that a node announced before a process of it was started, and returns their IDs by
// database. Those of other processes that were started later are left. after is when the last of these was, 0 for none.
func (c *deleteCounts) endBefore(node uint64, s start, now time.Time) (ended map[string][]string, after uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ended = make(map[string][]string)
	for db, began := range c.began {
		for id, a := range began {
			if own := s.process != 0 && a.started.process == s.process; a.node != node || own {
				continue
			}
			if a.started.at >= s.at {
				after = max(after, a.started.at)
				continue
			}
			delete(began, id)
			c.noteEnd(id, now)
			ended[db] = append(ended[db], id)
			c.m[db]++
		}
		if len(began) == 0 {
			delete(c.began, db)
		}
	}
	return ended, after
}

// underWay reports whether a delete of a database has not ended. mu must be held.
func (c *deleteCounts) underWay(db string, now time.Time) bool {
	for _, a := range c.began[db] {
		if !a.expired(now) {
			return true
		}
	}
	return false
}

// idsUnderWay are the IDs of the deletes of a database that have not ended.
func (c *deleteCounts) idsUnderWay(db string, now time.Time) (ids []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for id, a := range c.began[db] {
		if !a.expired(now) {
			ids = append(ids, id)
		}
	}
	return ids
}

// anyUnderWay reports whether one of some deletes of a database has not ended.
func (c *deleteCounts) anyUnderWay(db string, ids []string, now time.Time) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.ContainsFunc(ids, func(id string) bool {
		a, ok := c.began[db][id]
		return ok && !a.expired(now)
	})
}

// await waits until some deletes of a database have ended, and reports whether they have before ctx ends.
func (c *deleteCounts) await(ctx context.Context, db string, ids []string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c.anyUnderWay(db, ids, time.Now()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (c *deleteCounts) count(db string) uint64 { return c.base + c.m[db] }

// seen returns the count of a database. While a delete is under way, each call returns another one.
func (c *deleteCounts) seen(db string) uint64 {
	c.mu.RLock()
	n, under := c.count(db), c.underWay(db, time.Now())
	c.mu.RUnlock()
	if under {
		c.mu.Lock()
		c.m[db]++
		c.mu.Unlock()
	}
	return n
}
