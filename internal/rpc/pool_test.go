package rpc

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A node that takes connections and says nothing is given up after dial-timeout.
func TestDialTimeout(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &Pool{DialTimeout: 200 * time.Millisecond}
	defer p.Close()
	conn, err := p.Conn(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().UTC()
	err = conn.Invoke(t.Context(), "/any/method", new(emptypb.Empty), new(emptypb.Empty))
	if took := time.Since(began); status.Code(err) != codes.Unavailable || took > 15*time.Second { // 20 s without it
		t.Errorf("after %v: %v", took, err)
	}
}

// A node that is heard again is called at once, and not only when the connection to it has waited long enough.
func TestWakeConnectsToANodeThatIsBack(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	s := NewServer()
	go s.Serve(ln)
	defer s.Stop()
	var back atomic.Bool
	p := &Pool{
		backoff: &backoff.Config{BaseDelay: time.Hour, MaxDelay: time.Hour},
		// A listener that closes, and opens again on the same port, may find that another test has the port.
		Wrap: func(_ string, conn net.Conn) net.Conn {
			if !back.Load() {
				conn.Close()
			}
			return conn
		},
	}
	defer p.Close()
	conn, err := p.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	call := func() codes.Code {
		return status.Code(conn.Invoke(t.Context(), "/any/method", new(emptypb.Empty), new(emptypb.Empty)))
	}
	p.Wake(addr) // nothing waits yet
	if c := call(); c != codes.Unavailable {
		t.Fatalf("a node that is away answers: %s", c)
	}
	back.Store(true)
	if c := call(); c != codes.Unavailable {
		t.Fatalf("its connection does not wait: %s", c)
	}
	p.Wake(addr)
	for begun := time.Now(); call() != codes.Unimplemented; time.Sleep(time.Millisecond) { // that it answers
		if time.Since(begun) > 20*time.Second {
			t.Fatal("its connection still waits")
		}
	}
}
