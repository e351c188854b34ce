package replication

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/order"
	"concord/internal/rpc"
)

// outgoing brings writes to one owner at a time: to another node, to this node's own copy, or into hinted handoff.
type outgoing struct {
	*ownCopies
	sender uint64 // this process, to peers
	lanes  lanes
	missed missedLog
	points struct{ local, remote, hinted atomic.Int64 } // as in Statistics

	batchless batchless
	patience  patience
}

// Sender names this process in its messages.
func (o *outgoing) Sender() uint64 { return o.sender }

// batchBytes is where a shard's points go on in another message, well below rpc.MaxMessage.
const batchBytes = 8 << 20

// encode makes the messages with a shard's points; owners share them and only
// read. size is the bytes of all points.
func encode(
	ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point,
) (out []*rpc.WriteShardRequest, size int, err error) {
	room := 0
	for i, p := range points {
		b, err := p.MarshalBinary()
		if err != nil {
			return nil, 0, fmt.Errorf("encode a point: %w", err)
		}
		if room -= len(b); room < 0 || i == 0 {
			room = batchBytes - len(b)
			out = append(out, &rpc.WriteShardRequest{
				ShardId: id, Database: db, RetentionPolicy: policy, UserId: ctx.UserId, Points: make([][]byte, 0, len(points)-i),
			})
		}
		last := out[len(out)-1]
		last.Points = append(last.Points, b)
		size += len(b)
	}
	return out, size, nil
}

// yielding returns copies of messages of which an owner leaves out the points that it has something newer of.
func yielding(requests []*rpc.WriteShardRequest) []*rpc.WriteShardRequest {
	out := make([]*rpc.WriteShardRequest, len(requests))
	for i, r := range requests {
		out[i] = proto.Clone(r).(*rpc.WriteShardRequest)
		out[i].Yields = true
	}
	return out
}

// stamp gives the messages of a write its version.
func stamp(requests []*rpc.WriteShardRequest, v order.Version, yields bool) {
	for _, r := range requests {
		r.Version, r.Yields = uint64(v), yields
	}
}

// writeLocal writes to this node's own copy. What the store may take later goes to hinted handoff, in messages, as for
// any other owner. What is in there already is not waited for: its versions say that it is older. Yields is as in
// shardWrite.
func (o *outgoing) writeLocal(
	ctx tsdb.WriteContext, d *delivery, db, policy string, points []models.Point,
	messages func() ([]*rpc.WriteShardRequest, error), yields bool,
) result {
	if o.Meta.Deleted(d.shard, 1) {
		return result{err: errShardDeleted, permanent: true}
	}
	if err := o.disowned(d.shard); err != nil {
		return result{err: err}
	}
	o.points.local.Add(int64(len(points)))
	if yields {
		defer o.beginOld(d.shard, d.version)()
	}
	r := judge(len(points), o.accept(ctx, d.shard, db, policy, d.version, yields, points))
	if r.err == nil || errors.Is(r.err, errBehind) || isNotOwner(r.err) || influxdb.IsClientError(r.err) {
		return r
	}
	if o.Handoff == nil {
		o.Copies.Missed(d.node, d.shard, false)
		return r
	}
	reqs, err := messages()
	if err != nil {
		return result{err: err}
	}
	return o.hint(d, reqs, r)
}

// judge tells a partial write, after which the owner has the other points, from a failure.
func judge(points int, err error) result {
	var p tsdb.PartialWriteError
	if errors.As(err, &p) {
		return result{took: points - p.Dropped, partial: &p}
	}
	return result{took: points, err: err}
}

// writeStore writes to this node's copy of a shard and creates it where it is missing.
func (c *ownCopies) writeStore(ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) error {
	err := c.Shards.WriteToShard(ctx, id, points)
	if errors.Is(err, tsdb.ErrShardNotFound) {
		err = c.beginShard(ctx, id, db, policy, points)
	}
	if errors.Is(err, tsdb.ErrShardDeletion) {
		return tsdb.PartialWriteError{
			Reason:  fmt.Sprintf("shard %d is pending deletion", id),
			Dropped: len(points), Database: db, RetentionPolicy: policy,
		}
	}
	return err
}

// beginShard creates the copy of a shard, unless another write did so meanwhile, and writes to it. Only one of several
// first writes begins the copy. If a second one began it as well, the copy would look as if it was lost in between.
func (c *ownCopies) beginShard(ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) error {
	l := c.creating.Of(id)
	l.Lock()
	defer l.Unlock()
	if err := c.Shards.WriteToShard(ctx, id, points); !errors.Is(err, tsdb.ErrShardNotFound) {
		return err
	}
	// The shard may have been moved, and its files removed, while this write was under way.
	if err := c.disowned(id); err != nil {
		return err
	}
	if err := c.Copies.Begin(id); err != nil {
		return err
	}
	if err := c.Shards.CreateShard(db, policy, id, true); err != nil {
		return err
	}
	return c.Shards.WriteToShard(ctx, id, points)
}

