package transport

import (
	"context"

	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/rpc"
)

// Fill makes the node fetch the files of source; the service Shards, which does it, is of package shardcopy.
func (p *peer) Fill(
	ctx context.Context, sh cluster.Shard, from entropy.Source, progress func(done, total int64),
) error {
	conn, err := p.pool.Conn(p.node.TCPAddr)
	if err != nil {
		return err
	}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[rpc.FillProgress], error) {
		return rpc.NewShardsClient(conn).Fill(ctx, &rpc.FillRequest{
			ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, Source: from.TCPAddr,
			Deletes:    from.Deletes,
			Incomplete: from.Incomplete,
		})
	}
	return receiveFrom(ctx, p, open, func(m *rpc.FillProgress) error { progress(m.Bytes, m.Total); return nil })
}
