package rpc

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"concord/internal/trust"
)

const testSecret = trust.Secret("what all nodes share")

// mustServe serves no methods behind a guard.
func mustServe(t *testing.T, g *Guard) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(g.Option())
	RegisterReplicationServer(s, UnimplementedReplicationServer{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(g.Listener(ln)) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// ready sends bytes that are there already as a message.
type ready struct{}

func (ready) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (ready) Unmarshal([]byte, any) error   { return nil }
func (ready) Name() string                  { return "proto" }

// A call without the secret is refused by its headers. What it sends is not kept, and costs no memory.
func TestCallsWithoutTheSecretAreRefusedBeforeTheirMessages(t *testing.T) {
	addr := mustServe(t, NewGuard(testSecret))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	open := func() grpc.ClientStream {
		desc := &grpc.StreamDesc{ClientStreams: true}
		s, err := conn.NewStream(ctx, desc, Replication_WriteShard_FullMethodName, grpc.ForceCodec(ready{}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := open().RecvMsg(nil); status.Code(err) != codes.Unauthenticated {
		t.Fatalf("before the message: %v", err)
	}
	message := make([]byte, 63<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var calls sync.WaitGroup
	for range 24 {
		calls.Go(func() {
			s := open()
			s.SendMsg(message)
			if err := s.RecvMsg(nil); status.Code(err) != codes.Unauthenticated {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(len(message)) {
		t.Errorf("24 messages of %d bytes took %d bytes", len(message), n)
	}
}

func TestCallsWithTheSecretAreServed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		server, client trust.Secret
		code           codes.Code
	}{
		"right":    {testSecret, testSecret, codes.Unimplemented},
		"wrong":    {testSecret, "another", codes.Unauthenticated},
		"not open": {testSecret, "", codes.Unauthenticated},
		"open":     {"", "", codes.Unimplemented},
	} {
		pool := &Pool{Secret: tt.client}
		conn, err := pool.Conn(mustServe(t, NewGuard(tt.server)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = NewReplicationClient(conn).WriteShard(context.Background(), &WriteShardRequest{})
		if status.Code(err) != tt.code {
			t.Errorf("%s: %v, want %v", name, err, tt.code)
		}
		pool.Close()
	}
}

// fakeConn is a connection from an address.
type fakeConn struct {
	net.Conn
	addr   string
	closed atomic.Bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(c.addr) }
func (c *fakeConn) Close() error         { c.closed.Store(true); return nil }

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

// Connections that prove nothing are few, and end soon. They do not end those of nodes.
func TestConnectionsWithoutTheSecretAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(testSecret)
		meet := func(addr string) *fakeConn {
			c := &fakeConn{addr: addr}
			g.meet(c)
			return c
		}
		node := meet("node")
		g.admit("node")
		var strangers []*fakeConn
		for i := range maxStrangers + 10 {
			strangers = append(strangers, meet(fmt.Sprint(i)))
			time.Sleep(time.Millisecond) // in the bubble's time
		}
		synctest.Wait()
		for i, c := range strangers {
			if c.closed.Load() != (i < 10) {
				t.Errorf("connection %d: closed is %v", i, c.closed.Load())
			}
		}
		again := meet("20") // from the same port as one that ended
		g.admit("20")
		time.Sleep(strangerTime)
		synctest.Wait()
		for i, c := range strangers {
			if i != 20 && !c.closed.Load() {
				t.Errorf("connection %d is still open", i)
			}
		}
		if node.closed.Load() || again.closed.Load() {
			t.Error("the connection of a node ended")
		}
		if len(g.strangers) != 0 {
			t.Errorf("%d connections are still counted", len(g.strangers))
		}
	})
}
