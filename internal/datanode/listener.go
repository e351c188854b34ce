package datanode

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/snapshotter"
)

const (
	maxWaiting    = 256              // connections of which nothing has come yet
	firstByteTime = 10 * time.Second // for it to come
	backupsTime   = time.Second      // for a server to take a connection of influxd backup
)

// sharedListener hands the connections of one listener to one server after another. So the port of a node stays open
// while its idle server gives way to the one that serves the shards, and back.
//
// Two protocols share the port, and the first byte of a connection tells which one it speaks. Influxd backup and
// restore of InfluxDB OSS begin with a byte of their own. Other nodes begin with TLS, or with HTTP/2. The oldest
// connection of which nothing has come ends when there are too many.
type sharedListener struct {
	net.Listener
	secure  func(net.Conn) net.Conn // makes it speak TLS; nil for none
	conns   chan net.Conn           // of other nodes
	backups chan net.Conn           // of influxd backup and restore, without that byte
	closed  chan struct{}           // the listener is
	done    chan struct{}           // accept has ended

	mu      sync.Mutex
	waiting []net.Conn // until a server has them, the oldest first
	sorting sync.WaitGroup
}

// newSharedListener shares a listener for TCP. Other nodes speak TLS when the manager uses it.
func newSharedListener(ln net.Listener, manager *tlsconfig.TLSConfigManager) *sharedListener {
	s := &sharedListener{
		Listener: ln, conns: make(chan net.Conn), backups: make(chan net.Conn),
		closed: make(chan struct{}), done: make(chan struct{}),
	}
	if manager.UseTLS() {
		// As the manager's own listener: each connection gets the certificates of its time.
		config := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return manager.TLSConfig(), nil
		}}
		s.secure = func(c net.Conn) net.Conn { return tls.Server(c, config) }
	}
	go s.accept()
	return s
}

func (s *sharedListener) accept() {
	defer close(s.done)
	for {
		c, err := s.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, perhaps
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-s.closed:
				return
			}
		}
		s.mu.Lock()
		if len(s.waiting) >= maxWaiting {
			s.waiting[0].Close()
			s.waiting = s.waiting[1:]
		}
		s.waiting = append(s.waiting, c)
		s.mu.Unlock()
		s.sorting.Go(func() { s.sort(c) })
	}
}

// sort hands a connection to the server for its protocol.
func (s *sharedListener) sort(c net.Conn) {
	var first [1]byte
	c.SetReadDeadline(time.Now().Add(firstByteTime))
	_, err := c.Read(first[:])
	s.mu.Lock()
	if i := slices.Index(s.waiting, c); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	var to chan net.Conn
	var late <-chan time.Time // never for other nodes: one of their servers comes
	if first[0] == snapshotter.MuxHeader {
		to, late = s.backups, time.After(backupsTime)
	} else {
		to, c = s.conns, &replayed{Conn: c, first: first[:]}
		if s.secure != nil {
			c = s.secure(c)
		}
	}
	select {
	case to <- c:
	case <-late:
		c.Close()
	case <-s.closed:
		c.Close()
	}
}

// replayed is a connection of which some bytes have been read.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) > 0 && len(b) > 0 {
		n := copy(b, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}

// Close closes the listener of all servers.
func (s *sharedListener) Close() error {
	close(s.closed)
	err := s.Listener.Close()
	<-s.done
	s.mu.Lock()
	for _, c := range s.waiting {
		c.Close()
	}
	s.mu.Unlock()
	s.sorting.Wait()
	return err
}

// forOneServer is a listener for one of the servers for other nodes. Its Close leaves the shared listener open.
func (s *sharedListener) forOneServer() net.Listener {
	return &serverListener{sharedListener: s, from: s.conns, ended: make(chan struct{})}
}

// forBackups is a listener for a server of influxd backup and restore. Its Close leaves the shared listener open.
func (s *sharedListener) forBackups() net.Listener {
	return &serverListener{sharedListener: s, from: s.backups, ended: make(chan struct{})}
}

type serverListener struct {
	*sharedListener
	from  chan net.Conn
	ended chan struct{}
	end   sync.Once
}

func (l *serverListener) Accept() (net.Conn, error) {
	select { // a server that has ended takes nothing from the next one
	case <-l.ended:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.from:
		return c, nil
	case <-l.ended:
	case <-l.closed:
	}
	return nil, net.ErrClosed
}

func (l *serverListener) Close() error {
	l.end.Do(func() { close(l.ended) })
	return nil
}
