package deletes

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// Server does what other nodes ask of this one.
type Server struct{ d *Service }

// Server returns the server for other nodes.
func (d *Service) Server() Server { return Server{d} }

// Execute runs a statement on this node's store alone.
func (s Server) Execute(_ context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	s.d.heard(r.Version) // what comes after the delete has a greater one
	if r.AnnounceOnly && r.Ended && r.Id == "" && r.SenderNode != 0 {
		s.d.deps.Memory.restarted(r.SenderNode, r.Started)
		return &rpc.ExecuteResponse{}, nil
	}
	if err := check(r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Kind, err)
	}
	if r.Bounds != nil {
		return &rpc.ExecuteResponse{}, nil // it concerned what waited before it in the queue of its sender
	}
	deletes := isDelete(r.Kind) && r.Id != ""
	switch {
	case r.AnnounceOnly && !deletes:
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly && r.Ended:
		s.d.deps.Memory.ended(r)
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly:
		s.d.deps.Memory.announced(r, announcer{time.Now(), r.SenderNode, r.Started})
	case deletes:
		return s.ran(s.d.runOnce(r))
	default:
		return s.ran(s.d.runDelete(r))
	}
	return &rpc.ExecuteResponse{Clock: s.d.now()}, nil
}

// ran is the answer to a statement that ran here.
func (s Server) ran(err error) (*rpc.ExecuteResponse, error) {
	if neverRuns(err) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	out := &rpc.ExecuteResponse{Clock: s.d.now()}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}

// Hint keeps a delete for nodes that its sender did not reach.
func (s Server) Hint(_ context.Context, r *rpc.HintRequest) (*rpc.HintResponse, error) {
	if r.Delete == nil || !isDelete(r.Delete.Kind) {
		return nil, status.Error(codes.InvalidArgument, "a hint needs a delete")
	} else if err := check(r.Delete); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Delete.Kind, err)
	}
	if err := s.d.hint(r.Delete, r.Nodes); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &rpc.HintResponse{}, nil
}
