package handoff

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
)

// counts are what is counted of queues since the start, with the names of Statistics.
type counts struct {
	written, read         atomic.Int64 // bytes
	shardReq, shardPoints atomic.Int64 // that were queued
	dropped, blocked      atomic.Int64
	req, reqFail          atomic.Int64
	reqPoints             atomic.Int64 // that were delivered
}

func (c *counts) values() map[string]any {
	return map[string]any{
		"bytesWritten": c.written.Load(), "bytesRead": c.read.Load(),
		"writeShardReq": c.shardReq.Load(), "writeShardReqPoints": c.shardPoints.Load(),
		"writeBlocked": c.blocked.Load(), "writeDropped": c.dropped.Load(),
		"writeNodeReq": c.req.Load(), "writeNodeReqFail": c.reqFail.Load(), "writeNodeReqPoints": c.reqPoints.Load(),
	}
}

// parts are the counts of the queues for one node. Those of a queue stay when it is empty, until its shard is gone.
type parts struct {
	mu        sync.Mutex
	shards    map[uint64]*part
	databases map[string]*counts
}

// part is the counts of one queue.
type part struct {
	counts
	database string // "" while it is not known, and for deletes of a whole database
}

// tally counts for the queue of a shard, for its database and for its node.
func (n *nodeQueues) tally(shard uint64, count func(*counts)) {
	count(&n.stats)
	p := &n.parts
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.shards[shard]
	if of == nil {
		if p.shards == nil {
			p.shards, p.databases = make(map[uint64]*part), make(map[string]*counts)
		}
		of = &part{}
		p.shards[shard] = of
	}
	count(&of.counts)
	if of.database == "" && shard != WholeDatabase && n.s.deps.Database != nil {
		of.database = n.s.deps.Database(shard)
	}
	if of.database == "" {
		return
	}
	if p.databases[of.database] == nil {
		p.databases[of.database] = &counts{}
	}
	count(p.databases[of.database])
}

// forgetParts forgets the counts of queues that nobody is to get any more, and of databases that have none left.
func (n *nodeQueues) forgetParts() {
	p := &n.parts
	p.mu.Lock()
	defer p.mu.Unlock()
	left := make(map[string]bool)
	for shard, of := range p.shards {
		if due, known := n.s.deps.Due(n.id, shard); known && !due {
			delete(p.shards, shard)
		} else {
			left[of.database] = true
		}
	}
	maps.DeleteFunc(p.databases, func(db string, _ *counts) bool { return !left[db] })
}

// held is what waits in queues.
type held struct {
	queues, bytes        int64
	oldest, oldestDelete time.Time
}

func (h held) into(values map[string]any, now time.Time) {
	age := func(at time.Time) int64 {
		if at.IsZero() {
			return 0
		}
		return int64(max(now.Sub(at), 0).Seconds())
	}
	values["queueDepth"], values["queueBytes"] = h.queues, h.bytes
	values["oldestSec"], values["oldestDeleteSec"] = age(h.oldest), age(h.oldestDelete)
}

// statistics are hh_processor of each queue, hh_database of each database, and hh_node.
func (n *nodeQueues) statistics(tags map[string]string, now time.Time) (out []models.Statistic) {
	node := strconv.FormatUint(n.id, 10)
	add := func(name string, own map[string]string, values map[string]any) {
		t := models.StatisticTags{"node": node}.Merge(own)
		out = append(out, models.Statistic{Name: name, Tags: models.StatisticTags(t).Merge(tags), Values: values})
	}
	p := &n.parts
	shards, databases := make(map[uint64]held), make(map[string]held)
	for _, sq := range n.all() {
		h := held{queues: 1, bytes: sq.q.onDisk()}
		if ns := sq.q.oldest(); ns != 0 {
			h.oldest = time.Unix(0, ns)
			if sq.shard == WholeDatabase {
				h.oldestDelete = h.oldest
			}
		}
		shards[sq.shard] = h
		n.tally(sq.shard, func(*counts) {}) // one that was there at the start counts, too
	}
	p.mu.Lock()
	for _, shard := range slices.Sorted(maps.Keys(p.shards)) {
		of, h := p.shards[shard], shards[shard]
		values := of.values()
		h.into(values, now)
		add("hh_processor", map[string]string{"path": filepath.Join(n.dir, strconv.FormatUint(shard, 10))}, values)
		db := databases[of.database]
		databases[of.database] = held{queues: db.queues + h.queues, bytes: db.bytes + h.bytes}
	}
	for _, db := range slices.Sorted(maps.Keys(p.databases)) {
		values := p.databases[db].values()
		values["queueDepth"], values["queueBytes"] = databases[db].queues, databases[db].bytes
		add("hh_database", map[string]string{"db": db}, values)
	}
	p.mu.Unlock()
	values, all := n.stats.values(), held{queues: int64(len(shards)), bytes: n.bytes.Load()}
	all.oldest, all.oldestDelete = n.oldest()
	all.into(values, now)
	values["queueTotalSize"] = all.bytes
	delete(values, "writeShardReq")
	delete(values, "writeShardReqPoints")
	add("hh_node", map[string]string{"path": n.dir}, values)
	return out
}

// Statistics are hh of the service, hh_node of each node, hh_database of each of its databases, and hh_processor of
// each of its queues.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	var points, reqs int64
	var out []models.Statistic
	_, now := s.deps.Now()
	for _, n := range s.all() {
		reqs += n.stats.req.Load()
		points += n.stats.reqPoints.Load()
		out = append(out, n.statistics(tags, now)...)
	}
	return append(out, models.Statistic{
		Name: "hh", Tags: models.StatisticTags{"path": s.cfg.Dir}.Merge(tags),
		Values: map[string]any{"writeShardReq": reqs, "writeShardReqPoints": points},
	})
}
