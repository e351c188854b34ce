package rpc

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Stopping ends the queries of other nodes with an error of their own, when the server stops. Who asked then knows that
// the node did not end because of the query.
type Stopping struct {
	ctx    context.Context
	cancel context.CancelFunc
	limit  time.Duration // for calls to end
}

// NewStopping returns the end of one server.
func NewStopping() *Stopping {
	s := &Stopping{limit: stopTime}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// stopTime is how long calls may take to end.
const stopTime = time.Second

// Stop ends the queries, and the server when all calls have ended. It reports whether the server has ended. A call that
// does not end soon is not waited for: it may wait for who stops the server. Its connection ends, and the server ends
// with it.
func (s *Stopping) Stop(server *grpc.Server) (ended bool) {
	s.cancel()
	all := make(chan struct{})
	go func() {
		defer close(all)
		server.GracefulStop()
	}()
	hard := time.NewTimer(s.limit)
	defer hard.Stop()
	select {
	case <-all:
		return true
	case <-hard.C:
		go server.Stop() // it waits for GracefulStop, once it has closed the connections
		return false
	}
}

// Options make a server one whose queries end.
func (s *Stopping) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (any, error) {
			if !isQuery(info.FullMethod) {
				return handler(ctx, req)
			}
			ctx, end := s.join(ctx)
			defer end()
			resp, err := handler(ctx, req)
			return resp, s.why(err)
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
		) error {
			if !isQuery(info.FullMethod) {
				return handler(srv, ss)
			}
			ctx, end := s.join(ss.Context())
			defer end()
			return s.why(handler(srv, streamWith{ss, ctx}))
		}),
	}
}

func isQuery(method string) bool {
	return strings.HasPrefix(asQuery(method), "/"+Query_ServiceDesc.ServiceName+"/")
}

// join is ctx, and ends when the server stops.
func (s *Stopping) join(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// why is the error of a call that failed.
func (s *Stopping) why(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return status.Error(codes.Unavailable, "the data node stops")
	}
	return err
}
