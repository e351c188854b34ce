package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
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
func (w *Writer) hint(d *delivery, reqs []*rpc.WriteShardRequest, failed result) result {
	cause := failed.err
	if w.Handoff == nil {
		w.missedBy(d.node, d.shard, false)
		return result{err: cause}
	}
	var entries []handoff.Entry
	points := 0
	for _, r := range reqs {
		b, err := proto.Marshal(r)
		if err != nil {
			return result{err: fmt.Errorf("%w; and hinted handoff: %w", cause, err)}
		}
		points += len(r.Points)
		entries = append(entries, handoff.Entry{Kind: handoff.Write, Points: len(r.Points), Data: b})
	}
	if err := w.Handoff.Append(d.node, d.shard, entries...); err != nil {
		return result{err: fmt.Errorf("%w; and hinted handoff: %w", cause, err)}
	}
	w.stats.hinted.Add(int64(points))
	if d.verdict.keep(d.lane) {
		w.missedBy(d.node, d.shard, true)
	}
	return result{err: cause, hinted: true}
}

// holdsDeletes tells whether deletes wait here for a node.
func (w *Writer) holdsDeletes(node uint64) bool {
	return w.Handoff != nil && w.Handoff.Pending(node, handoff.WholeDatabase)
}

// DeliverWrites sends entries of hinted handoff that are writes to a node, as one, and returns how many of them the
// node has. Removed returns which points of a write with a version are left out, nil for none. When they cannot be
// sent as one for what one of them holds, the first is tried alone, to find it.
func (w *Writer) DeliverWrites(
	ctx context.Context, node uint64, entries []handoff.Entry, removed func(version uint64) func(models.Point) bool,
) (int, error) {
	var req *rpc.WriteShardRequest
	n, had := 0, 0 // entries, and points before some were left out
	for _, e := range entries {
		next := &rpc.WriteShardRequest{}
		if err := proto.Unmarshal(e.Data, next); err != nil {
			if n > 0 {
				break
			}
			return 0, &handoff.PermanentError{Err: fmt.Errorf("malformed entry: %w", err)}
		}
		kept, err := without(next.Points, removed(next.Version))
		if err != nil && n > 0 {
			break
		} else if err != nil {
			return 0, &handoff.PermanentError{Err: err}
		}
		span := &rpc.VersionSpan{Version: next.Version, Points: uint32(len(kept))}
		had += len(next.Points)
		if req == nil {
			req = next
			req.Points, req.Version = nil, 0
		}
		if len(kept) > 0 {
			req.Points = append(req.Points, kept...)
			req.Spans = append(req.Spans, span)
		}
		n++
	}
	var err error
	if len(req.Points) > 0 || had == 0 {
		err = w.deliverRequest(ctx, node, req)
	}
	var permanent *handoff.PermanentError
	if errors.As(err, &permanent) && n > 1 {
		return w.DeliverWrites(ctx, node, entries[:1], removed)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// without returns the points of a write that removed, nil for none, does not say.
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

func (w *Writer) deliverRequest(ctx context.Context, node uint64, req *rpc.WriteShardRequest) error {
	ctx, cancel := context.WithTimeout(ctx, w.WriteTimeout)
	defer cancel()
	var r result
	if node == w.meta.NodeID() {
		points, err := decodePoints(req.Points)
		if err != nil {
			return &handoff.PermanentError{Err: err}
		}
		r = judge(w.acceptSpans(req, points))
	} else {
		r = w.send(ctx, node, req, sending{hinted: true})
	}
	switch {
	case r.partial != nil:
		w.log.Warn("A write out of hinted handoff was partial: the dropped points can never be written",
			zap.Uint64("node_id", node), zap.Uint64("db_shard_id", req.ShardId), zap.Int("dropped", r.partial.Dropped), zap.String("reason", r.partial.Reason))
		return nil
	case r.err != nil && r.permanent:
		return &handoff.PermanentError{Err: r.err}
	}
	return r.err
}
