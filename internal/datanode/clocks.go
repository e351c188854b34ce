package datanode

import (
	"time"

	"concord/internal/clocks"
	"concord/internal/cluster"
)

// now is this node's clock, as it tells others.
func (n *Node) now() time.Time {
	if n.seams.Now != nil {
		return n.seams.Now()
	}
	return time.Now()
}

// leaderTime is what time it is for the leader of the meta nodes, by which shards expire. It is that of this node while
// no leader was heard of.
func (n *Node) leaderTime() time.Time {
	now, _ := n.Meta.Now()
	return now
}

// compareClock is told, once a second, how far the clock of another data node is ahead, and how wrong that may be.
func (n *Node) compareClock(node cluster.Node, ahead, margin time.Duration) {
	n.clocks.Observe(node.TCPAddr, clocks.Skew{By: ahead, Margin: margin})
}

// timeBounds is what time it is at the earliest and at the latest: by this node's clock and by that of the leader of
// the meta nodes, of which either may be wrong. Until a leader was heard of, nothing is known of the earliest.
func (n *Node) timeBounds() (earliest, latest time.Time) {
	own := n.now()
	leader, known := n.Meta.Now()
	switch {
	case !known:
		return time.Unix(0, 0), own
	case own.Before(leader):
		return own, leader
	}
	return leader, own
}
