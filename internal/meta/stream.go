package meta

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

// stream is Raft's listener under the address that others dial: over TLS when
// the meta nodes speak it, and with the shared secret proven first on every connection.
type stream struct {
	net.Listener
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

// Dial connects, and sends the length of a token and the token.
func (s *stream) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := s.tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(a))
	if err != nil {
		return nil, err
	}
	c = s.track(c)
	if s.signer.Secret == "" {
		return c, nil
	}
	token, err := s.signer.Token()
	if err == nil {
		c.SetWriteDeadline(time.Now().Add(timeout))
		_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(token))), token...))
		c.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Accept returns connections whose first read verifies the token, so that a
// silent peer holds up nobody else.
func (s *stream) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c = s.track(c)
	if s.signer.Secret == "" {
		return c, nil
	}
	return &guarded{Conn: c, secret: s.signer.Secret}, nil
}

type guarded struct {
	net.Conn
	secret trust.Secret
	once   sync.Once
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
	return g.Conn.Read(b)
}

func (g *guarded) verify() error {
	g.SetReadDeadline(time.Now().Add(prefaceTimeout))
	defer g.SetReadDeadline(time.Time{})
	var n [2]byte
	if _, err := io.ReadFull(g.Conn, n[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(n[:])
	if size > maxToken {
		return errors.New("raft connection without a token")
	}
	token := make([]byte, size)
	if _, err := io.ReadFull(g.Conn, token); err != nil {
		return err
	}
	if err := g.secret.Verify(string(token)); err != nil {
		return fmt.Errorf("raft connection from %s: %w", g.RemoteAddr(), err)
	}
	return nil
}
