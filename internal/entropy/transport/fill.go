package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/rpc"
)

var _ entropy.Filler = (*peer)(nil)

// Fill makes the node fetch the files of source; the service Shards, which does it, is of package shardcopy.
func (p *peer) Fill(ctx context.Context, sh cluster.Shard, source cluster.Node, deletes uint64, progress func(done, total int64)) error {
	conn, err := p.pool.Conn(p.node.TCPAddr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("node %s sent nothing for %s", p.node.TCPAddr, idleTimeout)
	idle := time.AfterFunc(idleTimeout, func() { cancel(silent) })
	defer idle.Stop()
	stream, err := rpc.NewShardsClient(conn).Fill(ctx, &rpc.FillRequest{
		ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, Source: source.TCPAddr, Deletes: deletes,
	})
	for err == nil {
		idle.Reset(idleTimeout)
		var m *rpc.FillProgress
		if m, err = stream.Recv(); err == nil {
			progress(m.Bytes, m.Total)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case context.Cause(ctx) == silent:
		return silent
	}
	if c := status.Code(err); c == codes.AlreadyExists || c == codes.Unimplemented {
		return fmt.Errorf("node %s: %w: %s", p.node.TCPAddr, entropy.ErrNoFiles, rpc.Message(err))
	}
	return p.fail(err)
}
