package rpc

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"concord/internal/protocol"
)

// versioned is a node of a build that speaks a version, and counts the queries that it ends.
type versioned struct {
	UnimplementedMembershipServer
	UnimplementedOverviewServer
	version atomic.Uint32
	killed  atomic.Int64
	fails   error // of KillQuery
}

func (v *versioned) Identify(context.Context, *IdentifyRequest) (*IdentifyResponse, error) {
	return &IdentifyResponse{Protocol: v.version.Load()}, nil
}

func (v *versioned) KillQuery(context.Context, *KillQueryRequest) (*KillQueryResponse, error) {
	v.killed.Add(1)
	return &KillQueryResponse{}, v.fails
}

// serveAt serves a node at an address until stop is called.
func serveAt(t *testing.T, v *versioned, addr string, opts ...grpc.ServerOption) (at string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s, done := NewServer(opts...), make(chan struct{})
	RegisterMembershipServer(s, v)
	RegisterOverviewServer(s, v)
	go func() { defer close(done); s.Serve(ln) }()
	stop = func() { s.Stop(); <-done }
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func TestCallsOfNodesThatAreTooOldAreRefused(t *testing.T) {
	t.Parallel()
	var refused []string
	v := &versioned{}
	v.version.Store(3)
	addr, _ := serveAt(t, v, "127.0.0.1:0", Speaking(protocol.Speaks{Current: 3, Oldest: 2}, func(_ string, err error) {
		refused = append(refused, err.Error())
	})...)
	call := func(speaks protocol.Speaks) error {
		conn := mustConn(t, &Pool{Speaks: speaks}, addr)
		_, err := NewOverviewClient(conn).KillQuery(t.Context(), &KillQueryRequest{})
		if _, streamErr := NewOverviewClient(conn).Report(t.Context(), &ReportRequest{}); status.Code(streamErr) ==
			codes.Unavailable != (err != nil) {
			t.Errorf("%+v: one call is refused and another one is not: %v, %v", speaks, err, streamErr)
		}
		return err
	}
	for _, speaks := range []protocol.Speaks{
		{Current: 2, Oldest: 1}, {Current: 3, Oldest: 2}, {Current: 9, Oldest: 1},
	} {
		if err := call(speaks); err != nil {
			t.Errorf("%+v: %v", speaks, err)
		}
	}
	before := v.killed.Load()
	err := call(protocol.Speaks{Current: 1, Oldest: 1})
	// As of a node that is away: what is kept for this one stays.
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "may not be mixed") {
		t.Errorf("a node that is too old gets %v", err)
	}
	if v.killed.Load() != before || len(refused) == 0 {
		t.Errorf("its call was carried out, or the node was not told: %v", refused)
	}
	// A build from before there was a version says nothing.
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = NewOverviewClient(conn).KillQuery(t.Context(), &KillQueryRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a node that says nothing gets %v", err)
	}
}

// A newer node does not call one that is too old for it, which would carry out the call. It looks again after each new
// connection, because the node may have been upgraded, or taken back to an earlier version.
func TestNodesThatAreTooOldAreNotCalled(t *testing.T) {
	t.Parallel()
	v := &versioned{}
	addr, stop := serveAt(t, v, "127.0.0.1:0")
	client := NewOverviewClient(mustConn(t, &Pool{Speaks: protocol.Speaks{Current: 3, Oldest: 2}}, addr))
	// call tries again where the end of the connection to a node that was restarted is not known yet.
	call := func() (err error) {
		for range 1000 {
			_, err = client.KillQuery(t.Context(), &KillQueryRequest{}, grpc.WaitForReady(true))
			if err == nil || strings.Contains(err.Error(), "may not be mixed") {
				return err
			}
		}
		return err
	}
	restart := func(version uint32) {
		t.Helper()
		stop()
		v.version.Store(version)
		_, stop = serveAt(t, v, addr)
	}
	for _, version := range []uint32{0, 1} { // 0 is of a build that knows no versions
		restart(version)
		if err := call(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "may not be mixed") {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if n := v.killed.Load(); n != 0 {
		t.Errorf("%d calls were carried out", n)
	}
	restart(2)
	if err := call(); err != nil {
		t.Error("after an upgrade: ", err)
	}
	if n := v.killed.Load(); n != 1 {
		t.Errorf("%d calls were carried out after an upgrade", n)
	}
	restart(1)
	if err := call(); err == nil {
		t.Error("after the way back to an earlier version, the node is called")
	}
}

// The error of a peer that could not ask a third node is not taken for one of this node's: the call was carried out.
func TestCallThatFailsAtThePeerIsNotRepeated(t *testing.T) {
	t.Parallel()
	v := &versioned{fails: status.FromProto(status.Convert(errNotAsked).Proto()).Err()}
	v.version.Store(2)
	addr, _ := serveAt(t, v, "127.0.0.1:0")
	client := NewOverviewClient(mustConn(t, &Pool{Speaks: protocol.Speaks{Current: 3, Oldest: 2}}, addr))
	if _, err := client.KillQuery(t.Context(), &KillQueryRequest{}); err == nil || v.killed.Load() != 1 {
		t.Errorf("the call was carried out %d times, and ends with %v", v.killed.Load(), err)
	}
}
