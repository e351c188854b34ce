package handoff

import (
	"cmp"
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

// WaitingDelete is a delete that waits for a node.
type WaitingDelete struct {
	Node uint64
	Entry
}

// maxListed is how many bytes of a queue are read to list its deletes.
const maxListed = 1 << 20

// Deletes are the deletes that wait, of each node the first most, for people. Those of queues from before writes had
// versions, which wait among the writes of a shard, are not among them. more says that more of the others wait.
func (s *Service) Deletes(most int) (list []WaitingDelete, more bool) {
	for _, n := range s.all() {
		entries, rest := n.deletes(most)
		for _, e := range entries {
			list = append(list, WaitingDelete{n.id, e})
		}
		more = more || rest
	}
	slices.SortFunc(list, func(a, b WaitingDelete) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Time, b.Time))
	})
	return list, more
}

// deletes are the first deletes of a whole database.
func (n *nodeQueues) deletes(most int) (entries []Entry, more bool) {
	n.mu.Lock()
	q := n.queues[WholeDatabase]
	n.mu.Unlock()
	if q == nil {
		return nil, false
	}
	entries, err := q.peek(maxListed)
	if err != nil {
		return nil, false // whoever sends it says so
	}
	size, _ := measure(entries)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.files.list) > 0 {
		next := q.files.first()
		next.at += size
		more = q.files.end().behind(next)
	}
	if len(entries) > most {
		entries, more = entries[:most], true
	}
	return slices.DeleteFunc(entries, func(e Entry) bool { return e.Kind != Delete }), more
}

// Report tells what waits, by node.
func (s *Service) Report() []NodeReport {
	var out []NodeReport
	for _, n := range s.all() {
		oldest, _ := n.oldest()
		out = append(out, NodeReport{
			Node: n.id, Bytes: n.bytes.Load(), Shards: int64(len(n.all())), Oldest: oldest,
			Sent: n.stats.read.Load(), Dropped: n.stats.dropped.Load(),
		})
	}
	slices.SortFunc(out, func(a, b NodeReport) int { return int(a.Node) - int(b.Node) })
	return out
}
