package shardcopy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/durable"
	"concord/internal/entropy"
	"concord/internal/entropy/scrub"
	"concord/internal/rpc"
)

// errBegun is of a shard that is there: a write began it, perhaps meanwhile.
var errBegun = fmt.Errorf("%w: the shard is there", entropy.ErrNoFiles)

// progressEvery is how often Fill tells how far it is.
const progressEvery = 500 * time.Millisecond

// Fill makes a shard, which this node owns and lacks, out of the files of another node.
//
// The files gather in a folder of their own, where they stay when the fetch breaks: the next one
// goes on where it ended. When all are there and every block is whole, the shard
// is made, closed, gets the files and is opened again. Until then it does not exist here, so that queries
// ask another owner. Writes that come while it is closed wait for it.
// A shard that a write has begun meanwhile is left as it is. Deletes are held back while the files move; if one
// came since deletes was asked for, the files are void.
func (s *Server) Fill(r *rpc.FillRequest, stream grpc.ServerStreamingServer[rpc.FillProgress]) error {
	err := s.fill(stream.Context(), r, func(done, total int64) error {
		return stream.Send(&rpc.FillProgress{Bytes: done, Total: total})
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, entropy.ErrNoFiles):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, entropy.ErrSourceNotWhole):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, entropy.ErrOvertaken):
		return status.Error(codes.Aborted, err.Error())
	case status.Code(err) == codes.InvalidArgument || errors.Is(err, context.Canceled):
		return err
	}
	return status.Error(codes.Internal, rpc.Message(err))
}

// FillFrom is Fill for this node itself, as entropy.Local has it.
func (s *Server) FillFrom(
	ctx context.Context, sh cluster.Shard, from entropy.Source, progress func(done, total int64),
) error {
	r := &rpc.FillRequest{
		ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy,
		Source: from.TCPAddr, Deletes: from.Deletes, Incomplete: from.Incomplete,
	}
	return s.fill(ctx, r, func(done, total int64) error { progress(done, total); return nil })
}

func (s *Server) fill(ctx context.Context, r *rpc.FillRequest, progress func(done, total int64) error) error {
	if err := checkNames(r.ShardId, r.Database, r.RetentionPolicy); err != nil {
		return err
	}
	if s.Store.Shard(r.ShardId) != nil {
		return errBegun
	}
	c, ctx, err := s.copies.begin(ctx, &rpc.CopyRequest{
		ShardId: r.ShardId, Database: r.Database, RetentionPolicy: r.RetentionPolicy, Source: r.Source,
	})
	if err != nil {
		return err
	}
	defer s.copies.end(c)
	g := stage{filepath.Join(s.Dir, strconv.FormatUint(r.ShardId, 10))}
	started := time.Now()
	err = s.gather(ctx, c, g, r, progress)
	if err == nil {
		err = s.install(g, r)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	stopped := s.copies.leave(c)        // from now on Dropped removes the files itself
	if errors.Is(stopped, errDropped) { // nobody else removes what was made after the drop
		err = errors.Join(errDropped, os.RemoveAll(g.dir), s.drop(r.ShardId))
	}
	fields := []zap.Field{
		zap.Uint64("db_shard_id", r.ShardId), zap.String("source", r.Source), zap.Int64("bytes", c.current.Load()),
		zap.Duration("duration", time.Since(started)),
	}
	if err != nil {
		s.Log.Info("A missing shard was not made out of another owner's files", append(fields, zap.Error(err))...)
		return fmt.Errorf("files of shard %d from %s: %w", r.ShardId, r.Source, err)
	}
	s.Log.Info("Made a missing shard out of another owner's files", fields...)
	return nil
}

// gather fetches the files, and verifies them.
func (s *Server) gather(
	ctx context.Context, c *copying, g stage, r *rpc.FillRequest, progress func(done, total int64) error,
) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	idle := time.AfterFunc(silence, func() { stop(fmt.Errorf("%s sent nothing for %s", r.Source, silence)) })
	defer idle.Stop()
	stream, files, err := s.openFiles(ctx, g, r)
	if err != nil {
		return err
	}
	done, total, err := g.begin(files)
	if err != nil {
		return err
	}
	if s.CheckDisk != nil {
		if err := s.CheckDisk(total - done); err != nil {
			return err
		}
	}
	s.copies.setTotal(c, total)
	c.current.Store(done)
	told := time.Now()
	for i, f := range files {
		err := g.take(f, func() (*rpc.FilesChunk, error) {
			idle.Reset(silence)
			m, err := stream.Recv()
			idle.Stop() // what follows may wait
			if err != nil {
				return nil, errors.Join(context.Cause(ctx), err)
			}
			if int(m.File) != i {
				return nil, fmt.Errorf("%s sent file %d, and not %d", r.Source, m.File, i)
			}
			done := c.current.Add(int64(len(m.Data)))
			if now := time.Now(); now.Sub(told) > progressEvery {
				told = now
				if err := progress(done, total); err != nil {
					return nil, err
				}
			}
			return m, s.wait(ctx, len(m.Data))
		})
		if err != nil {
			return err
		}
	}
	if err := g.verify(ctx); err != nil {
		return err
	}
	return progress(total, total)
}

