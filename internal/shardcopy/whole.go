package shardcopy

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// notWhole is NotWhole, which may be nil.
func (s *Server) notWhole(ctx context.Context, shards ...uint64) map[uint64]string {
	if s.NotWhole == nil {
		return nil
	}
	return s.NotWhole(ctx, shards...)
}

// checkWhole refuses to send a copy that is not whole, unless the caller asks for what there is. The answer is
// DataLoss, so that the caller can take another owner's.
func (s *Server) checkWhole(ctx context.Context, shard uint64, incomplete bool) error {
	if incomplete {
		return nil
	}
	if why := s.notWhole(ctx, shard)[shard]; why != "" {
		return refuse(shard, why)
	}
	return nil
}

func refuse(shard uint64, why string) error {
	return status.Errorf(codes.DataLoss, "its copy of shard %d is not whole: %s", shard, why)
}

// Unreadable is the state of a copy that is there and cannot be read; NotWhole of the description says why.
const Unreadable = "unreadable"

// NotOpen is the state of a folder of a shard that the node has not opened.
const NotOpen = "not open"

// describe tells about one copy, whose cache is written to a file first where that is asked for.
func (s *Server) describe(id uint64, flushFirst bool) *rpc.ShardDescription {
	var err error
	if flushFirst {
		err = flush(s.Store.Store, id)
	}
	d := &rpc.ShardDescription{ShardId: id}
	if err == nil {
		d, err = Describe(s.Store.Store, id)
	}
	if err != nil {
		return &rpc.ShardDescription{ShardId: id, Exists: true, State: Unreadable, NotWhole: err.Error()}
	}
	return d
}
