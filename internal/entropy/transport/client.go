package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/rpc"
)

// Deadlines. A peer whose link breaks is noticed earlier, by the keep-alive of the pool.
const (
	shortTimeout = 10 * time.Second // answers from memory
	applyTimeout = 2 * time.Minute  // one batch of points
	rootTimeout  = 30 * time.Minute // may read a whole cold shard
	idleTimeout  = 5 * time.Minute  // between two messages of a stream
	// Between two messages about a summary: both sides make symbols of a whole shard, at a small part of the processors
	// while clients are served. A node that is gone ends its connection long before.
	summaryTimeout = 30 * time.Minute
)

// Transport reaches other nodes through a pool of connections.
type Transport struct{ pool *rpc.Pool }

// New returns a transport over pool.
func New(pool *rpc.Pool) *Transport { return &Transport{pool: pool} }

var _ entropy.Transport = (*Transport)(nil)

// Replica is the node's copies of shards.
func (t *Transport) Replica(node cluster.Node) entropy.Replica { return &peer{t.pool, node} }

// Control is the node's anti-entropy service.
func (t *Transport) Control(node cluster.Node) entropy.Control { return &peer{t.pool, node} }

// peer is another node. It connects with each call, so that a cut link is an error of the call. It has a method for
// each question of entropy.Replica and entropy.Control.
type peer struct {
	pool *rpc.Pool
	node cluster.Node
}

// fail names the node and gives the service's own errors back their identity.
func (p *peer) fail(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("node %s: %w", p.node.TCPAddr, entropy.ErrUnknownShard)
	case codes.FailedPrecondition:
		return fmt.Errorf("node %s: %w", p.node.TCPAddr, entropy.ErrDisabled)
	case codes.OutOfRange:
		return fmt.Errorf("node %s: %w", p.node.TCPAddr, reconcile.ErrTooLarge)
	case codes.AlreadyExists, codes.Unimplemented: // a node of an older version
		why := strings.ReplaceAll(rpc.Message(err), entropy.ErrNoFiles.Error()+": ", "") // which is said once
		return fmt.Errorf("node %s: %w: %s", p.node.TCPAddr, entropy.ErrNoFiles, why)
	case codes.DataLoss:
		return fmt.Errorf("node %s: %w: %s", p.node.TCPAddr, entropy.ErrSourceNotWhole, rpc.Message(err))
	case codes.Aborted:
		return fmt.Errorf("node %s: %w", p.node.TCPAddr, entropy.ErrOvertaken)
	case codes.Internal: // the other node's own words
		return fmt.Errorf("node %s: %s", p.node.TCPAddr, status.Convert(err).Message())
	}
	return fmt.Errorf("node %s: %w", p.node.TCPAddr, err)
}

// within runs calls of one of the peer's services with a deadline.
func within[Client any](
	ctx context.Context, p *peer, timeout time.Duration, newClient func(grpc.ClientConnInterface) Client,
	fn func(context.Context, Client) error,
) error {
	conn, err := p.pool.Conn(p.node.TCPAddr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := fn(ctx, newClient(conn)); err != nil {
		return p.fail(err)
	}
	return nil
}

// call runs a unary call of the Entropy service with a deadline.
func call[Req, Resp any](
	ctx context.Context, p *peer, timeout time.Duration, req Req,
	method func(rpc.EntropyClient, context.Context, Req, ...grpc.CallOption) (Resp, error),
) (resp Resp, err error) {
	err = within(ctx, p, timeout, rpc.NewEntropyClient, func(ctx context.Context, c rpc.EntropyClient) error {
		resp, err = method(c, ctx, req)
		return err
	})
	return resp, err
}

// receive calls fn for each message of a stream, and gives up when the peer is silent for idleTimeout.
func receive[Req, Msg any](ctx context.Context, p *peer, req Req,
	method func(rpc.EntropyClient, context.Context, Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Msg], error),
	fn func(*Msg) error) error {
	conn, err := p.pool.Conn(p.node.TCPAddr)
	if err != nil {
		return err
	}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[Msg], error) {
		return method(rpc.NewEntropyClient(conn), ctx, req)
	}
	return receiveFrom(ctx, p, open, fn)
}

