package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/protocol"
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
	speaks     protocol.Speaks              // which protocol between nodes this one speaks
	tooOld     func(addr string, err error) // is told of nodes that are refused because of their version

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // both ways: Raft leaves them open when it stops
	dials  map[*context.CancelFunc]struct{}
	closed bool
}

var _ raft.StreamLayer = (*stream)(nil)

func (s *stream) Addr() net.Addr { return hostPort(s.advertised) }

// Close closes the listener and all connections, and ends dials.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = nil
	for cancel := range s.dials {
		(*cancel)()
	}
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
	greeting = 0xC5
	welcome  = 1
	stranger = 2
	refusal  = 3 // of a node whose version is too old
)

// toldSince is the version of the protocol from which on nodes answer a greeting with their own version, too.
const toldSince = 2

// Dial connects to a destination. It sends the greeting with its ID and, with a shared secret, the length of a token
// and the token. It returns an error unless the node with that ID answers.
func (s *stream) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr := splitDestination(a)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ended, err := s.dialing(&cancel)
	if err != nil {
		return nil, err
	}
	c, err := s.tls.DialContext(ctx, "tcp", addr)
	ended()
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

// dialing has Close end a dial until ended is called.
func (s *stream) dialing(cancel *context.CancelFunc) (ended func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.dials == nil {
		s.dials = make(map[*context.CancelFunc]struct{})
	}
	s.dials[cancel] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.dials, cancel)
	}, nil
}

func (s *stream) greet(c net.Conn, id, addr string, timeout time.Duration) error {
	hello := append([]byte{greeting, byte(s.speaks.Current), byte(len(id))}, id...)
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
	theirs := []byte{1}
	if s.speaks.Current >= toldSince {
		if _, err := io.ReadFull(c, theirs); err != nil {
			return fmt.Errorf("meta node %s does not tell its version: %w", addr, err)
		}
	}
	if err := s.speaks.With(addr, uint32(theirs[0])); err != nil {
		s.tooOld(addr, err)
		return err
	}
	switch answer[0] {
	case welcome:
	case refusal:
		return fmt.Errorf("meta node %s refuses this one: %w", addr, protocol.ErrTooOld)
	default:
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
	return &guarded{Conn: s.track(c), stream: s}, nil
}

type guarded struct {
	net.Conn
	stream *stream
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
	greets, version := first[0] == greeting, byte(1)
	var id []byte
	if greets {
		head, err := g.take(2)
		if err != nil {
			return err
		}
		version = head[0]
		if id, err = g.take(int(head[1])); err != nil {
			return err
		}
		first = nil
	}
	if g.stream.signer.Secret != "" {
		if err := g.verifyToken(first); err != nil {
			return err
		}
		first = nil
	}
	g.first = first
	tooOld := g.stream.speaks.With(g.RemoteAddr().String(), uint32(version))
	if tooOld != nil {
		g.stream.tooOld(g.RemoteAddr().String(), tooOld)
	}
	switch {
	case !greets:
		return tooOld
	case tooOld != nil:
		g.answer(version, refusal)
		return tooOld
	case string(id) != string(g.stream.id):
		g.answer(version, stranger)
		return fmt.Errorf("raft connection from %s: it looks for meta node %s, and this one is %s", g.RemoteAddr(), id,
			g.stream.id)
	}
	return g.answer(version, welcome)
}

// answer answers a greeting of a version.
func (g *guarded) answer(version, code byte) error {
	b := []byte{code}
	if version >= toldSince {
		b = append(b, byte(g.stream.speaks.Current))
	}
	_, err := g.Conn.Write(b)
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
	if err := g.stream.signer.Secret.Verify(string(token)); err != nil {
		return fmt.Errorf("raft connection from %s: %w", g.RemoteAddr(), err)
	}
	return nil
}
