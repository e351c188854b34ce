package replication

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// errNoBatches is of a node of the version before batches.
var errNoBatches = errors.New("the node takes no batches")

// retryBatches is how long such a node gets points one by one, before it is asked anew.
const retryBatches = time.Minute

// batchless are the nodes that take no batches.
type batchless struct {
	mu    sync.Mutex
	until map[uint64]time.Time // when they are asked anew
}

func (b *batchless) note(node uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until == nil {
		b.until = make(map[uint64]time.Time)
	}
	b.until[node] = time.Now().Add(retryBatches)
}

// takes reports whether a node may take batches.
func (b *batchless) takes(node uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, noted := b.until[node]
	if noted && time.Now().After(until) {
		delete(b.until, node)
		noted = false
	}
	return !noted
}

// writeBatch writes a batch to another node, as writeRemote does with messages. The error is errNoBatches when nothing
// was written, because the node knows no batches.
func (o *outgoing) writeBatch(a *shardWrite, d *delivery, yields bool) result {
	if o.Handoff != nil && o.Handoff.Pending(d.node, d.shard) {
		return o.hintWrite(a, d, result{err: errQueueNotEmpty})
	}
	r := o.call(d.ctx, d.node, &rpc.WriteShardRequest{
		ShardId: d.shard, Database: a.db, RetentionPolicy: a.policy, UserId: a.ctx.UserId,
		Version: uint64(d.version), Yields: yields,
	}, a.batch.Len(), sending{
		write: partOf(d.write, 0), noneBelow: partOf(o.lanes.noneBelow(d.shard), 0), owners: d.owners,
	}, func(
		c rpc.ReplicationClient, ctx context.Context, w *rpc.WriteShardRequest, opts ...grpc.CallOption,
	) (*rpc.WriteShardResponse, error) {
		resp, err := c.WriteBatch(ctx, &rpc.WriteBatchRequest{
			Write: w, Batch: a.batch.Encoded(), Points: uint32(a.batch.Len()),
		}, opts...)
		if status.Code(err) == codes.Unimplemented {
			err = errNoBatches
		}
		return resp, err
	})
	if errors.Is(r.err, errNoBatches) {
		return r
	}
	o.points.remote.Add(int64(a.batch.Len()))
	if r.err == nil || r.permanent || errors.Is(r.err, errBehind) || isNotOwner(r.err) {
		return r
	}
	return o.hintWrite(a, d, r)
}

// hintWrite queues a write for an owner.
func (o *outgoing) hintWrite(a *shardWrite, d *delivery, failed result) result {
	requests, err := a.messages()
	if err != nil {
		return result{err: err}
	}
	return o.hint(d, requests, failed)
}