// writeRemote writes the messages in turn, within WriteTimeout. From the first that fails and may succeed later, they
// go to hinted handoff. It sets the fields of at that differ for each message.
func (o *outgoing) writeRemote(d *delivery, reqs []*rpc.WriteShardRequest, at sending) result {
	var all result
	for i, req := range reqs {
		if o.Handoff != nil && o.Handoff.Pending(d.node, d.shard) {
			return o.hintRest(d, all, reqs[i:], result{err: errQueueNotEmpty})
		}
		at.write, at.noneBelow, at.owners = partOf(d.write, i), partOf(o.lanes.noneBelow(d.shard), 0), d.owners
		r := o.send(d.ctx, d.node, req, at)
		at.onlyWhole = false // it has a part of the write
		if r.undecided || errors.Is(r.err, errBehind) {
			return r
		}
		if r.err != nil {
			if r.permanent || isNotOwner(r.err) {
				return r
			}
			return o.hintRest(d, all, reqs[i:], r)
		}
		all.took += r.took
		if r.partial != nil {
			all.partial = merge(all.partial, *r.partial)
			all.typeConflicts = append(all.typeConflicts, r.typeConflicts...)
		}
	}
	return all
}

// sending is the place of a message among those of this process.
type sending struct {
	hinted             bool
	write              uint64 // as in WriteShardRequest
	noneBelow          uint64 // NoneUnderWayBelow there: no write below it is under way
	decides, onlyWhole bool   // as there
	owners             []uint64
}

// partOf is the number of one message of a write.
func partOf(write uint64, part int) uint64 { return write<<8 | uint64(min(part, 255)) }

// send sends a message to a node.
func (o *outgoing) send(ctx context.Context, node uint64, req *rpc.WriteShardRequest, at sending) result {
	o.points.remote.Add(int64(len(req.Points)))
	return o.call(ctx, node, req, len(req.Points), at, rpc.ReplicationClient.WriteShard)
}

// call sends the points of a message. How says in which form.
func (o *outgoing) call(
	ctx context.Context, node uint64, req *rpc.WriteShardRequest, points int, at sending,
	how func(rpc.ReplicationClient, context.Context, *rpc.WriteShardRequest, ...grpc.CallOption) (
		*rpc.WriteShardResponse, error),
) result {
	n, ok := o.Meta.DataNode(node)
	if !ok {
		// What was queued is kept until it is clear that the node is gone: then its queue goes, and not an entry.
		return result{err: fmt.Errorf("owner %d of shard %d is not in the cluster", node, req.ShardId), permanent: !at.hinted}
	}
	var resp *rpc.WriteShardResponse
	conn, err := o.Pool.Conn(n.TCPAddr)
	if err == nil {
		resp, err = how(rpc.NewReplicationClient(conn), ctx, &rpc.WriteShardRequest{
			ShardId: req.ShardId, Database: req.Database, RetentionPolicy: req.RetentionPolicy,
			UserId: req.UserId, Points: req.Points,
			Sender: o.sender, SenderNode: o.Meta.NodeID(), Hinted: at.hinted,
			Write: at.write, NoneUnderWayBelow: at.noneBelow, Decides: at.decides, OnlyWhole: at.onlyWhole,
			Version: req.Version, Spans: req.Spans, Yields: req.Yields, Owners: at.owners,
		})
	}
	if err == nil {
		o.heard(resp.Clock)
		return answered(req, points, resp)
	}
	if errors.Is(err, errNoBatches) {
		return result{err: err}
	}
	if status.Code(err) == codes.Aborted {
		return result{err: &notOwnerError{"data node " + n.TCPAddr, req.ShardId}}
	}
	if o.Handoff == nil {
		o.missed.note(o.Log, n.TCPAddr, points, err)
	}
	switch c := status.Code(err); {
	// Canceled: the peer saw the deadline first. For a hint it says why, and the log of hinted handoff passes that on.
	case c == codes.DeadlineExceeded, c == codes.Canceled && !at.hinted, ctx.Err() != nil:
		return result{err: coordinator.ErrTimeout}
	case c == codes.NotFound:
		return result{err: errShardDeleted, permanent: !at.hinted} // its queue goes when the metadata says so here, too
	case c == codes.InvalidArgument, c == codes.ResourceExhausted:
		return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, rpc.Message(err)), permanent: true}
	}
	return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, rpc.Message(err))}
}

// answered is the result of a write of some points to which the owner has answered.
func answered(req *rpc.WriteShardRequest, points int, resp *rpc.WriteShardResponse) result {
	switch {
	case resp.Undecided:
		return result{undecided: true}
	case resp.Behind:
		return result{err: errBehind}
	case resp.Partial:
		return result{
			took: points - int(resp.Dropped), typeConflicts: resp.TypeConflicts,
			partial: &tsdb.PartialWriteError{
				Reason: resp.Error, Dropped: int(resp.Dropped), Database: req.Database, RetentionPolicy: req.RetentionPolicy,
			},
		}
	case resp.Error != "":
		// As the local store's: callers match its beginning.
		return result{err: errors.New(resp.Error), permanent: !resp.Temporary}
	}
	return result{took: points}
}