// receiveFrom is receive of the stream that open opens.
func receiveFrom[Msg any](
	ctx context.Context, p *peer, open func(context.Context) (grpc.ServerStreamingClient[Msg], error), fn func(*Msg) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("node %s sent nothing for %s", p.node.TCPAddr, idleTimeout)
	idle := time.AfterFunc(idleTimeout, func() { cancel(silent) })
	defer idle.Stop()
	stream, err := open(ctx)
	for err == nil {
		var m *Msg
		idle.Reset(idleTimeout)
		if m, err = stream.Recv(); err != nil {
			break
		}
		idle.Stop() // fn may wait as long as it likes
		if err := fn(m); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case context.Cause(ctx) == silent:
		return silent
	}
	return p.fail(err)
}

func (p *peer) Whole(ctx context.Context, id, gen uint64) error {
	_, err := call(ctx, p, shortTimeout, &rpc.WholeRequest{ShardId: id, LackGen: gen}, rpc.EntropyClient.Whole)
	return err
}

func (p *peer) Discard(ctx context.Context, id, gen uint64) error {
	_, err := call(ctx, p, applyTimeout, &rpc.WholeRequest{ShardId: id, LackGen: gen}, rpc.EntropyClient.Discard)
	return err
}

func (p *peer) States(ctx context.Context, ids []uint64) (map[uint64]entropy.ShardState, error) {
	out := make(map[uint64]entropy.ShardState, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), maxIDs)
		resp, err := call(ctx, p, shortTimeout, &rpc.ShardStatesRequest{ShardIds: ids[:n]}, rpc.EntropyClient.ShardStates)
		if err != nil {
			return nil, err
		}
		for _, s := range resp.States {
			out[s.ShardId] = entropy.ShardState{
				Version: entropy.Version{Exists: s.Exists, LastModified: s.LastModified, Size: s.Size},
				Hints:   s.Hints, Waiting: s.Waiting, Beginning: copystate.Beginning(s.Begun), Deletes: s.Deletes,
				Lack: copystate.Lack{
					Kind: copystate.Kind(s.LackKind), Why: s.LackWhy, Gen: s.LackGen, After: copystate.Kind(s.LackAfter),
				},
				Clock: s.Clock, Corrupt: s.Corrupt,
			}
		}
		for _, id := range ids[:n] {
			if _, ok := out[id]; !ok {
				return nil, fmt.Errorf("node %s did not tell the state of shard %d", p.node.TCPAddr, id)
			}
		}
		ids = ids[n:]
	}
	return out, nil
}

func rootRequest(sh cluster.Shard, until int64) *rpc.RootRequest {
	return &rpc.RootRequest{ShardId: sh.ID, Start: sh.Start, End: sh.End, Until: until}
}

func (p *peer) Root(ctx context.Context, sh cluster.Shard, until int64) (digest.Sum, error) {
	resp, err := call(ctx, p, rootTimeout, rootRequest(sh, until), rpc.EntropyClient.Root)
	if err != nil {
		return digest.Sum{}, err
	}
	if resp.Root == nil {
		return digest.Sum{}, fmt.Errorf("node %s sent no root", p.node.TCPAddr)
	}
	return fromSum(resp.Root), nil
}

