package shardcopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/drops"
	"concord/internal/entropy/pace"
	"concord/internal/rpc"
	"concord/internal/writecache"
)

// silence is how long a source may send nothing.
const silence = 2 * time.Minute

// Server is a data node's shards as files. It has many methods because each RPC is one, and many fields because a copy
// of a shard concerns its writes, its deletes and what is known of all copies.
//
// A copy is made of the source as it is at its snapshot. Until the node is recorded as an owner, writes go to the other
// owners alone. So the copy is noted as one that a write began, and anti-entropy brings it automatically what came
// meanwhile.
type Server struct {
	rpc.UnimplementedShardsServer

	Store *drops.Store
	Pool  *rpc.Pool
	Begun func(shard uint64) error // notes that the copy may lack points; nil for none
	// Missed notes that a copy of which this node is an owner may lack points, and why; nil for none.
	Missed func(shard uint64, why string)
	// Owns reports whether this node owns a shard, for all that it knows; nil for never.
	Owns func(shard uint64) bool
	// OthersLack notes that the copies of a shard on other nodes lack what this node's copy has; nil for none.
	OthersLack func(nodes []uint64, shard uint64) error
	// NotWhole is why this node's copies may lack acknowledged writes or deletes, in one clause each, by shard. A
	// copy that has them all is not in it. nil is for a server whose copies all have.
	NotWhole func(ctx context.Context, shards ...uint64) map[uint64]string
	// Deletes changes with every delete in a shard's database that this node hears of; nil for none.
	Deletes func(shard uint64) uint64
	// DeleteUnderWay reports whether a delete in a shard's database may have run on some nodes and not on others; nil for
	// never.
	DeleteUnderWay func(shard uint64) bool
	// Hold holds deletes back until release, unless one came since Deletes gave seen; nil for none.
	Hold func(shard, seen uint64) (release func(), ok bool)
	// HoldWrites makes writes to a shard wait until release; nil for none.
	HoldWrites func(shard uint64) (release func())

	Dir       string                           // where the files of missing shards gather
	Wait      func(context.Context, int) error // until so many bytes of files may be sent or taken; nil for no limit
	CheckDisk func(bytes int64) error          // refuses what would fill the disk; nil for none
	Log       *zap.Logger

	copies copies
}

// Close stops the copies that are being made here, and waits for them: they use the store.
func (s *Server) Close() error {
	s.copies.close()
	return nil
}

// noDelete is an error while a delete may have run on another node already, and runs here later. What is copied from
// here then would bring the points back there.
func (s *Server) noDelete(shard uint64) error {
	if s.DeleteUnderWay == nil || !s.DeleteUnderWay(shard) {
		return nil
	}
	return status.Error(codes.Aborted, "a delete is under way in the database of the shard: try again when it has ended")
}

// Export streams a copy.
func (s *Server) Export(r *rpc.ExportRequest, stream grpc.ServerStreamingServer[rpc.ExportChunk]) error {
	if s.Store.Shard(r.ShardId) == nil {
		return status.Errorf(codes.NotFound, "shard %d is not on this node", r.ShardId)
	}
	if r.Start > r.End {
		return status.Error(codes.InvalidArgument, "start is after end")
	}
	if err := s.checkWhole(stream.Context(), r.ShardId, r.Incomplete); err != nil {
		return err
	}
	if r.ToOwn {
		if err := s.noDelete(r.ShardId); err != nil {
			return err
		}
	}
	w := &writer{send: func(b []byte) error { return stream.Send(&rpc.ExportChunk{Data: b}) }}
	if err := Export(s.Store.Store, r.ShardId, Range{r.Start, r.End}, w); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return stream.Send(&rpc.ExportChunk{Last: true, Bytes: w.bytes, Checksum: w.sum})
}

// Import takes a stream into a shard that is empty or missing here.
func (s *Server) Import(stream grpc.ClientStreamingServer[rpc.ImportChunk, rpc.ImportResponse]) error {
	head, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := checkNames(head.ShardId, head.Database, head.RetentionPolicy); err != nil {
		return err
	}
	r := &reader{recv: func() (chunk, error) { return stream.Recv() }}
	if err := Import(stream.Context(), s.Store, head.Database, head.RetentionPolicy, head.ShardId, r); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return stream.SendAndClose(&rpc.ImportResponse{})
}

// checkNames refuses what would be no shard; the names become folders.
func checkNames(id uint64, database, policy string) error {
	if id == 0 || !emeta.ValidName(database) || !emeta.ValidName(policy) {
		return status.Error(codes.InvalidArgument, "a shard needs an id, a database and a retention policy")
	}
	return nil
}