// openFiles asks the source for the files that are not here yet, and returns all that there are.
func (s *Server) openFiles(ctx context.Context, g stage, r *rpc.FillRequest) (
	grpc.ServerStreamingClient[rpc.FilesChunk], []*rpc.FilesChunk_File, error,
) {
	conn, err := s.Pool.Conn(r.Source)
	if err != nil {
		return nil, nil, err
	}
	have, err := g.have()
	if err != nil {
		return nil, nil, err
	}
	stream, err := rpc.NewShardsClient(conn).Files(ctx, &rpc.FilesRequest{
		ShardId: r.ShardId, Have: have, Incomplete: r.Incomplete,
	})
	if err != nil {
		return nil, nil, err
	}
	head, err := stream.Recv()
	switch {
	case status.Code(err) == codes.DataLoss:
		return nil, nil, fmt.Errorf("%w: %s", entropy.ErrSourceNotWhole, rpc.Message(err))
	case status.Code(err) == codes.Aborted:
		return nil, nil, entropy.ErrOvertaken
	case err != nil:
		return nil, nil, errors.Join(context.Cause(ctx), err)
	}
	return stream, head.Files, nil
}

// verify reads the files that have come from disk. When one is damaged, all are removed.
func (g stage) verify(ctx context.Context) error {
	if err := durable.SyncDir(g.dir); err != nil {
		return err
	}
	damage, err := scrub.Verify(ctx, g.dir, func(ctx context.Context, _ int) error { return ctx.Err() })
	if err != nil {
		return err
	}
	if len(damage) > 0 {
		return errors.Join(fmt.Errorf("%w: at the source %w", entropy.ErrNoFiles, damage[0]), os.RemoveAll(g.dir))
	}
	return nil
}

// install makes the shard.
func (s *Server) install(g stage, r *rpc.FillRequest) error {
	if s.Hold != nil && r.Deletes != 0 {
		release, ok := s.Hold(r.ShardId, r.Deletes)
		if !ok {
			return entropy.ErrOvertaken // the files stay: what did not change is not sent again
		}
		defer release()
	}
	if s.Begun != nil {
		if err := s.Begun(r.ShardId); err != nil {
			return err
		}
	}
	if s.HoldWrites != nil {
		defer s.HoldWrites(r.ShardId)()
	}
	if err := s.Store.CreateShard(r.Database, r.RetentionPolicy, r.ShardId, false); err != nil {
		return err
	}
	sh := s.Store.Shard(r.ShardId)
	if sh == nil {
		return tsdb.ErrShardNotFound
	}
	if _, err := sh.Engine(); !errors.Is(err, tsdb.ErrShardDisabled) {
		return errors.Join(errBegun, err) // somebody else made it, for it is open
	}
	err := sh.Close()
	if err == nil {
		err = g.moveTo(sh.Path())
	}
	if err == nil {
		sh.EnableOnOpen = true
		err = sh.Open()
	}
	if err != nil { // nobody could write to it
		return errors.Join(err, s.Store.DeleteHeldShard(r.ShardId), os.RemoveAll(g.dir))
	}
	return os.RemoveAll(g.dir)
}

// Discard removes what is gathered of shards that are not to be filled any more.
func (s *Server) Discard(due func(shard uint64) bool) error {
	names, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		id, perr := strconv.ParseUint(n.Name(), 10, 64)
		if perr == nil && due(id) && s.Store.Shard(id) == nil {
			continue
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.Dir, n.Name())))
	}
	return err
}

// Dropped removes what is gathered of a shard that was dropped, and ends a copy of it.
func (s *Server) Dropped(shard uint64) error {
	return s.copies.dropped(shard, func() error {
		return os.RemoveAll(filepath.Join(s.Dir, strconv.FormatUint(shard, 10)))
	})
}
