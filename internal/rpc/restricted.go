package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"concord/internal/restrict"
)

// Questions for a user with restrictions go to a service of their own, which has the methods of Query: a node of a
// version that knows no restrictions does not have it, and so cannot answer with what the user may not see. The filter
// travels in the header of the call.

// filterKey is the gRPC metadata key with the filter.
const filterKey = "concord-restrictions-bin"

// RestrictedQuery_ServiceDesc is the service Query for users with restrictions. The context of each call that it hands
// to its server carries the filter: restrict.Of.
var RestrictedQuery_ServiceDesc = restrictedDesc()

const restrictedName = "concord.v1.RestrictedQuery"

// asQuery is the method of Query that a method of the service for users with restrictions is; others stay.
func asQuery(method string) string {
	if name, ok := strings.CutPrefix(method, "/"+restrictedName); ok {
		return "/" + Query_ServiceDesc.ServiceName + name
	}
	return method
}

func restrictedDesc() grpc.ServiceDesc {
	d := Query_ServiceDesc
	d.ServiceName = restrictedName
	d.Methods, d.Streams = nil, nil
	for _, m := range Query_ServiceDesc.Methods {
		handle := m.Handler
		m.Handler = func(
			srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor,
		) (any, error) {
			// The filter comes last: who may call at all is decided before.
			return handle(srv, ctx, dec, func(
				ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
			) (any, error) {
				with := func(ctx context.Context, req any) (any, error) {
					ctx, err := filtered(ctx)
					if err != nil {
						return nil, err
					}
					return next(ctx, req)
				}
				if interceptor == nil {
					return with(ctx, req)
				}
				return interceptor(ctx, req, info, with)
			})
		}
		d.Methods = append(d.Methods, m)
	}
	for _, s := range Query_ServiceDesc.Streams {
		handle := s.Handler
		s.Handler = func(srv any, stream grpc.ServerStream) error {
			ctx, err := filtered(stream.Context())
			if err != nil {
				return err
			}
			return handle(srv, streamWith{stream, ctx})
		}
		d.Streams = append(d.Streams, s)
	}
	return d
}

// filtered returns the context of a call with the filter of its header.
func filtered(ctx context.Context) (context.Context, error) {
	values := metadata.ValueFromIncomingContext(ctx, filterKey)
	if len(values) != 1 {
		return nil, status.Error(codes.InvalidArgument, "the call has no restrictions")
	}
	f, err := restrict.Decode([]byte(values[0]))
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return restrict.With(ctx, f), nil
}

// streamWith is a stream with another context.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWith) Context() context.Context { return s.ctx }

// NewFilteredQueryClient is NewQueryClient for a user with restrictions; a nil filter is none.
func NewFilteredQueryClient(c grpc.ClientConnInterface, f *restrict.Filter) (QueryClient, error) {
	if f == nil {
		return NewQueryClient(c), nil
	}
	header, err := f.Encode()
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return NewQueryClient(filteredConn{c, string(header)}), nil
}

// filteredConn sends calls of Query to the service for users with restrictions.
type filteredConn struct {
	grpc.ClientConnInterface
	header string
}

func (c filteredConn) redirect(ctx context.Context, method string) (context.Context, string) {
	return metadata.AppendToOutgoingContext(ctx, filterKey, c.header),
		"/" + restrictedName + method[strings.LastIndex(method, "/"):]
}

func (c filteredConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, method = c.redirect(ctx, method)
	return former(c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...))
}

func (c filteredConn) NewStream(
	ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	ctx, method = c.redirect(ctx, method)
	s, err := c.ClientConnInterface.NewStream(ctx, d, method, opts...)
	if err != nil {
		return nil, former(err)
	}
	return formerStream{s}, nil
}

type formerStream struct{ grpc.ClientStream }

func (s formerStream) RecvMsg(m any) error { return former(s.ClientStream.RecvMsg(m)) }

// former says in plain words that a node lacks the service. Callers that have another way to ask nodes of former builds
// must not take it.
func former(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return status.Error(codes.FailedPrecondition,
			"its version knows no fine-grained authorization, so that it cannot "+
				"answer a user with restrictions: install the same version on all data nodes")
	}
	return err
}
