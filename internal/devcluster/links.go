package devcluster

import (
	"slices"
	"sync"
)

// links are those between the data nodes of a cluster. Nodes are counted from 0.
type links struct {
	mu     sync.Mutex
	addrs  []string        // TCP address of each node; empty until it has started once
	cut    []bool          // nodes of which all links are cut
	oneWay map[[2]int]bool // from one node to another: that direction is cut
}

func newLinks(nodes int) *links {
	return &links{addrs: make([]string, nodes), cut: make([]bool, nodes), oneWay: make(map[[2]int]bool)}
}

// started is told the TCP address of a node.
func (l *links) started(node int, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs[node] = addr
}

// blocked reports whether a node cannot call an address. A node reaches itself always.
func (l *links) blocked(from int, addr string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := slices.Index(l.addrs, addr)
	if to < 0 { // no node of this cluster
		return l.cut[from]
	}
	return to != from && (l.cut[from] || l.cut[to] || l.oneWay[[2]int{from, to}])
}

func (l *links) setCut(node int, cut bool) (was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = l.cut[node]
	l.cut[node] = cut
	return was
}

func (l *links) setOneWay(from, to int, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.oneWay[[2]int{from, to}] = cut
}

// Cut takes a data node's links to all others away, and reports whether they were cut before. Heal gives them back. The
// node stays up and keeps answering its own clients.
func (c *Cluster) Cut(i int) (was bool) { return c.links.setCut(i, true) }

// Heal undoes Cut.
func (c *Cluster) Heal(i int) { c.links.setCut(i, false) }

// CutLink makes one data node unable to call another, which can still call it. So what the first one keeps for the
// other in hinted handoff stays there. HealLink gives the link back.
func (c *Cluster) CutLink(from, to int) { c.links.setOneWay(from, to, true) }

// HealLink undoes CutLink.
func (c *Cluster) HealLink(from, to int) { c.links.setOneWay(from, to, false) }
