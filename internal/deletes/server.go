package deletes

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/order"
	"concord/internal/rpc"
)

// Server does what other nodes ask of this one.
type Server struct {
	rpc.UnimplementedDeletesServer
	d *Service
}

// Server returns the server for other nodes.
func (d *Service) Server() *Server { return &Server{d: d} }

// AnnounceDelete begins to keep what is written here and a delete covers.
func (s *Server) AnnounceDelete(
	_ context.Context, r *rpc.AnnounceDeleteRequest,
) (*rpc.AnnounceDeleteResponse, error) {
	if err := valid(r.Delete); err != nil {
		return nil, err
	}
	if err := s.d.heard(r.Clock); err != nil { // what comes after the delete has a greater version
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	s.d.deps.Memory.announce(r.Delete, announcer{
		at: time.Now(), node: r.SenderNode, started: start{r.Started, r.Process},
	})
	return &rpc.AnnounceDeleteResponse{Clock: s.d.now()}, nil
}

// RunDelete runs a delete, unless it has run here before.
func (s *Server) RunDelete(_ context.Context, r *rpc.RunDeleteRequest) (*rpc.RunDeleteResponse, error) {
	if err := valid(r.Delete); err != nil {
		return nil, err
	}
	if err := s.d.heard(r.Delete.Version); err != nil {
		return &rpc.RunDeleteResponse{Error: err.Error()}, nil
	}
	if !r.Hinted && s.d.deps.Memory.counts.hasEnded(r.Delete.Id) && !s.d.ran(r.Delete.Id) {
		// Its coordinator crashed, and this message was late: other nodes may have heard that it does not run here.
		return &rpc.RunDeleteResponse{Error: "the delete has ended"}, nil
	}
	failed, err := s.ran(s.d.runOnce(r.Delete, r.Hinted))
	return &rpc.RunDeleteResponse{Error: failed, Mark: s.d.deps.Mark()}, err
}

// ran returns the error of the store as text, or as an error when the delete can never run.
func (s *Server) ran(err error) (failed string, _ error) {
	if neverRuns(err) {
		return "", status.Error(codes.InvalidArgument, err.Error())
	} else if err != nil {
		return err.Error(), nil
	}
	return "", nil
}

// HintDelete keeps a delete for nodes that its sender did not reach.
func (s *Server) HintDelete(_ context.Context, r *rpc.HintDeleteRequest) (*rpc.HintDeleteResponse, error) {
	if r.Delete == nil {
		return nil, status.Error(codes.InvalidArgument, "a hint needs a delete")
	} else if err := check(r.Delete); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Delete.Kind, err)
	}
	if err := s.d.hint(r.Delete, r.Nodes); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &rpc.HintDeleteResponse{}, nil
}

// EndDelete notes that a delete has ended.
func (s *Server) EndDelete(_ context.Context, r *rpc.EndDeleteRequest) (*rpc.EndDeleteResponse, error) {
	if checkDatabase(r.Database) != nil || r.Id == "" {
		return nil, status.Error(codes.InvalidArgument, "the end of a delete needs its database and its ID")
	}
	s.d.heard(r.Version)
	s.d.deps.HearMark(r.Mark)
	s.d.deps.Memory.end(r.Database, r.Id)
	return &rpc.EndDeleteResponse{}, nil
}

// EndDeletesBefore notes that the deletes have ended which a node announced before it started.
func (s *Server) EndDeletesBefore(
	_ context.Context, r *rpc.EndDeletesBeforeRequest,
) (*rpc.EndDeletesBeforeResponse, error) {
	started := start{r.Started, r.Process}
	after := s.d.deps.Memory.endBefore(r.SenderNode, started)
	if s.d.deps.Ran != nil && !r.Told {
		s.d.deps.Memory.halfRun.restarted(r.SenderNode, started, time.Now())
	}
	return &rpc.EndDeletesBeforeResponse{After: after}, nil
}

// RememberedDeletes sends the deletes that this node remembers.
func (s *Server) RememberedDeletes(
	r *rpc.RememberedDeletesRequest, stream grpc.ServerStreamingServer[rpc.Delete],
) error {
	if s.d.deps.Ran == nil {
		return nil // [hinted-handoff] enabled is false: nobody remembers deletes
	}
	if r.All && !s.d.deps.Ran.Learned() {
		return status.Error(codes.FailedPrecondition, errNotLearned.Error())
	}
	if s.d.deps.Memory.counts.runsAlone() {
		return status.Error(codes.Unavailable, "a delete runs here: ask again")
	}
	return s.d.deps.Ran.remembered(order.Version(r.Since), stream.Send)
}

// DropShards removes this node's copies of shards.
func (s *Server) DropShards(_ context.Context, r *rpc.DropShardsRequest) (*rpc.DropShardsResponse, error) {
	if err := checkDrop(r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "drop shards: %v", err)
	}
	if err := s.d.dropShards(r); err != nil {
		return &rpc.DropShardsResponse{Error: err.Error()}, nil
	}
	return &rpc.DropShardsResponse{}, nil
}

// valid refuses an invalid delete.
func valid(r *rpc.Delete) error {
	err := check(r)
	if err == nil && r.Id == "" {
		err = errors.New("no ID")
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "%v: %v", r.GetKind(), err)
	}
	return nil
}
