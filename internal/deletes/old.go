package deletes

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// OldServer answers nodes of the version before service Deletes. They send everything by Execute, with flags.
type OldServer struct{ s *Server }

// OldServer returns the server for nodes of the version before.
func (d *Service) OldServer() OldServer { return OldServer{d.Server()} }

// Hint is HintDelete.
func (o OldServer) Hint(ctx context.Context, r *rpc.HintDeleteRequest) (*rpc.HintDeleteResponse, error) {
	return o.s.HintDelete(ctx, r)
}

// Execute is each other call of service Deletes, as its flags say.
func (o OldServer) Execute(_ context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	d := o.s.d
	if r.AnnounceOnly && r.Ended && r.Id == "" && r.SenderNode != 0 {
		d.deps.Memory.endBefore(r.SenderNode, start{at: r.Started})
		return &rpc.ExecuteResponse{}, nil
	}
	run, err := o.runs(r)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Kind, err)
	}
	if err := d.heard(r.Version); err != nil {
		return &rpc.ExecuteResponse{Error: err.Error()}, nil
	}
	switch {
	case r.Bounds != nil: // it concerned what waited before it in the queue of its sender
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly && (isDrop(r) || r.Id == ""):
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly && r.Ended:
		d.deps.Memory.end(r.Database, r.Id)
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly:
		d.deps.Memory.announce(newDelete(r), announcer{
			at: time.Now(), node: r.SenderNode, started: start{at: r.Started},
		})
		return &rpc.ExecuteResponse{Clock: d.now()}, nil
	}
	failed, err := o.s.ran(run())
	if err != nil {
		return nil, err
	}
	return &rpc.ExecuteResponse{Error: failed, Clock: d.now()}, nil
}

// runs returns what runs a statement, or why there can be no such statement.
func (o OldServer) runs(r *rpc.ExecuteRequest) (run func() error, err error) {
	if isDrop(r) {
		drop := newDrop(r)
		return func() error { return o.s.d.dropShards(drop) }, checkDrop(drop)
	}
	del := newDelete(r)
	if r.Id == "" {
		return func() error { return o.s.d.runDelete(del, r.Hinted) }, check(del)
	}
	return func() error { return o.s.d.runOnce(del, r.Hinted) }, check(del)
}

// execute is Execute without what a store says.
func (p peer) execute(ctx context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	resp, err := p.old.Execute(ctx, r)
	if err == nil && resp.Error != "" {
		err = errors.New(resp.Error)
	}
	return resp, err
}

func isDrop(r *rpc.ExecuteRequest) bool {
	switch r.Kind {
	case rpc.ExecuteRequest_DROP_DATABASE, rpc.ExecuteRequest_DROP_RETENTION_POLICY, rpc.ExecuteRequest_DROP_SHARD:
		return true
	}
	return false
}

func newDelete(r *rpc.ExecuteRequest) *rpc.Delete {
	return &rpc.Delete{
		Kind: rpc.Delete_Kind(r.Kind), Database: r.Database, Name: r.Name, Statement: r.Statement, Id: r.Id,
		Version: r.Version, Bounds: r.Bounds,
	}
}

func newDrop(r *rpc.ExecuteRequest) *rpc.DropShardsRequest {
	switch r.Kind {
	case rpc.ExecuteRequest_DROP_DATABASE:
		return &rpc.DropShardsRequest{What: &rpc.DropShardsRequest_Database{Database: r.Database}}
	case rpc.ExecuteRequest_DROP_RETENTION_POLICY:
		policy := &rpc.DropRetentionPolicy{Database: r.Database, Name: r.Name}
		return &rpc.DropShardsRequest{What: &rpc.DropShardsRequest_RetentionPolicy{RetentionPolicy: policy}}
	}
	return &rpc.DropShardsRequest{What: &rpc.DropShardsRequest_ShardId{ShardId: r.ShardId}}
}

func oldDelete(r *rpc.Delete) *rpc.ExecuteRequest {
	return &rpc.ExecuteRequest{
		Kind: rpc.ExecuteRequest_Kind(r.Kind), Database: r.Database, Name: r.Name, Statement: r.Statement, Id: r.Id,
		Version: r.Version, Bounds: r.Bounds,
	}
}

func oldAnnouncement(r *rpc.AnnounceDeleteRequest) *rpc.ExecuteRequest {
	out := oldDelete(r.Delete)
	out.AnnounceOnly, out.SenderNode, out.Started, out.Version = true, r.SenderNode, r.Started, r.Clock
	return out
}

func oldRun(r *rpc.RunDeleteRequest) *rpc.ExecuteRequest {
	out := oldDelete(r.Delete)
	out.Hinted = r.Hinted
	return out
}

// oldEnd says which delete ended by its ID; that it names a measurement is for the check of its receiver alone.
func oldEnd(r *rpc.EndDeleteRequest) *rpc.ExecuteRequest {
	return &rpc.ExecuteRequest{
		Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Name: "-", Database: r.Database, Id: r.Id, Version: r.Version,
		AnnounceOnly: true, Ended: true,
	}
}

func oldEndBefore(r *rpc.EndDeletesBeforeRequest) *rpc.ExecuteRequest {
	return &rpc.ExecuteRequest{
		Kind: rpc.ExecuteRequest_DELETE_SERIES, AnnounceOnly: true, Ended: true,
		SenderNode: r.SenderNode, Started: r.Started,
	}
}

func oldDrop(r *rpc.DropShardsRequest) *rpc.ExecuteRequest {
	switch what := r.What.(type) {
	case *rpc.DropShardsRequest_Database:
		return &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: what.Database}
	case *rpc.DropShardsRequest_RetentionPolicy:
		return &rpc.ExecuteRequest{
			Kind:     rpc.ExecuteRequest_DROP_RETENTION_POLICY,
			Database: what.RetentionPolicy.GetDatabase(), Name: what.RetentionPolicy.GetName(),
		}
	}
	return &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_SHARD, ShardId: r.GetShardId()}
}
