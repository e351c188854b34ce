package deletes

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// peer is another node. One of the version before service Deletes is asked in the old way.
type peer struct {
	deletes rpc.DeletesClient
	old     rpc.ReplicationClient
}

func (d *Service) peer(n cluster.Node) (peer, error) {
	conn, err := d.deps.Pool.Conn(n.TCPAddr)
	if err != nil {
		return peer{}, err
	}
	return peer{rpc.NewDeletesClient(conn), rpc.NewReplicationClient(conn)}, nil
}

// isOld reports whether a node knows no such call.
func isOld(err error) bool { return status.Code(err) == codes.Unimplemented }

// announce returns the node's clock.
func (p peer) announce(ctx context.Context, r *rpc.AnnounceDeleteRequest) (clock uint64, err error) {
	resp, err := p.deletes.AnnounceDelete(ctx, r)
	if isOld(err) {
		resp, err := p.execute(ctx, oldAnnouncement(r))
		return resp.GetClock(), err
	}
	return resp.GetClock(), err
}

func (p peer) run(ctx context.Context, r *rpc.RunDeleteRequest) (*rpc.RunDeleteResponse, error) {
	resp, err := p.deletes.RunDelete(ctx, r)
	if isOld(err) {
		resp, err := p.old.Execute(ctx, oldRun(r))
		return &rpc.RunDeleteResponse{Error: resp.GetError()}, err
	}
	return resp, err
}

func (p peer) hint(ctx context.Context, r *rpc.HintDeleteRequest) error {
	_, err := p.deletes.HintDelete(ctx, r)
	if isOld(err) {
		_, err = p.old.Hint(ctx, r)
	}
	return err
}

func (p peer) end(ctx context.Context, r *rpc.EndDeleteRequest) error {
	_, err := p.deletes.EndDelete(ctx, r)
	if isOld(err) {
		_, err = p.execute(ctx, oldEnd(r))
	}
	return err
}

// endBefore returns after, as deleteCounts.endBefore does.
func (p peer) endBefore(ctx context.Context, r *rpc.EndDeletesBeforeRequest) (after uint64, err error) {
	resp, err := p.deletes.EndDeletesBefore(ctx, r)
	if isOld(err) {
		_, err = p.execute(ctx, oldEndBefore(r))
	}
	return resp.GetAfter(), err
}

func (p peer) drop(ctx context.Context, r *rpc.DropShardsRequest) (*rpc.DropShardsResponse, error) {
	resp, err := p.deletes.DropShards(ctx, r)
	if isOld(err) {
		resp, err := p.old.Execute(ctx, oldDrop(r))
		return &rpc.DropShardsResponse{Error: resp.GetError()}, err
	}
	return resp, err
}