func (p *peer) Digests(ctx context.Context, sh cluster.Shard, until int64, fn func(*digest.SeriesField) error) error {
	var f digest.SeriesField
	return receive(ctx, p, rootRequest(sh, until), rpc.EntropyClient.Digests, func(c *rpc.DigestsChunk) error {
		for _, m := range c.Fields {
			if err := fromSeriesField(&f, m); err != nil {
				return fmt.Errorf("node %s: %w", p.node.TCPAddr, err)
			}
			if err := fn(&f); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *peer) Fetch(
	ctx context.Context, sh cluster.Shard, regions []patch.Region, limits patch.Limits, fn func(patch.Block) error,
) error {
	if len(regions) == 0 {
		return nil
	}
	req := &rpc.FetchRequest{
		ShardId: sh.ID, Regions: toRegions(regions), LimitBytes: uint64(limits.Bytes), LimitPoints: uint64(limits.Points),
	}
	return receive(ctx, p, req, rpc.EntropyClient.Fetch, func(c *rpc.FetchChunk) error {
		for _, m := range c.Blocks {
			b, err := fromBlock(m)
			if err != nil {
				return fmt.Errorf("node %s: %w", p.node.TCPAddr, err)
			}
			if err := fn(b); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *peer) Apply(
	ctx context.Context, sh cluster.Shard, read entropy.ReadAt, blocks []patch.Block,
) (patch.Applied, error) {
	req := &rpc.ApplyRequest{
		Deletes: read.Deletes, Clock: read.Clock, ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy,
	}
	for _, b := range blocks {
		req.Blocks = append(req.Blocks, toBlock(b))
	}
	resp, err := call(ctx, p, applyTimeout, req, rpc.EntropyClient.Apply)
	if err != nil {
		return patch.Applied{}, err
	}
	out, err := fromApplied(resp, len(blocks))
	if err != nil {
		return patch.Applied{}, fmt.Errorf("node %s: %w", p.node.TCPAddr, err)
	}
	return out, nil
}

func (p *peer) Status(ctx context.Context) (entropy.NodeStatus, error) {
	resp, err := call(ctx, p, shortTimeout, &rpc.StatusRequest{}, rpc.EntropyClient.Status)
	if err != nil {
		return entropy.NodeStatus{}, err
	}
	out := entropy.NodeStatus{Enabled: resp.Enabled, Queued: resp.Queued, Processing: resp.Processing}
	for _, s := range resp.Shards {
		out.Shards = append(out.Shards, entropy.ShardStatus{ID: s.Id, Status: entropy.Status(s.Status), Message: s.Message})
	}
	return out, nil
}

func (p *peer) Repair(ctx context.Context, id uint64) error {
	_, err := call(ctx, p, shortTimeout, &rpc.RepairRequest{ShardId: id}, rpc.EntropyClient.Repair)
	return err
}

func (p *peer) CancelRepair(ctx context.Context, id uint64) error {
	_, err := call(ctx, p, shortTimeout, &rpc.RepairRequest{ShardId: id}, rpc.EntropyClient.CancelRepair)
	return err
}

func (p *peer) Check(ctx context.Context, id uint64) error {
	_, err := call(ctx, p, shortTimeout, &rpc.RepairRequest{ShardId: id}, rpc.EntropyClient.Check)
	return err
}

func (p *peer) Pause(ctx context.Context, paused bool) error {
	_, err := call(ctx, p, shortTimeout, &rpc.PauseRequest{Paused: paused}, rpc.EntropyClient.Pause)
	return err
}

func (p *peer) SetMaxRate(ctx context.Context, bytes uint64) error {
	_, err := call(ctx, p, shortTimeout, &rpc.MaxRateRequest{Bytes: bytes}, rpc.EntropyClient.SetMaxRate)
	if errors.Is(err, entropy.ErrNoFiles) { // which is what fail makes of a call that the node does not know
		return fmt.Errorf("node %s is of an earlier version: set max-rate in its configuration, and send it SIGHUP",
			p.node.TCPAddr)
	}
	return err
}

func (p *peer) Repairs(ctx context.Context) (entropy.NodeRepairs, error) {
	resp, err := call(ctx, p, shortTimeout, &rpc.StatusRequest{}, rpc.EntropyClient.Repairs)
	if err != nil {
		return entropy.NodeRepairs{}, err
	}
	out := entropy.NodeRepairs{Paused: resp.Paused, MaxRate: resp.MaxRate}
	for _, r := range resp.Repairs {
		out.Repairs = append(out.Repairs, fromRecord(r))
	}
	return out, nil
}

func (p *peer) Diff(ctx context.Context, id uint64) (entropy.DryRun, error) {
	resp, err := call(ctx, p, rootTimeout, &rpc.RepairRequest{ShardId: id}, rpc.EntropyClient.Diff)
	if err != nil {
		return entropy.DryRun{}, err
	}
	return fromDiff(resp), nil
}
