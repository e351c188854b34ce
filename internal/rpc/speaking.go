package rpc

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"concord/internal/protocol"
)

// speaking makes the calls of one connection tell which protocol this node speaks. When this node does not work with
// every version, it asks the peer for its version before the first call, and again after each new connection.
type speaking struct {
	protocol.Speaks
	addr string

	mu      sync.Mutex
	allowed bool // the peer of this connection
}

// reset is called when the connection has ended: another build may answer next.
func (s *speaking) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = false
}

func (s *speaking) with(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, protocol.Header, s.Text())
}

// ask returns an error unless this node may call the peer.
func (s *speaking) ask(ctx context.Context, method string, c *grpc.ClientConn) error {
	if s.Oldest <= 1 || method == Membership_Identify_FullMethodName {
		return nil
	}
	s.mu.Lock()
	allowed := s.allowed
	s.mu.Unlock()
	if allowed {
		return nil
	}
	who, err := NewMembershipClient(c).Identify(ctx, &IdentifyRequest{})
	if err != nil {
		return err
	}
	if err := s.With(s.addr, max(who.Protocol, 1)); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	s.mu.Lock()
	s.allowed = true
	s.mu.Unlock()
	return nil
}

func (s *speaking) options() []grpc.DialOption {
	unary := func(
		ctx context.Context, method string, req, reply any, c *grpc.ClientConn, call grpc.UnaryInvoker,
		opts ...grpc.CallOption,
	) error {
		if err := s.ask(ctx, method, c); err != nil {
			return err
		}
		return call(s.with(ctx), method, req, reply, c, opts...)
	}
	stream := func(
		ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer,
		opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		if err := s.ask(ctx, method, c); err != nil {
			return nil, err
		}
		return open(s.with(ctx), d, c, method, opts...)
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

// Speaking makes a server refuse the calls of nodes whose protocol is too old for it. refused is told of each such
// call.
func Speaking(own protocol.Speaks, refused func(addr string, err error)) []grpc.ServerOption {
	check := func(ctx context.Context) error {
		version, addr := uint32(1), "at an unknown address"
		if v := metadata.ValueFromIncomingContext(ctx, protocol.Header); len(v) > 0 {
			version = protocol.Parse(v[0])
		}
		if version >= own.Oldest {
			return nil
		}
		if p, ok := peer.FromContext(ctx); ok {
			addr = p.Addr.String()
		}
		err := own.With(addr, version)
		refused(addr, err)
		return status.Error(codes.Unavailable, err.Error())
	}
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := check(ctx); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := check(ss.Context()); err != nil {
			return err
		}
		return next(srv, ss)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}