// Copy fetches a shard from another node.
func (s *Server) Copy(ctx context.Context, r *rpc.CopyRequest) (*rpc.CopyResponse, error) {
	if err := checkNames(r.ShardId, r.Database, r.RetentionPolicy); err != nil {
		return nil, err
	}
	c, ctx, err := s.copies.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.copies.end(c)
	n, err := s.fetch(ctx, c, r)
	if err == nil && !s.copies.done(c) {
		err = errors.Join(ctx.Err(), s.drop(r.ShardId))
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	fields := []zap.Field{
		zap.Uint64("db_shard_id", r.ShardId), zap.String("source", r.Source), zap.Int64("bytes", n),
		zap.Duration("duration", time.Since(time.Unix(0, c.status.Started))),
	}
	if err != nil {
		s.Log.Warn("Copy of a shard failed", append(fields, zap.Error(err))...)
		code := codes.Aborted
		if errors.Is(err, errKilled) {
			code = codes.Canceled // nobody should begin it again
		}
		return nil, status.Errorf(code, "copy shard %d from %s: %s", r.ShardId, r.Source, rpc.Message(err))
	}
	s.Log.Info("Copied a shard", fields...)
	return &rpc.CopyResponse{Bytes: uint64(n)}, nil
}

// overtaken is how often a copy is tried. One during which a delete came may have what was deleted, and none is made
// while a delete is under way at the source.
const overtaken = 10

// overtakenPause is by how much longer a copy waits each time that a delete is under way at its source.
const overtakenPause = 200 * time.Millisecond

// fetch copies until no delete came meanwhile.
func (s *Server) fetch(ctx context.Context, c *copying, r *rpc.CopyRequest) (n int64, err error) {
	for tries := range overtaken {
		var before uint64
		if s.Deletes != nil {
			before = s.Deletes(r.ShardId)
		}
		n, err = s.fetchOnce(ctx, c, r)
		if status.Code(err) == codes.Aborted { // a delete is under way at the source
			select {
			case <-time.After(time.Duration(tries) * overtakenPause):
				continue
			case <-ctx.Done():
				return n, err
			}
		}
		if err != nil || s.Deletes == nil || s.Deletes(r.ShardId) == before {
			return n, err
		}
		c.current.Store(0)
	}
	err = errors.New("a delete takes long, or deletes come all the time: try again later")
	return n, errors.Join(err, s.Store.DeleteShard(r.ShardId))
}

// fetchOnce replaces what this node has of the shard, of which it is no owner.
func (s *Server) fetchOnce(ctx context.Context, c *copying, r *rpc.CopyRequest) (int64, error) {
	conn, err := s.Pool.Conn(r.Source)
	if err != nil {
		return 0, err
	}
	source := rpc.NewShardsClient(conn)
	size, err := sizeAt(ctx, source, r) // before anything is replaced
	if err != nil {
		return 0, err
	}
	s.copies.setTotal(c, size)
	if err := s.makeRoom(r.ShardId); err != nil {
		return 0, err
	}
	sctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	idle := time.AfterFunc(silence, func() { stop(fmt.Errorf("%s sent nothing for %s", r.Source, silence)) })
	defer idle.Stop()
	stream, err := source.Export(sctx, &rpc.ExportRequest{
		ShardId: r.ShardId, Incomplete: r.Incomplete, ToOwn: true,
	})
	if err != nil {
		return 0, err
	}
	limit := pace.NewLimit(r.MaxRate)
	in := &reader{recv: func() (chunk, error) {
		idle.Reset(silence)
		m, err := stream.Recv()
		idle.Stop() // what takes long now is this node, not the source
		if err != nil {
			return m, err
		}
		err = limit.Wait(sctx, len(m.Data))
		c.current.Add(int64(len(m.Data)))
		return m, err
	}}
	if err := Import(sctx, s.Store, r.Database, r.RetentionPolicy, r.ShardId, in); err != nil {
		if cause := context.Cause(sctx); cause != nil {
			err = cause
		}
		// This node is no owner: nobody else has written to it.
		return c.current.Load(), errors.Join(err, s.drop(r.ShardId))
	}
	if err := ctx.Err(); err != nil { // killed at the very end
		return c.current.Load(), errors.Join(err, s.Store.DeleteShard(r.ShardId))
	}
	return c.current.Load(), nil
}

// sizeAt asks the source how large its copy is. It is an error when the source does not have the shard, or does not
// have all of it.
func sizeAt(ctx context.Context, source rpc.ShardsClient, r *rpc.CopyRequest) (int64, error) {
	about, err := source.Describe(ctx, &rpc.DescribeRequest{ShardIds: []uint64{r.ShardId}})
	if err != nil {
		return 0, err
	}
	if len(about.Shards) != 1 || !about.Shards[0].Exists {
		return 0, fmt.Errorf("%s does not have it", r.Source)
	}
	if why := about.Shards[0].NotWhole; why != "" && !r.Incomplete {
		return 0, refuse(r.ShardId, why)
	}
	return about.Shards[0].Size, nil
}

// makeRoom removes what is left of an earlier copy, and notes that another one begins.
func (s *Server) makeRoom(shard uint64) error {
	if s.Store.Shard(shard) != nil {
		if err := s.Store.DeleteShard(shard); err != nil {
			return fmt.Errorf("remove what is left of an earlier copy: %w", err)
		}
	}
	if s.Begun != nil {
		return s.Begun(shard)
	}
	return nil
}

// drop removes a shard, which may be missing.
func (s *Server) drop(id uint64) error {
	if err := s.Store.DeleteShard(id); !errors.Is(err, tsdb.ErrShardNotFound) {
		return err
	}
	return nil
}

// Copies lists what is being copied to this node.
func (s *Server) Copies(context.Context, *rpc.CopiesRequest) (*rpc.CopiesResponse, error) {
	return &rpc.CopiesResponse{Copies: s.copies.list()}, nil
}

// KillCopy stops a copy to this node and returns when nothing of it is left.
func (s *Server) KillCopy(ctx context.Context, r *rpc.KillCopyRequest) (*rpc.KillCopyResponse, error) {
	c := s.copies.kill(copyKey{r.Source, r.ShardId})
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "shard %d is not being copied from %s", r.ShardId, r.Source)
	}
	select {
	case <-c.done:
		return &rpc.KillCopyResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// Remove drops this node's copy. It refuses while the node owns the shard for all that it knows: it would go on to
// take writes of its clients then, and begin another copy with them.
func (s *Server) Remove(_ context.Context, r *rpc.RemoveRequest) (*rpc.RemoveResponse, error) {
	if s.Owns != nil && s.Owns(r.ShardId) {
		return nil, status.Errorf(codes.FailedPrecondition,
			"this node has not heard yet that it does not own shard %d any more", r.ShardId)
	}
	if err := s.Store.DeleteShard(r.ShardId); err != nil && !errors.Is(err, tsdb.ErrShardNotFound) {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &rpc.RemoveResponse{}, nil
}

// Doubt notes that this node's copy may lack points: writes that began before the node was an owner may have ended
// since the copies were compared.
func (s *Server) Doubt(_ context.Context, r *rpc.DoubtRequest) (*rpc.DoubtResponse, error) {
	if s.Store.Shard(r.ShardId) == nil {
		return nil, status.Errorf(codes.NotFound, "shard %d is not on this node", r.ShardId)
	}
	if s.Missed != nil {
		s.Missed(r.ShardId, "writes were under way while it was copied, and it is to be compared once more")
	}
	return &rpc.DoubtResponse{}, nil
}

// NoteLacking notes that copies of other nodes lack what this node's copy has. Who takes them for whole otherwise is
// their nodes themselves: to them a shard that is newer than they are, and not there, was never written to.
func (s *Server) NoteLacking(_ context.Context, r *rpc.NoteLackingRequest) (*rpc.NoteLackingResponse, error) {
	if s.OthersLack == nil {
		return nil, status.Error(codes.Unimplemented, "this node remembers nothing for others")
	}
	if s.Store.Shard(r.ShardId) == nil {
		return nil, status.Errorf(codes.NotFound, "shard %d is not on this node", r.ShardId)
	}
	if err := s.OthersLack(r.Nodes, r.ShardId); err != nil {
		return nil, status.Errorf(codes.Internal, "note which nodes lack shard %d: %s", r.ShardId, err)
	}
	return &rpc.NoteLackingResponse{}, nil
}

// Describe tells about this node's copies. One that cannot be read does not hide the others.
func (s *Server) Describe(ctx context.Context, r *rpc.DescribeRequest) (*rpc.DescribeResponse, error) {
	if r.Disk {
		return s.describeDisk()
	}
	resp := &rpc.DescribeResponse{}
	for _, id := range r.ShardIds {
		resp.Shards = append(resp.Shards, s.describe(id, r.Flush))
	}
	why := s.notWhole(ctx, r.ShardIds...)
	for _, d := range resp.Shards {
		d.NotWhole = cmp.Or(d.NotWhole, why[d.ShardId])
	}
	return resp, nil
}

// flush writes a shard's cache to a file; an empty one is left alone.
func flush(store *tsdb.Store, id uint64) error {
	sh := store.Shard(id)
	if sh == nil {
		return nil
	}
	if err := writecache.WriteSnapshot(sh); err != nil && !errors.Is(err, tsm1.ErrSnapshotInProgress) {
		return fmt.Errorf("flush shard %d: %w", id, err)
	}
	return nil
}

// Describe tells about the copy of a shard in store.
func Describe(store *tsdb.Store, id uint64) (*rpc.ShardDescription, error) {
	d := &rpc.ShardDescription{ShardId: id}
	sh := store.Shard(id)
	if sh == nil {
		return d, nil
	}
	mod, err := sh.LastModifiedWithErr()
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", id, err)
	}
	if d.Size, err = sh.DiskSize(); err != nil {
		return nil, fmt.Errorf("shard %d: %w", id, err)
	}
	idle, _ := sh.IsIdle()
	d.Exists, d.LastModified, d.Hot, d.State = true, mod.UnixNano(), !idle, "cold"
	if d.Hot {
		d.State = "hot"
	}
	return d, nil
}

func (s *Server) wait(ctx context.Context, n int) error {
	if s.Wait == nil {
		return ctx.Err()
	}
	return s.Wait(ctx, n)
}
