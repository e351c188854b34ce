package datanode

import (
	"time"

	"concord/internal/clocks"
	"concord/internal/cluster"
)

// now is this node's clock, as it tells others.
func (n *Node) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}

// compareClock is told, once a second, how far the clock of another data node is ahead, and how wrong that may be.
func (n *Node) compareClock(node cluster.Node, ahead, margin time.Duration) {
	n.clocks.Observe(node.TCPAddr, clocks.Skew{By: ahead, Margin: margin})
}
