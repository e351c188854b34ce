package devcluster

import (
	"net"
	"slices"
	"sync"
)

// links are those between the data nodes of a cluster. Nodes are counted from 0.
type links struct {
	mu     sync.Mutex
	addrs  []string        // TCP address of each node; empty until it has started once
	cut    []bool          // nodes of which all links are cut
	noMeta []bool          // nodes that cannot call the meta node
	oneWay map[[2]int]bool // from one node to another: that direction is cut
	hung   []bool          // nodes of which all links hold what goes over them
	moved  *sync.Cond      // a node hangs no more, or a connection was closed
}

func newLinks(nodes int) *links {
	l := &links{
		addrs: make([]string, nodes), cut: make([]bool, nodes), noMeta: make([]bool, nodes),
		oneWay: make(map[[2]int]bool), hung: make([]bool, nodes),
	}
	l.moved = sync.NewCond(&l.mu)
	return l
}

// started is told the TCP address of a node.
func (l *links) started(node int, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs[node] = addr
}

// ran reports whether a node has started before.
func (l *links) ran(node int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addrs[node] != ""
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

func (l *links) setNoMeta(node int, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noMeta[node] = cut
}

func (l *links) hasNoMeta(node int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.noMeta[node]
}

func (l *links) setOneWay(from, to int, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.oneWay[[2]int{from, to}] = cut
}

func (l *links) setHung(node int, hung bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hung[node] = hung
	l.moved.Broadcast()
}

// wrap returns a connection of a node to an address that holds what goes over it while one of the two hangs.
func (l *links) wrap(from int, addr string, conn net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := slices.Index(l.addrs, addr)
	if to < 0 {
		return conn // no node of this cluster
	}
	return &heldConn{Conn: conn, links: l, from: from, to: to}
}

// heldConn is a connection between two nodes. While one of them hangs, it takes what is sent, as the buffers of the
// kernel do, and delivers it when the node goes on, also when it was closed meanwhile.
type heldConn struct {
	net.Conn
	links    *links
	from, to int

	held   []byte // guarded by links.mu, like the next two
	flush  bool   // a goroutine delivers held when it may
	closed bool
}

// hangs reports whether what goes over the connection is held. links.mu must be held.
func (c *heldConn) hangs() bool { return c.links.hung[c.from] || c.links.hung[c.to] }

func (c *heldConn) Write(b []byte) (int, error) {
	c.links.mu.Lock()
	if c.closed {
		c.links.mu.Unlock()
		return 0, net.ErrClosed
	}
	if !c.hangs() && len(c.held) == 0 {
		c.links.mu.Unlock()
		return c.Conn.Write(b)
	}
	c.held = append(c.held, b...)
	if !c.flush {
		c.flush = true
		go c.deliver()
	}
	c.links.mu.Unlock()
	return len(b), nil
}

// deliver sends what was held, once it may.
func (c *heldConn) deliver() {
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	for len(c.held) > 0 {
		for c.hangs() {
			c.links.moved.Wait()
		}
		b := c.held
		c.links.mu.Unlock()
		c.Conn.Write(b) // the reader finds out when the connection is broken
		c.links.mu.Lock()
		c.held = c.held[len(b):]
	}
	c.flush = false
	if c.closed {
		c.Conn.Close()
	}
}

func (c *heldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	for c.hangs() && !c.closed {
		c.links.moved.Wait()
	}
	return n, err
}

func (c *heldConn) Close() error {
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	c.closed = true
	c.links.moved.Broadcast()
	if c.flush {
		return nil // deliver closes it
	}
	return c.Conn.Close()
}

// Hang holds all that goes between a data node and the others, until GoOn delivers it: as if its process was stopped.
// The node itself goes on, and so do the requests of its own clients.
func (c *Cluster) Hang(i int) { c.links.setHung(i, true) }

// GoOn undoes Hang.
func (c *Cluster) GoOn(i int) { c.links.setHung(i, false) }

// Cut takes a data node's links to all others away, and reports whether they were cut before. Heal gives them back. The
// node stays up and keeps answering its own clients.
func (c *Cluster) Cut(i int) (was bool) { return c.links.setCut(i, true) }

// Heal undoes Cut.
func (c *Cluster) Heal(i int) { c.links.setCut(i, false) }

// CutMeta makes a data node unable to call the meta node, which can still call it. The node still reaches the other
// data nodes, and goes on to serve its clients with the metadata that it has. HealMeta gives the link back.
func (c *Cluster) CutMeta(i int) { c.links.setNoMeta(i, true) }

// HealMeta undoes CutMeta.
func (c *Cluster) HealMeta(i int) { c.links.setNoMeta(i, false) }

// CutLink makes one data node unable to call another, which can still call it. So what the first one keeps for the
// other in hinted handoff stays there. HealLink gives the link back.
func (c *Cluster) CutLink(from, to int) { c.links.setOneWay(from, to, true) }

// HealLink undoes CutLink.
func (c *Cluster) HealLink(from, to int) { c.links.setOneWay(from, to, false) }
