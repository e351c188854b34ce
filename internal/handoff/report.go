package handoff

import (
	"slices"
	"time"
)

// NodeReport is what waits for a node, for people.
type NodeReport struct {
	Node    uint64
	Bytes   int64     // on disk
	Shards  int64     // with entries
	Oldest  time.Time // when the first of the entries was queued; zero for not known
	Sent    int64     // bytes, since the service was opened
	Dropped int64     // entries, since the service was opened
}

const (
	// oldestFor is for how long the age of the oldest entry is taken as it was found. Finding it reads from the queues.
	oldestFor = 30 * time.Second
	// oldestOf is in how many queues the oldest entry is looked for at most.
	oldestOf = 64
)

// Report tells what waits, by node.
func (s *Service) Report() []NodeReport {
	var out []NodeReport
	for _, n := range s.all() {
		queues := n.all()
		out = append(out, NodeReport{
			Node: n.id, Bytes: n.bytes.Load(), Shards: int64(len(queues)), Oldest: n.oldest(queues),
			Sent: n.stats.read.Load(), Dropped: n.stats.dropped.Load(),
		})
	}
	slices.SortFunc(out, func(a, b NodeReport) int { return int(a.Node) - int(b.Node) })
	return out
}

// oldestEntry is what is remembered of the oldest entry.
type oldestEntry struct {
	found time.Time
	time  time.Time
}

// oldest is when the first of the entries was queued, as it was found lately.
func (n *nodeQueues) oldest(queues []shardQueue) (oldest time.Time) {
	if len(queues) == 0 {
		return time.Time{}
	}
	if o := n.first.Load(); o != nil && time.Since(o.found) < oldestFor && !o.time.IsZero() {
		return o.time
	}
	for _, sq := range queues[:min(len(queues), oldestOf)] {
		entries, err := sq.q.peek(1)
		if err != nil || len(entries) == 0 {
			continue // it is being emptied, or is damaged; who sends it says so
		}
		if t := time.Unix(0, entries[0].Time); oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	n.first.Store(&oldestEntry{found: time.Now(), time: oldest})
	return oldest
}
