package rpc

import (
	"context"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"concord/internal/protocol"
)

// speaking makes the calls to one address tell which protocol this node speaks. When this node does not work with every
// version, it asks the peer for its version before the first call over each connection: another build may answer there.
type speaking struct {
	protocol.Speaks
	addr string
}

// connection stands for one connection: gRPC says with it over which one a call goes.
type connection struct {
	credentials.CommonAuthInfo
	allowed atomic.Bool // the peer speaks a version that this node works with
}

// AuthType is a part of credentials.AuthInfo.
func (*connection) AuthType() string { return "none" }

// named are credentials that give each connection a name of its own. They prove nothing.
type named struct {
	credentials.TransportCredentials
}

func (n named) Clone() credentials.TransportCredentials { return named{n.TransportCredentials.Clone()} }

func (n named) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	conn, _, err := n.TransportCredentials.ClientHandshake(ctx, authority, conn)
	none := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	return conn, &connection{CommonAuthInfo: none}, err
}

// errNotAsked ends a call before it is sent over a connection whose peer was not asked for its version.
var errNotAsked = status.Error(codes.Unavailable, "the other node was not asked for its version")

// GetRequestMetadata is called before a call is sent, and also before gRPC sends it again over another connection.
func (s *speaking) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	r, _ := credentials.RequestInfoFromContext(ctx)
	if c, ok := r.AuthInfo.(*connection); ok && !c.allowed.Load() && r.Method != Membership_Identify_FullMethodName {
		return nil, errNotAsked
	}
	return nil, nil
}

// RequireTransportSecurity is a part of credentials.PerRPCCredentials.
func (*speaking) RequireTransportSecurity() bool { return false }

// ask asks the peer for its version, and allows calls over the connection over which it answers.
func (s *speaking) ask(ctx context.Context, c *grpc.ClientConn) error {
	var p peer.Peer
	who, err := NewMembershipClient(c).Identify(ctx, &IdentifyRequest{}, grpc.Peer(&p))
	if err != nil {
		return err
	}
	if err := s.With(s.addr, max(who.Protocol, 1)); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if over, ok := p.AuthInfo.(*connection); ok {
		over.allowed.Store(true)
	}
	return nil
}

// call begins a call, which ends with errNotAsked where the peer has to be asked first.
func (s *speaking) call(ctx context.Context, c *grpc.ClientConn, begin func(context.Context) error) error {
	for range maxAsked {
		err := begin(metadata.AppendToOutgoingContext(ctx, protocol.Header, s.Text()))
		if err != errNotAsked { // the very one: a peer may answer with an equal one of its own
			return err
		}
		if err := s.ask(ctx, c); err != nil {
			return err
		}
	}
	return errNotAsked
}

// maxAsked is how many connections of one address may take the place of each other during a call.
const maxAsked = 10

func (s *speaking) options() []grpc.DialOption {
	unary := func(
		ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker,
		opts ...grpc.CallOption,
	) error {
		return s.call(ctx, c, func(ctx context.Context) error { return invoke(ctx, method, req, reply, c, opts...) })
	}
	stream := func(
		ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer,
		opts ...grpc.CallOption,
	) (opened grpc.ClientStream, err error) {
		err = s.call(ctx, c, func(ctx context.Context) error {
			opened, err = open(ctx, d, c, method, opts...)
			return err
		})
		return opened, err
	}
	options := []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
	none := insecure.NewCredentials()
	if s.Oldest <= 1 { // every version will do
		return append(options, grpc.WithTransportCredentials(none))
	}
	return append(options, grpc.WithTransportCredentials(named{none}), grpc.WithPerRPCCredentials(s))
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
