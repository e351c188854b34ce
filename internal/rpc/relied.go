package rpc

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The gRPC metadata keys of a Reliance. The numbers are decimal.
const (
	reliedKey  = "concord-metadata-index"
	clusterKey = "concord-cluster-id" // nodes of an earlier build do not send it
)

// Reliance is the metadata that a request relies on: its sender's copy.
type Reliance struct {
	ClusterID uint64 // of the cluster that the metadata is of; 0 when the sender does not say
	Index     uint64 // that the copy has; 0 for none
}

// relying makes calls carry what relies returns.
func relying(relies func() Reliance) []grpc.DialOption {
	with := func(ctx context.Context) context.Context {
		if r := relies(); r.Index > 0 {
			return metadata.AppendToOutgoingContext(ctx, reliedKey, strconv.FormatUint(r.Index, 10),
				clusterKey, strconv.FormatUint(r.ClusterID, 10))
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

// Relied is what the sender of an incoming request relies on.
func Relied(ctx context.Context) Reliance {
	number := func(key string) uint64 {
		for _, v := range metadata.ValueFromIncomingContext(ctx, key) {
			if i, err := strconv.ParseUint(v, 10, 64); err == nil {
				return i
			}
		}
		return 0
	}
	return Reliance{ClusterID: number(clusterKey), Index: number(reliedKey)}
}

// CatchingUp makes a server call catchUp with what a request relies on, before it is served. Requests are served also
// when catchUp had to give up.
func CatchingUp(catchUp func(ctx context.Context, relied Reliance)) []grpc.ServerOption {
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

// IsBehind reports whether the error of a CatchUp is of a node that may serve clients with older metadata. A node that
// cannot be reached may be down, and one that says that it is in no cluster, or in another one, serves none of these
// clients.
func IsBehind(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.Unavailable, codes.FailedPrecondition:
		return false
	}
	return true
}
