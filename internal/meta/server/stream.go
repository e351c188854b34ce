package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/trust"
)

const (
	prefaceTimeout = 5 * time.Second
	maxToken       = 4096 // bytes
)

// stream is Raft's listener under the address that others dial, over TLS when the meta nodes speak it. Who connects
// first proves that it knows the shared secret, and says which member it looks for: another one may be at its address.
type stream struct {
	net.Listener
	id         raft.ServerID // of this node; set before Raft accepts connections
	advertised string
	tls        *tlsconfig.TLSConfigManager
	signer     *trust.Signer

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // both ways: Raft leaves them open when it stops
	closed bool
}

var _ raft.StreamLayer = (*stream)(nil)

func (s *stream) Addr() net.Addr { return hostPort(s.advertised) }

// Close closes the listener and all connections.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		c.Close()
	}
	return s.Listener.Close()
}

// track closes c with the stream.
func (s *stream) track(c net.Conn) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return c
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[c] = struct{}{}
	return &tracked{Conn: c, stream: s}
}

type tracked struct {
	net.Conn
	stream *stream
}

func (t *tracked) Close() error {
	t.stream.mu.Lock()
	delete(t.stream.conns, t.Conn)
	t.stream.mu.Unlock()
	return t.Conn.Close()
}

// A connection begins with a greeting, which docs/format/raft.md draws. The one that dialled says whom it wants to
// reach. An earlier version sends none: its first byte is less.
const (
	greeting        = 0xC5
	greetingVersion = 1
	welcome         = 1
	stranger        = 2
)

// Dial connects to a destination. It sends the greeting with its ID and, with a shared secret, the length of a token
// and the token. It returns an error unless the node with that ID answers.
func (s *stream) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr := splitDestination(a)
	c, err := s.tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c = s.track(c)
	if err := s.greet(c, id, addr, timeout); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (s *stream) greet(c net.Conn, id, addr string, timeout time.Duration) error {
	hello := append([]byte{greeting, greetingVersion, byte(len(id))}, id...)
	if s.signer.Secret != "" {
		token, err := s.signer.Token()
		if err != nil {
			return err
		}
		hello = append(binary.BigEndian.AppendUint16(hello, uint16(len(token))), token...)
	}
	c.SetDeadline(time.Now().Add(timeout))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write(hello); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("meta node %s does not greet back: it may refuse the shared secret, "+
			"or be of an earlier version: %w", addr, err)
	}
	if answer[0] != welcome {
		return fmt.Errorf("the meta node at %s is not the member that the cluster knows there: it lost its folder, "+
			"and takes part again after influxd-ctl add-meta", addr)
	}
	return nil
}

// Accept returns connections whose first read verifies the greeting, so that a
// silent peer holds up nobody else.
func (s *stream) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guarded{Conn: s.track(c), id: string(s.id), secret: s.signer.Secret}, nil
}

type guarded struct {
	net.Conn
	id     string // of this node
	secret trust.Secret
	once   sync.Once
	first  []byte // of what Raft reads, from a node of an earlier version
	err    error
}

func (g *guarded) Read(b []byte) (int, error) {
	g.once.Do(func() {
		if g.err = g.verify(); g.err != nil {
			g.Close()
		}
	})
	if g.err != nil {
		return 0, g.err
	}
	if len(g.first) > 0 && len(b) > 0 {
		n := copy(b, g.first)
		g.first = g.first[n:]
		return n, nil
	}
	return g.Conn.Read(b)
}

func (g *guarded) verify() error {
	g.SetDeadline(time.Now().Add(prefaceTimeout))
	defer g.SetDeadline(time.Time{})
	first, err := g.take(1)
	if err != nil {
		return err
	}
	greets := first[0] == greeting
	var id []byte
	if greets {
		head, err := g.take(2)
		if err != nil {
			return err
		}
		if head[0] != greetingVersion {
			return fmt.Errorf("raft connection from %s: greeting of version %d", g.RemoteAddr(), head[0])
		}
		if id, err = g.take(int(head[1])); err != nil {
			return err
		}
		first = nil
	}
	if g.secret != "" {
		if err := g.verifyToken(first); err != nil {
			return err
		}
		first = nil
	}
	g.first = first
	if !greets {
		return nil
	}
	if string(id) != g.id {
		g.Conn.Write([]byte{stranger})
		return fmt.Errorf("raft connection from %s: it looks for meta node %s, and this one is %s", g.RemoteAddr(), id,
			g.id)
	}
	_, err = g.Conn.Write([]byte{welcome})
	return err
}

func (g *guarded) take(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(g.Conn, b)
	return b, err
}

// verifyToken reads the token; begun is what was read of its length.
func (g *guarded) verifyToken(begun []byte) error {
	rest, err := g.take(2 - len(begun))
	if err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(append(begun, rest...))
	if size > maxToken {
		return errors.New("raft connection without a token")
	}
	token, err := g.take(int(size))
	if err != nil {
		return err
	}
	if err := g.secret.Verify(string(token)); err != nil {
		return fmt.Errorf("raft connection from %s: %w", g.RemoteAddr(), err)
	}
	return nil
}
