package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"concord/internal/trust"
)

// Guard lets calls in that carry a token signed with the shared secret. Without a secret it lets in all.
func Guard(secret trust.Secret) []grpc.ServerOption {
	if secret == "" {
		return nil
	}
	check := func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		refused := trust.ErrRefused
		for _, v := range md.Get("authorization") {
			token, ok := strings.CutPrefix(v, "Bearer ")
			if !ok {
				continue
			}
			if refused = secret.Verify(token); refused == nil {
				return nil
			}
		}
		return status.Error(codes.Unauthenticated, refused.Error())
	}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := check(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := check(ss.Context()); err != nil {
				return err
			}
			return next(srv, ss)
		}),
	}
}

// bearer sends a token with every call.
type bearer struct{ signer *trust.Signer }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t, err := b.signer.Token()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + t}, nil
}

// RequireTransportSecurity is false: TLS is the operator's choice, and below gRPC here.
func (bearer) RequireTransportSecurity() bool { return false }
