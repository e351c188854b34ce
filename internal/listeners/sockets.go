package listeners

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxPacket = 64 << 10 // bytes; no UDP packet is larger
	maxQueued = 1000     // packets that were read and wait for the parser
	maxLine   = 64 << 10 // bytes of a line over TCP

	// Close goes on reading until nothing arrives for lastReads: what clients sent before is in the buffers of the
	// system. A client that never pauses is read for lastReadsLimit.
	lastReads      = 100 * time.Millisecond
	lastReadsLimit = 3 * time.Second
)

// lastReader reads from a socket, and goes on when the deadline that close set has passed. The node may have been busy
// with earlier points until then, while later ones wait in the buffers of the system.
type lastReader struct {
	io.Reader
	socket net.Conn
	until  time.Time // zero before the first deadline has passed
}

func (r *lastReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if !isTimeout(err) {
		return n, err
	}
	now := time.Now()
	if r.until.IsZero() {
		r.until = now.Add(lastReadsLimit)
	}
	if now.After(r.until) {
		return n, err
	}
	r.socket.SetReadDeadline(now.Add(lastReads))
	return r.Reader.Read(b)
}

// isTimeout reports whether a deadline has passed.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// packets reads UDP packets.
type packets struct {
	conn    *net.UDPConn
	running sync.WaitGroup
}

// listenPackets calls handle with each packet, one after the other, until close is called. failed is told of errors of
// reading. The buffer is that of the system, in bytes; 0 keeps its size.
func listenPackets(bind string, buffer int, handle func([]byte), failed func(error)) (*packets, error) {
	addr, err := net.ResolveUDPAddr("udp", bind)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	if buffer > 0 {
		if err := conn.SetReadBuffer(buffer); err != nil {
			conn.Close()
			return nil, fmt.Errorf("set the buffer to %d bytes: %w", buffer, err)
		}
	}
	p, queue := &packets{conn: conn}, make(chan []byte, maxQueued)
	p.running.Go(func() {
		defer close(queue)
		reader, buf := &lastReader{Reader: conn, socket: conn}, make([]byte, maxPacket)
		for {
			n, err := reader.Read(buf)
			switch {
			case errors.Is(err, net.ErrClosed), isTimeout(err):
				return
			case err != nil:
				failed(err)
			case n > 0:
				queue <- bytes.Clone(buf[:n])
			}
		}
	})
	p.running.Go(func() {
		for packet := range queue {
			handle(packet)
		}
	})
	return p, nil
}

// close ends the reading, and returns when all that was read is handled.
func (p *packets) close() {
	p.conn.SetReadDeadline(time.Now().Add(lastReads))
	p.running.Wait()
	p.conn.Close()
}

// streams accepts TCP connections.
type streams struct {
	ln  net.Listener
	log *zap.Logger

	mu      sync.Mutex
	open    map[net.Conn]time.Time // since when
	closing bool
	running sync.WaitGroup
}

// serveStreams calls handle for each connection, in a goroutine of its own, until close is called. handle closes the
// connection.
func serveStreams(ln net.Listener, log *zap.Logger, handle func(net.Conn)) *streams {
	s := &streams{ln: ln, log: log, open: make(map[net.Conn]time.Time)}
	s.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				log.Warn("Cannot accept a connection", zap.Error(err))
				time.Sleep(lastReads) // such as too many open files
				continue
			}
			if !s.track(conn) {
				conn.Close()
				continue
			}
			s.running.Go(func() {
				defer s.forget(conn)
				handle(conn)
			})
		}
	})
	return s
}

func (s *streams) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.open[conn] = time.Now().UTC()
	}
	return !s.closing
}

func (s *streams) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
}

// close ends all connections, and returns when all that was read is handled.
func (s *streams) close() {
	s.ln.Close()
	s.mu.Lock()
	s.closing = true
	for conn := range s.open {
		conn.SetReadDeadline(time.Now().Add(lastReads))
	}
	s.mu.Unlock()
	s.running.Wait()
}

// lines calls handle with each line that ends. rest is what a client sent after the last line before it closed the
// connection; it is empty when the connection ended otherwise, because it may be half of a line then.
func lines(conn net.Conn, reader *bufio.Reader, handle func(line []byte)) (rest string, err error) {
	s := bufio.NewScanner(&lastReader{Reader: reader, socket: conn})
	s.Buffer(nil, maxLine)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, bytes.TrimSuffix(data[:i], []byte("\r")), nil
		}
		if atEOF {
			rest = string(data)
		}
		return 0, nil, nil
	})
	for s.Scan() {
		handle(s.Bytes())
	}
	err = s.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return "", fmt.Errorf("a line of %s is longer than %d bytes", conn.RemoteAddr(), maxLine)
	case isTimeout(err): // close was called
		return "", nil
	case err != nil:
		return "", err
	}
	return rest, nil
}
