package rpc

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"concord/internal/trust"
)

// identity answers Identify alone.
type identity struct {
	UnimplementedMembershipServer
	called func()
}

func (i identity) Identify(context.Context, *IdentifyRequest) (*IdentifyResponse, error) {
	i.called()
	return &IdentifyResponse{}, nil
}

func mustIdentify(t *testing.T, called func(), opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(opts...)
	RegisterMembershipServer(s, identity{called: called})
	RegisterEntropyServer(s, UnimplementedEntropyServer{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

func mustConn(t *testing.T, p *Pool, addr string) *grpc.ClientConn {
	t.Helper()
	t.Cleanup(func() { p.Close() })
	conn, err := p.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// A request is served when its node has caught up with the metadata that the sender relies on.
func TestNodeCatchesUpBeforeItServes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []Reliance
	add := func(r Reliance) { mu.Lock(); defer mu.Unlock(); got = append(got, r) }
	served := Reliance{Index: 1 << 40}
	addr := mustIdentify(t, func() { add(served) }, CatchingUp(func(_ context.Context, r Reliance) { add(r) })...)
	var relied Reliance
	conn := mustConn(t, &Pool{Relies: func() Reliance { return relied }}, addr)
	some := Reliance{7, 42}
	for _, relied = range []Reliance{{}, some} {
		if _, err := NewMembershipClient(conn).Identify(t.Context(), &IdentifyRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := NewEntropyClient(conn).Digests(t.Context(), &RootRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []Reliance{{}, served, some, served, some}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A token that is out of time is refused for that, and not as one of another secret.
func TestGuardSaysThatClocksDiffer(t *testing.T) {
	t.Parallel()
	const secret = trust.Secret("s")
	conn := mustConn(t, &Pool{}, mustIdentify(t, func() {}, NewGuard(secret).Option()))
	for _, tt := range []struct {
		of   trust.Secret
		life time.Duration
		code codes.Code
		want string
	}{
		{secret, time.Minute, codes.OK, ""},
		{secret, -time.Minute, codes.Unauthenticated, "the clocks of the two nodes differ"},
		{"other", time.Minute, codes.Unauthenticated, "secret of the cluster is missing or wrong"},
	} {
		token, err := tt.of.Token(tt.life)
		if err != nil {
			t.Fatal(err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
		_, err = NewMembershipClient(conn).Identify(ctx, &IdentifyRequest{})
		if status.Code(err) != tt.code || !strings.Contains(status.Convert(err).Message(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
