package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Mode is what a link does with bytes.
type Mode int

const (
	Open   Mode = iota
	Refuse      // connections are reset, new ones too: a firewall that rejects
	Stall       // nothing passes and nobody is told; what was sent arrives after the cut, as from TCP
	Deaf        // requests pass, answers do not until the cut ends
	Repeat      // calls between data nodes arrive twice; see repeater
)

func (m Mode) String() string { return [...]string{"open", "refuse", "stall", "deaf", "repeat"}[m] }

// Link is the state of the connections that one node makes to another.
type Link struct {
	Mode  Mode
	Delay time.Duration // of each piece of up to 32 KiB, both ways
	Late  time.Duration // of Repeat: a call arrives again after up to this long
	Seed  uint64        // of Repeat: of the times by which calls are late
}

type pair struct{ from, to string }

// Links carry the connections between nodes. A node has one address for all
// others, so there is one listener for each address of a node; who calls is told
// by the process that holds the other end of the connection, as /proc knows it
// (Linux, no privileges needed). So each ordered pair of nodes, "connections that
// from makes to to", can be cut on its own: 8088 between data nodes and from meta
// nodes, 8091 from data nodes, and Raft. Bytes of one connection that go in one
// direction alone can be held with Deaf. Calls on 8088 can arrive twice with
// Repeat: connections made before are reset, and those made in it when it ends. Callers that are no node, such as
// influxd-ctl, always pass.
type Links struct {
	pids func() map[int]string

	mu     sync.Mutex
	state  map[pair]Link
	change chan struct{} // closed and replaced when state changes
	gates  []*gate
	conns  map[*carried]struct{}
	closed bool
	wg     sync.WaitGroup
}

// gate is a listener in front of one address of a node. It listens only
// while the node runs, so that callers of a dead node are refused at once.
type gate struct {
	node, called, bind string
	speaks             protocol
	ln                 net.Listener
}

// protocol is what an address speaks.
type protocol int

const (
	bytesAlone protocol = iota // nothing that a link would know
	calls                      // gRPC without TLS: Repeat can tell calls apart
)

// carried is one connection.
type carried struct {
	pair
	speaks         protocol
	repeats        bool // it was made in Repeat
	client, server net.Conn
}

func newLinks(pids func() map[int]string) *Links {
	return &Links{
		pids: pids, state: make(map[pair]Link), change: make(chan struct{}), conns: make(map[*carried]struct{}),
	}
}

// Set changes the link over which from calls to.
func (l *Links) Set(from, to string, link Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state[pair{from, to}] = link
	l.changed()
}

// Heal opens all links.
func (l *Links) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.state)
	l.changed()
}

// changed tells the connections of a new state, with mu held.
func (l *Links) changed() {
	close(l.change)
	l.change = make(chan struct{})
	for c := range l.conns {
		mode := l.state[c.pair].Mode
		if mode == Refuse || c.speaks == calls && c.repeats != (mode == Repeat) {
			c.reset()
		}
	}
}

// listen puts a gate in front of an address of a node.
func (l *Links) listen(node, called, bind string, speaks protocol) error {
	g := &gate{node: node, called: called, bind: bind, speaks: speaks}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gates = append(l.gates, g)
	return l.open(g)
}

func (l *Links) open(g *gate) error {
	if g.ln != nil || l.closed {
		return nil
	}
	ln, err := net.Listen("tcp", g.called)
	// A process that is being started may hold the closed listener until it runs its program.
	for tries := 0; errors.Is(err, syscall.EADDRINUSE) && tries < 100; tries++ {
		time.Sleep(10 * time.Millisecond)
		ln, err = net.Listen("tcp", g.called)
	}
	if err != nil {
		return fmt.Errorf("proxy of %s: %w", g.node, err)
	}
	g.ln = ln
	l.wg.Add(1)
	go l.accept(g, ln)
	return nil
}

// up and down tell that a node's process runs or ended.
func (l *Links) up(node string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.gates {
		if g.node == node {
			if err := l.open(g); err != nil {
				panic(err) // the port was ours a moment ago
			}
		}
	}
}

func (l *Links) down(node string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.gates {
		if g.node == node && g.ln != nil {
			g.ln.Close()
			g.ln = nil
		}
	}
	for c := range l.conns {
		if c.to == node {
			c.reset()
		}
	}
}

func (l *Links) close() {
	l.mu.Lock()
	l.closed = true
	for _, g := range l.gates {
		if g.ln != nil {
			g.ln.Close()
			g.ln = nil
		}
	}
	for c := range l.conns {
		c.reset()
	}
	close(l.change)
	l.change = make(chan struct{})
	l.mu.Unlock()
	l.wg.Wait()
}

// link returns the state of a link and what tells its next change.
func (l *Links) link(p pair) (Link, <-chan struct{}, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state[p], l.change, !l.closed
}

func (l *Links) accept(g *gate, ln net.Listener) {
	defer l.wg.Done()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.carry(g, conn)
		}()
	}
}

// carry takes one connection from its first byte to its last.
func (l *Links) carry(g *gate, client net.Conn) {
	c := &carried{pair: pair{caller(client, l.pids()), g.node}, speaks: g.speaks, client: client}
	defer client.Close()
	if l.wait(c.pair, false) != nil {
		c.reset()
		return
	}
	server, err := net.Dial("tcp", g.bind)
	if err != nil {
		c.reset()
		return
	}
	defer server.Close()
	l.mu.Lock()
	c.server = server
	l.conns[c] = struct{}{}
	link := l.state[c.pair]
	c.repeats = c.speaks == calls && link.Mode == Repeat
	if l.closed || link.Mode == Refuse {
		c.reset()
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.conns, c)
		l.mu.Unlock()
	}()
	if c.repeats {
		repeat(c, link)
		return
	}
	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); l.pass(c, server, client, false) }()
	go func() { defer both.Done(); l.pass(c, client, server, true) }()
	both.Wait()
}

// errCut ends a connection over a link that refuses.
var errCut = errors.New("the link is cut")

// wait returns when the link lets bytes through: requests, or answers.
func (l *Links) wait(p pair, answers bool) error {
	delayed := false
	for {
		link, changed, open := l.link(p)
		switch {
		case !open || link.Mode == Refuse:
			return errCut
		case link.Mode == Stall || link.Mode == Deaf && answers:
			<-changed
		case link.Delay > 0 && !delayed:
			delayed = true
			t := time.NewTimer(link.Delay)
			select {
			case <-t.C:
			case <-changed:
			}
			t.Stop()
		default:
			return nil
		}
	}
}

// pass copies one direction. Its end is passed on, so that half-closed
// connections work; an error ends both directions.
func (l *Links) pass(c *carried, to, from net.Conn, answers bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if l.wait(c.pair, answers) != nil {
				c.reset()
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				c.reset()
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			if l.wait(c.pair, answers) != nil {
				c.reset()
				return
			}
			to.(*net.TCPConn).CloseWrite()
			return
		default:
			c.reset()
			return
		}
	}
}

// reset ends both connections so that the peers see it at once.
func (c *carried) reset() {
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok && tcp != nil {
			tcp.SetLinger(0)
			tcp.Close()
		}
	}
}
