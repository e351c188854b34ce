package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// errQueueNotEmpty says that a write went behind others in hinted handoff.
var errQueueNotEmpty = errors.New("hinted handoff queue not empty")

// Handoff keeps what a node misses.
type Handoff interface {
	Append(node, shard uint64, entries ...handoff.Entry) error
	Pending(node, shard uint64) bool
	Waiting() []handoff.Waiting
	Heard(node uint64)
}

// hint queues the messages of a write for an owner.
func (o *outgoing) hint(d *delivery, reqs []*rpc.WriteShardRequest, failed result) result {
	cause := failed.err
	if o.Handoff == nil {
		o.Copies.Missed(d.node, d.shard, false)
		return result{err: cause}
	}
	entries, err := entriesOf(reqs)
	if err == nil {
		err = o.Handoff.Append(d.node, d.shard, entries...)
	}
	if err != nil {
		return result{err: fmt.Errorf("%w; and hinted handoff: %w", cause, err)}
	}
	for _, e := range entries {
		o.points.hinted.Add(int64(e.Points))
	}
	if d.verdict.note(lacks{d.lane, true}) {
		o.Copies.Missed(d.node, d.shard, true)
	}
	return result{err: cause, hinted: true}
}

// hintRest queues the rest of a write of which the owner has the first messages. What it refused of these may be on
// other owners.
func (o *outgoing) hintRest(d *delivery, first result, rest []*rpc.WriteShardRequest, failed result) result {
	if _, member := o.Meta.DataNode(d.node); member && first.partial != nil && d.verdict.note(lacks{d.lane, false}) {
		o.Copies.Missed(d.node, d.shard, false)
	}
	return o.hint(d, rest, failed)
}

// entriesOf are the messages of a write as hinted handoff keeps them.
func entriesOf(reqs []*rpc.WriteShardRequest) ([]handoff.Entry, error) {
	entries := make([]handoff.Entry, len(reqs))
	for i, r := range reqs {
		b, err := proto.Marshal(r)
		if err != nil {
			return nil, err
		}
		entries[i] = handoff.Entry{Kind: handoff.Write, Points: len(r.Points), Data: b}
	}
	return entries, nil
}

// Entries returns a write to a shard as hinted handoff keeps it.
func (o *outgoing) Entries(
	shard uint64, db, policy string, v order.Version, points []models.Point,
) ([]handoff.Entry, error) {
	reqs, _, err := encode(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shard, db, policy, points)
	if err != nil {
		return nil, err
	}
	stamp(reqs, v, false)
	return entriesOf(reqs)
}

// holdsDeletes reports whether deletes wait here for a node.
func (c *ownCopies) holdsDeletes(node uint64) bool {
	return c.Handoff != nil && c.Handoff.Pending(node, handoff.WholeDatabase)
}

// DeliverWrites sends entries of hinted handoff that are writes to a node, as one message. It returns how many entries
// the node has. removed returns which points of a write with a version are left out (nil for none), or why the write
// has to wait. When the message fails because of one of the entries, the first entry is tried alone, to find the bad
// one.
func (o *outgoing) DeliverWrites(
	ctx context.Context, node uint64, entries []handoff.Entry,
	removed func(version uint64) (func(models.Point) bool, error),
) (int, error) {
	var all joinedWrites
	n := 0 // entries
	for _, e := range entries {
		if err := all.add(e, removed); err != nil && n == 0 {
			return 0, err
		} else if err != nil {
			break // it is met again when those before it are delivered
		}
		n++
	}
	var err error
	if len(all.req.Points) > 0 || all.points == 0 {
		err = o.deliverRequest(ctx, node, all.req)
	}
	var permanent *handoff.PermanentError
	if errors.As(err, &permanent) && n > 1 {
		return o.DeliverWrites(ctx, node, entries[:1], removed)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// joinedWrites is one message with the writes of several entries of hinted handoff.
type joinedWrites struct {
	req    *rpc.WriteShardRequest
	points int // of the entries, also those that are left out
}

func (j *joinedWrites) add(e handoff.Entry, removed func(version uint64) (func(models.Point) bool, error)) error {
	next := &rpc.WriteShardRequest{}
	if err := proto.Unmarshal(e.Data, next); err != nil {
		return &handoff.PermanentError{Err: fmt.Errorf("malformed entry: %w", err)}
	}
	leaveOut, err := removed(next.Version)
	if err != nil {
		return err
	}
	kept, err := without(next.Points, leaveOut)
	if err != nil {
		return &handoff.PermanentError{Err: err}
	}
	span := &rpc.VersionSpan{Version: next.Version, Points: uint32(len(kept))}
	j.points += len(next.Points)
	if j.req == nil {
		j.req = next
		j.req.Points, j.req.Version = nil, 0
	}
	if len(kept) > 0 {
		j.req.Points = append(j.req.Points, kept...)
		j.req.Spans = append(j.req.Spans, span)
	}
	return nil
}

// without returns the points of a write for which removed is false. Removed may be nil.
func without(encoded [][]byte, removed func(models.Point) bool) ([][]byte, error) {
	if removed == nil {
		return encoded, nil
	}
	kept := make([][]byte, 0, len(encoded))
	for _, b := range encoded {
		p, err := decodePoint(b)
		if err != nil {
			return nil, err
		}
		if !removed(p) {
			kept = append(kept, b)
		}
	}
	return kept, nil
}

func (o *outgoing) deliverRequest(ctx context.Context, node uint64, req *rpc.WriteShardRequest) error {
	l := lane{node, req.ShardId}
	ctx, cancel := context.WithTimeout(ctx, o.patience.of(l, o.WriteTimeout))
	defer cancel()
	var r result
	if node == o.Meta.NodeID() {
		points, err := decodePoints(req.Points)
		if err != nil {
			return &handoff.PermanentError{Err: err}
		}
		if err = o.disowned(req.ShardId); err == nil {
			err = o.acceptSpans(req, points)
		}
		r = judge(len(points), err)
	} else {
		r = o.send(ctx, node, req, sending{hinted: true})
	}
	o.patience.note(l, r.err)
	switch {
	case r.partial != nil:
		o.Log.Warn("A write out of hinted handoff was partial: the dropped points can never be written",
			zap.Uint64("node_id", node), zap.Uint64("db_shard_id", req.ShardId),
			zap.Int("dropped", r.partial.Dropped), zap.String("reason", r.partial.Reason))
		o.Copies.Missed(node, req.ShardId, false) // other owners may have taken them
		return nil
	case r.err != nil && r.permanent:
		return &handoff.PermanentError{Err: r.err}
	}
	return r.err
}
