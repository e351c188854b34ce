package rpc

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// reliedKey is the gRPC metadata key with the index of the cluster's metadata that a request relies on: that of its
// sender's copy. The number is decimal.
const reliedKey = "concord-metadata-index"

// relying makes calls carry the index that index returns. 0 is none.
func relying(index func() uint64) []grpc.DialOption {
	with := func(ctx context.Context) context.Context {
		if i := index(); i > 0 {
			return metadata.AppendToOutgoingContext(ctx, reliedKey, strconv.FormatUint(i, 10))
		}
		return ctx
	}
	unary := func(
		ctx context.Context, method string, req, reply any, c *grpc.ClientConn, call grpc.UnaryInvoker,
		opts ...grpc.CallOption,
	) error {
		return call(with(ctx), method, req, reply, c, opts...)
	}
	stream := func(
		ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer,
		opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		return open(with(ctx), d, c, method, opts...)
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

// Relied is the index of the metadata that the sender of an incoming request relies on, 0 when it does not say.
func Relied(ctx context.Context) uint64 {
	for _, v := range metadata.ValueFromIncomingContext(ctx, reliedKey) {
		if i, err := strconv.ParseUint(v, 10, 64); err == nil {
			return i
		}
	}
	return 0
}

// CatchingUp makes a server call catchUp with the index that a request relies on, before it is served. Requests are
// served also when catchUp had to give up.
func CatchingUp(catchUp func(ctx context.Context, index uint64)) []grpc.ServerOption {
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		catchUp(ctx, Relied(ctx))
		return next(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		catchUp(ss.Context(), Relied(ss.Context()))
		return next(srv, ss)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}
