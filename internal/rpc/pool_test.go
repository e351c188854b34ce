package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// serve answers on addr until the returned function ends it, with all of its connections.
func serve(t *testing.T, addr string) (at string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	return ln.Addr().String(), func() { s.Stop(); <-done }
}

func TestLostConnectionIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	addr, stop := serve(t, "127.0.0.1:0")
	p := &Pool{}
	defer p.Close()
	c, err := p.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also of a server that came back
		lost := make(chan error, 1)
		go func() { lost <- p.Lost(ctx, addr) }()
		c.Connect()
		for s := c.GetState(); s != connectivity.Ready; s = c.GetState() {
			if s == connectivity.Idle {
				c.Connect()
			}
			if !c.WaitForStateChange(ctx, s) {
				t.Fatal("no connection")
			}
		}
		select {
		case err := <-lost:
			t.Fatalf("lost before it was: %v", err)
		default:
		}
		stop()
		if err := <-lost; err != nil {
			t.Fatal(err)
		}
		_, stop = serve(t, addr)
	}
	stop()
}

func TestLostEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := &Pool{}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Lost(ctx, "127.0.0.1:1"); err == nil {
		t.Error("a connection that never was is lost")
	}
	p.Blocked = func(string) bool { return true }
	if err := p.Lost(t.Context(), "127.0.0.1:1"); err == nil {
		t.Error("a link that is cut is lost")
	}
}
