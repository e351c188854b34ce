// Package ossbackup serves influxd backup and influxd restore of InfluxDB OSS: the engine's protocol (package
// services/snapshotter), answered for the whole cluster.
//
// A connection carries one request: a byte for its type, and a line of JSON or a shard's ID. The answer ends with the
// connection. There are no credentials, and an answer cannot say why there is none: the log does.
//
//	request.go  reads a request
//	backup.go   what influxd backup asks
//	restore.go  what influxd restore asks
//	meta.go     the meta nodes, which do for it what they do for influxd-ctl
//
// What the tools cannot be told they must not take for a success: a shard without a whole copy gets no answer, and one
// that breaks off gets none for a while, because the tools append the next attempt to what they have.
package ossbackup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	maxClients  = 8                // requests that are answered at the same time
	maxWaiting  = 1024             // connections, with those that wait for that: influxd restore waits for no answer
	requestTime = 30 * time.Second // for a request to come, with its metadata
	// silence is for how long a client may take nothing of an answer, or send nothing of a file.
	silence = 30 * time.Second
)

// Deps is what a server is made of.
type Deps struct {
	Meta  Meta
	Admit func(client net.Addr) error // refuses clients; nil for none
	Log   *zap.Logger
}

// Server serves the protocol. Close ends it.
type Server struct {
	Deps
	broken broken

	ctx    context.Context
	cancel context.CancelFunc
	warn   rate.Sometimes // a hostile client must not fill the log

	turns   chan struct{} // holds one for each request that is answered
	mu      sync.Mutex
	clients map[net.Conn]bool // nil after Close
	running sync.WaitGroup
}

// New returns a server.
func New(d Deps) *Server {
	s := &Server{
		Deps: d, clients: make(map[net.Conn]bool), turns: make(chan struct{}, maxClients),
		warn: rate.Sometimes{First: 20, Interval: time.Second},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve answers the connections of a listener until it is closed. The byte that names the service is off them.
func (s *Server) Serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if !s.begin(c) {
			c.Close()
		}
	}
}

// begin answers a connection in the background, unless it is refused.
func (s *Server) begin(c net.Conn) bool {
	if s.Admit != nil {
		if err := s.Admit(c.RemoteAddr()); err != nil {
			s.refuse(c, err)
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		return false
	}
	if len(s.clients) >= maxWaiting {
		s.refuse(c, fmt.Errorf("%d backups and restores of InfluxDB OSS are under way: try again when one has ended",
			maxWaiting))
		return false
	}
	s.clients[c] = true
	s.running.Go(func() {
		select {
		case s.turns <- struct{}{}:
			s.answer(c)
			<-s.turns
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, c)
	})
	return true
}

// refuse says why a client gets no answer.
func (s *Server) refuse(c net.Conn, err error) {
	s.warn.Do(func() {
		s.Log.Warn("Refused influxd backup or restore of InfluxDB OSS",
			zap.Stringer("client", c.RemoteAddr()), zap.Error(err))
	})
}

// Close ends all connections, and waits for them.
func (s *Server) Close() error {
	s.cancel()
	s.mu.Lock()
	for c := range s.clients {
		c.Close()
	}
	s.clients = nil
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// answer answers the request of one connection. Who gets no whole answer sees that the connection is reset, where there
// is still time for that.
func (s *Server) answer(c net.Conn) {
	defer c.Close()
	in := &client{Conn: c}
	r, err := readRequest(in)
	if err == nil {
		err = s.serve(r, in)
	}
	if err == nil {
		return
	}
	s.refuse(c, err)
	if tcp, ok := c.(*net.TCPConn); ok && r.metadata == nil && (in.wrote || r.upload != nil) {
		tcp.SetLinger(0)
	}
}

func (s *Server) serve(r request, c *client) error {
	ctx, cancel := context.WithTimeout(s.ctx, longest)
	defer cancel()
	switch {
	case r.upload != nil:
		return s.upload(ctx, r)
	case r.metadata != nil:
		return s.restoreMeta(ctx, r, c)
	}
	return s.backup(ctx, r, c)
}

// longest is how long one request may take in all: a shard of a terabyte, over a slow network.
const longest = 24 * time.Hour

// client is a connection of which each read and write has its time.
type client struct {
	net.Conn
	wrote bool
}

func (c *client) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *client) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.wrote = c.wrote || n > 0
	if err != nil {
		return n, clientError{err}
	}
	return n, nil
}

// clientError is one of the client's connection, not of a shard.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// host is a client without its port.
func (c *client) host() string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

// broken remembers answers that broke off. The tools try again, and append what comes to what they have.
type broken struct {
	mu sync.Mutex
	at map[part]time.Time
}

// part is a shard that a client asks for.
type part struct {
	host  string
	shard uint64
}

// resting is longer than the tools try again.
const resting = 5 * time.Minute

var errBroken = errors.New("its last answer broke off, and influxd backup would append another one to what it has: " +
	"begin the backup anew in some minutes")

// check refuses a part that broke off a short time ago.
func (b *broken) check(p part) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for q, at := range b.at {
		if time.Since(at) > resting {
			delete(b.at, q)
		}
	}
	if _, ok := b.at[p]; ok {
		return errBroken
	}
	return nil
}

// note notes that the answer to a part broke off.
func (b *broken) note(p part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == nil {
		b.at = make(map[part]time.Time)
	}
	b.at[p] = time.Now()
}
