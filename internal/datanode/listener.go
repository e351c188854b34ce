package datanode

import (
	"errors"
	"net"
	"sync"
	"time"
)

// sharedListener hands the connections of one listener to one server after another. So the port of a node stays open
// while its idle server gives way to the one that serves the shards, and back.
type sharedListener struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{} // the listener is
	done   chan struct{} // accept has ended
}

func newSharedListener(ln net.Listener) *sharedListener {
	s := &sharedListener{
		Listener: ln, conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan struct{}),
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
		select {
		case s.conns <- c:
		case <-s.closed:
			c.Close()
		}
	}
}

// Close closes the listener of all servers.
func (s *sharedListener) Close() error {
	close(s.closed)
	err := s.Listener.Close()
	<-s.done
	return err
}

// forOneServer is a listener for one of the servers. Its Close leaves the shared listener open.
func (s *sharedListener) forOneServer() net.Listener {
	return &serverListener{sharedListener: s, ended: make(chan struct{})}
}

type serverListener struct {
	*sharedListener
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
	case c := <-l.conns:
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
