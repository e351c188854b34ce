package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/rpc"
)

// Server answers other nodes. It trusts none of what they send. It has a method for each RPC.
type Server struct {
	rpc.UnimplementedEntropyServer
	rpc.UnimplementedReconcileServer
	rpc.UnimplementedPointsServer
	rpc.UnimplementedScrubServer
	rpc.UnimplementedResolveServer
	replica   entropy.Replica
	control   entropy.Control // nil when the service is off
	summaries chan struct{}   // one for each that is open
}

// NewServer returns a server over this node's copies and its service, which
// is nil when it is off: the copies can be compared and repaired by others all the same.
func NewServer(replica entropy.Replica, control entropy.Control) *Server {
	return &Server{replica: replica, control: control, summaries: make(chan struct{}, maxSummaries)}
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	rpc.RegisterEntropyServer(r, s)
	rpc.RegisterReconcileServer(r, s)
	rpc.RegisterPointsServer(r, s)
	rpc.RegisterScrubServer(r, s)
	rpc.RegisterResolveServer(r, s)
}

func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

func (s *Server) copies() (entropy.Replica, error) {
	if s.replica == nil {
		return nil, status.Error(codes.Unavailable, "the storage engine is not open")
	}
	return s.replica, nil
}

// failure gives an error the code that the client turns back into the same error.
func failure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, entropy.ErrUnknownShard):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, entropy.ErrDisabled):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if errors.Is(err, entropy.ErrOvertaken) {
		return status.Error(codes.Aborted, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// ShardStates tells about shards.
func (s *Server) ShardStates(ctx context.Context, r *rpc.ShardStatesRequest) (*rpc.ShardStatesResponse, error) {
	if len(r.ShardIds) > maxIDs {
		return nil, invalid(fmt.Errorf("%d shards are too many at once", len(r.ShardIds)))
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	states, err := rep.States(ctx, r.ShardIds)
	if err != nil {
		return nil, failure(err)
	}
	resp := &rpc.ShardStatesResponse{}
	for id, st := range states {
		resp.States = append(resp.States, &rpc.ShardState{
			ShardId: id, Exists: st.Exists, LastModified: st.LastModified, Size: st.Size, Hints: st.Hints,
			Begun: int64(st.Beginning), Deletes: st.Deletes, Corrupt: st.Corrupt, LackKind: string(st.Lack.Kind),
			LackWhy: st.Lack.Why, LackGen: st.Lack.Gen, LackAfter: string(st.Lack.After),
			Waiting: st.Waiting, Clock: st.Clock,
		})
	}
	return resp, nil
}

// Whole tells that a copy is equal to those of the other owners.
func (s *Server) Whole(ctx context.Context, r *rpc.WholeRequest) (*rpc.WholeResponse, error) {
	rep, err := s.copies()
	if err == nil {
		err = rep.Whole(ctx, r.ShardId, r.LackGen)
	}
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.WholeResponse{}, nil
}

// Discard removes a copy that is to be made anew.
func (s *Server) Discard(ctx context.Context, r *rpc.WholeRequest) (*rpc.WholeResponse, error) {
	rep, err := s.copies()
	if err == nil {
		err = rep.Discard(ctx, r.ShardId, r.LackGen)
	}
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.WholeResponse{}, nil
}

func rootShard(r *rpc.RootRequest) (cluster.Shard, error) {
	if r.ShardId == 0 || r.Start >= r.End {
		return cluster.Shard{}, invalid(fmt.Errorf("shard %d with the time range [%d, %d) is not valid",
			r.ShardId, r.Start, r.End))
	}
	return cluster.Shard{ID: r.ShardId, Start: r.Start, End: r.End}, nil
}

// Root is the sum over the windows of a shard.
func (s *Server) Root(ctx context.Context, r *rpc.RootRequest) (*rpc.RootResponse, error) {
	sh, err := rootShard(r)
	if err != nil {
		return nil, err
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	root, err := rep.Root(ctx, sh, r.Until)
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.RootResponse{Root: toSum(root)}, nil
}

// chunker gathers items until they fill a message.
type chunker[T proto.Message] struct {
	items []T
	size  int
	send  func([]T) error
}

func (c *chunker[T]) add(item T) error {
	n := proto.Size(item) + 8 // tag and length
	if c.size+n > chunkBytes {
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.items, c.size = append(c.items, item), c.size+n
	return nil
}

func (c *chunker[T]) flush() error {
	if len(c.items) == 0 {
		return nil
	}
	err := c.send(c.items)
	c.items, c.size = nil, 0
	return err
}

// Digests streams every series-field.
func (s *Server) Digests(r *rpc.RootRequest, stream grpc.ServerStreamingServer[rpc.DigestsChunk]) error {
	sh, err := rootShard(r)
	if err != nil {
		return err
	}
	rep, err := s.copies()
	if err != nil {
		return err
	}
	out := chunker[*rpc.SeriesField]{send: func(f []*rpc.SeriesField) error {
		return stream.Send(&rpc.DigestsChunk{Fields: f})
	}}
	err = rep.Digests(stream.Context(), sh, r.Until, func(f *digest.SeriesField) error {
		return out.add(toSeriesField(f))
	})
	if err == nil {
		err = out.flush()
	}
	return failure(err)
}

// Fetch streams the points of regions.
func (s *Server) Fetch(r *rpc.FetchRequest, stream grpc.ServerStreamingServer[rpc.FetchChunk]) error {
	regions, err := fromRegions(r.ShardId, r.Regions)
	if err != nil {
		return invalid(err)
	}
	limits := patch.Limits{Bytes: int(min(r.LimitBytes, math.MaxInt)), Points: int(min(r.LimitPoints, math.MaxInt))}
	rep, err := s.copies()
	if err != nil {
		return err
	}
	out := chunker[*rpc.Block]{send: func(b []*rpc.Block) error { return stream.Send(&rpc.FetchChunk{Blocks: b}) }}
	err = rep.Fetch(stream.Context(), cluster.Shard{ID: r.ShardId}, regions, limits, func(b patch.Block) error {
		b.Series, b.Data = append([]byte(nil), b.Series...), append([]byte(nil), b.Data...)
		return out.add(toBlock(b))
	})
	if err == nil {
		err = out.flush()
	}
	return failure(err)
}

// validName refuses what would leave the folder of the engine: names become folders.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\\\x00")
}

// Apply writes points.
func (s *Server) Apply(ctx context.Context, r *rpc.ApplyRequest) (*rpc.ApplyResponse, error) {
	if r.ShardId == 0 || !validName(r.Database) || !validName(r.RetentionPolicy) || len(r.Blocks) > maxBlocks {
		return nil, invalid(fmt.Errorf("shard %d of %q.%q with %d blocks is not valid",
			r.ShardId, r.Database, r.RetentionPolicy, len(r.Blocks)))
	}
	blocks := make([]patch.Block, len(r.Blocks))
	for i, m := range r.Blocks {
		b, err := fromBlock(m)
		if err != nil {
			return nil, invalid(err)
		}
		blocks[i] = b
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	sh := cluster.Shard{ID: r.ShardId, Database: r.Database, RetentionPolicy: r.RetentionPolicy}
	done, err := rep.Apply(ctx, sh, entropy.ReadAt{Deletes: r.Deletes, Clock: r.Clock}, blocks)
	if err != nil {
		return nil, failure(err)
	}
	return toApplied(done), nil
}

// Status tells what this node's service knows.
func (s *Server) Status(ctx context.Context, _ *rpc.StatusRequest) (*rpc.StatusResponse, error) {
	if s.control == nil {
		return &rpc.StatusResponse{}, nil
	}
	st, err := s.control.Status(ctx)
	if err != nil {
		return nil, failure(err)
	}
	resp := &rpc.StatusResponse{Enabled: st.Enabled, Queued: st.Queued, Processing: st.Processing}
	for _, sh := range st.Shards {
		resp.Shards = append(resp.Shards, &rpc.StatusResponse_Shard{
			Id: sh.ID, Status: string(sh.Status), Message: sh.Message,
		})
	}
	return resp, nil
}

// Repair queues a shard here.
func (s *Server) Repair(ctx context.Context, r *rpc.RepairRequest) (*rpc.RepairResponse, error) {
	return s.order(r, func(c entropy.Control) error { return c.Repair(ctx, r.ShardId) })
}

// CancelRepair takes a shard from the queue here.
func (s *Server) CancelRepair(ctx context.Context, r *rpc.RepairRequest) (*rpc.RepairResponse, error) {
	return s.order(r, func(c entropy.Control) error { return c.CancelRepair(ctx, r.ShardId) })
}

// Check makes this node check a shard at once, or all for 0.
func (s *Server) Check(ctx context.Context, r *rpc.RepairRequest) (*rpc.RepairResponse, error) {
	return s.ask(func(c entropy.Control) error { return c.Check(ctx, r.ShardId) })
}

// Pause stops or resumes repairs here.
func (s *Server) Pause(ctx context.Context, r *rpc.PauseRequest) (*rpc.RepairResponse, error) {
	return s.ask(func(c entropy.Control) error { return c.Pause(ctx, r.Paused) })
}

// SetMaxRate changes how fast this node repairs.
func (s *Server) SetMaxRate(ctx context.Context, r *rpc.MaxRateRequest) (*rpc.RepairResponse, error) {
	return s.ask(func(c entropy.Control) error { return c.SetMaxRate(ctx, r.Bytes) })
}

func (s *Server) ask(do func(entropy.Control) error) (*rpc.RepairResponse, error) {
	if s.control == nil {
		return nil, failure(entropy.ErrDisabled)
	}
	if err := do(s.control); err != nil {
		return nil, failure(err)
	}
	return &rpc.RepairResponse{}, nil
}

// Diff is a dry run of a repair that this node would drive.
func (s *Server) Diff(ctx context.Context, r *rpc.RepairRequest) (*rpc.DiffResponse, error) {
	if s.control == nil {
		return nil, failure(entropy.ErrDisabled)
	}
	d, err := s.control.Diff(ctx, r.ShardId)
	if err != nil {
		return nil, failure(err)
	}
	return toDiff(d), nil
}

// Repairs lists the repairs of this node.
func (s *Server) Repairs(ctx context.Context, _ *rpc.StatusRequest) (*rpc.RepairsResponse, error) {
	if s.control == nil {
		return nil, failure(entropy.ErrDisabled)
	}
	all, err := s.control.Repairs(ctx)
	if err != nil {
		return nil, failure(err)
	}
	resp := &rpc.RepairsResponse{Paused: all.Paused, MaxRate: all.MaxRate}
	for _, r := range all.Repairs {
		resp.Repairs = append(resp.Repairs, toRecord(r))
	}
	return resp, nil
}

func (s *Server) order(r *rpc.RepairRequest, do func(entropy.Control) error) (*rpc.RepairResponse, error) {
	if r.ShardId == 0 {
		return nil, invalid(errors.New("shard 0 is not valid"))
	}
	return s.ask(do)
}
