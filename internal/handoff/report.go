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
