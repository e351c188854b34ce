package rpc

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"concord/internal/protocol"
	"concord/internal/trust"
)

// ServesNothing is in the error of a node that refuses all calls, because it is not proven who it is.
const ServesNothing = "serves nothing"

// MaxMessage bounds one message in bytes, in both directions.
const MaxMessage = 64 << 20

const (
	maxHeader  = 64 << 10 // bytes of the headers of one call
	maxStreams = 1 << 14  // calls at the same time on one connection
)

// Pool keeps one connection for each address. Connections are made when first
// used, shared by all callers, and re-made by gRPC when they break.
type Pool struct {
	// Blocked, when set, refuses calls to an address: the seam with which
	// tests and the tour cut links.
	Blocked func(addr string) bool
	// Wrap, when set, gets each new connection to an address: the seam with which tests have nodes hang.
	Wrap func(addr string, conn net.Conn) net.Conn
	// Secret, when set before the first call, is proven with every call.
	Secret trust.Secret
	// TLS, when set before the first call, makes the connections.
	TLS *tlsconfig.TLSConfigManager
	// DialTimeout, when set before the first call, is how long making a connection may take; 5 s otherwise.
	DialTimeout time.Duration
	// Speaks, when set before the first call, is which protocol this node speaks; that of this build otherwise.
	Speaks protocol.Speaks
	// Relies, when set before the first call, is the metadata that calls rely on.
	Relies func() Reliance

	called  called
	backoff *backoff.Config // of tests; pauses otherwise

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn
	closed bool
}

// Conn returns the connection to addr (host:port). It does not wait for the
// peer: a call on it fails with codes.Unavailable while the peer is away.
func (p *Pool) Conn(addr string) (*grpc.ClientConn, error) {
	if p.Blocked != nil && p.Blocked(addr) {
		return nil, fmt.Errorf("link to %s is cut", addr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("connection pool is closed")
	}
	if c := p.conns[addr]; c != nil {
		return c, nil
	}
	c, err := p.dial(addr, false)
	if err != nil {
		return nil, err
	}
	if p.conns == nil {
		p.conns = make(map[string]*grpc.ClientConn)
	}
	p.conns[addr] = c
	return c, nil
}

// Now connects at once where a connection waits after attempts that failed, and returns when it is there, or after a
// second: the node may have been started a moment ago.
func Now(ctx context.Context, conn *grpc.ClientConn) {
	const limit = time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn.ResetConnectBackoff()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready && conn.WaitForStateChange(ctx, s); s = conn.GetState() {
		conn.Connect()
	}
}

// Wake connects at once to a node that was heard, where its connection waits after attempts that failed. It does not
// wait for the connection, which takes some milliseconds.
func (p *Pool) Wake(addr string) {
	p.mu.Lock()
	c := p.conns[addr]
	p.mu.Unlock()
	if c != nil && c.GetState() == connectivity.TransientFailure {
		c.ResetConnectBackoff()
	}
}

// Own returns a connection to addr that the caller closes. It connects at once, where one of the pool may wait after
// attempts that failed.
func (p *Pool) Own(addr string) (*grpc.ClientConn, error) {
	if p.Blocked != nil && p.Blocked(addr) {
		return nil, fmt.Errorf("link to %s is cut", addr)
	}
	return p.dial(addr, true)
}

// pauses are between attempts to connect: a peer that is back is found within seconds.
var pauses = backoff.Config{
	BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second,
}

func (p *Pool) dial(addr string, single bool) (*grpc.ClientConn, error) {
	speaks := &speaking{Speaks: cmp.Or(p.Speaks, protocol.Own), addr: addr}
	opts := append(speaks.options(), p.called.option(single))
	if p.Secret != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{&trust.Signer{Secret: p.Secret}}))
	}
	if p.Relies != nil {
		opts = append(opts, relying(p.Relies)...)
	}
	if p.TLS != nil && p.TLS.UseTLS() || p.Wrap != nil || p.DialTimeout > 0 {
		opts = append(opts, grpc.WithContextDialer(p.connect))
	}
	c, err := grpc.NewClient("passthrough:///"+addr, append(opts,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		// A peer that hangs is given up after 15 s, whatever it was asked.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           *cmp.Or(p.backoff, &pauses),
			MinConnectTimeout: cmp.Or(p.DialTimeout, 5*time.Second),
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return c, nil
}

// connect makes one connection.
func (p *Pool) connect(ctx context.Context, addr string) (conn net.Conn, err error) {
	if p.DialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.DialTimeout)
		defer cancel()
	}
	if p.TLS != nil && p.TLS.UseTLS() {
		conn, err = p.TLS.DialContext(ctx, "tcp", addr)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	if err == nil && p.Wrap != nil {
		conn = p.Wrap(addr, conn)
	}
	return conn, err
}

// Close ends all connections; calls in flight fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	return nil
}

// NewServer returns a gRPC server with the limits that all nodes share.
func NewServer(opts ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage), grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(strangerTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: 5 * time.Second, PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}, opts...)...)
}

// Message is what a peer said of an error, without gRPC's wrapping.
func Message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
