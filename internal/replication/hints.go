package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// ran tells whether a delete ran here.
func (w *Writer) ran(id string) bool { return w.Deletes != nil && w.Deletes.Ran(id) }

// runOnce is runDelete, unless the delete ran here or runs: several nodes may bring the same one.
func (w *Writer) runOnce(r *rpc.ExecuteRequest) error {
	_, err, _ := w.running.Do(r.Id, func() (any, error) {
		if w.ran(r.Id) {
			return nil, nil
		}
		return nil, w.runDelete(w.store, r)
	})
	return err
}

// runDelete runs a delete or a drop on this node's store, and remembers a delete. Close waits for it: the engine's store
// hangs for ever when it is closed while series are dropped.
func (w *Writer) runDelete(store *tsdb.Store, r *rpc.ExecuteRequest) (err error) {
	w.mu.RLock()
	if !w.opened {
		w.mu.RUnlock()
		return errors.New("this node is starting or shutting down")
	}
	w.wg.Add(1)
	w.mu.RUnlock()
	defer w.wg.Done()
	if !isDelete(r.Kind) {
		return execute(store, r)
	}
	defer func() {
		if err != nil && w.Failed != nil {
			w.Failed(r.Database, err)
		}
	}()
	// While it runs a copy has the points in some files and not in others.
	running := fmt.Sprintf("run %x", w.deleteIDs.Add(1))
	w.deletes.begin(r.Database, running, announced{at: time.Now()})
	defer func() { w.deletes.end(r.Database, running, time.Now()) }()
	if r.Version == 0 { // of a node without versions
		r.Version = uint64(w.Order.Clock.Next())
	}
	w.removals.announce(r, time.Now())
	w.removals.add(r)
	var newer []acceptedWrite
	if r.Hinted {
		if newer, err = w.newerInStore(store, r); err != nil {
			return err
		}
	}
	if err := execute(store, r); err != nil {
		return err
	}
	for _, n := range append(newer, w.removals.newer(r)...) {
		user := tsdb.WriteContext{UserId: tsdb.UnknownUser}
		if err := w.accept(user, n.shard, r.Database, n.policy, n.version, true, n.points); err != nil {
			return fmt.Errorf("write again what is newer than the delete: %w", err)
		}
	}
	if w.Deletes == nil {
		return nil
	}
	return w.Deletes.Record(r)
}

// DeletesSeen is a number for a shard's database that every delete changes which
// this node hears of or runs; 0 for an unknown shard. It is never the same again after a restart.
func (w *Writer) DeletesSeen(shard uint64) uint64 {
	sh, ok := w.meta.Shard(shard)
	if !ok {
		return 0
	}
	return w.deletes.seen(sh.Database)
}

// HoldDeletes keeps deletes of a shard's database from being announced or run here until release, unless
// one was since DeletesSeen gave seen, or is under way: then ok is false, and what was read
// elsewhere since may have been deleted, or be about to be.
func (w *Writer) HoldDeletes(shard, seen uint64) (release func(), ok bool) {
	sh, known := w.meta.Shard(shard)
	w.deletes.mu.RLock()
	if known && w.deletes.count(sh.Database) == seen && !w.deletes.underWay(sh.Database, time.Now()) {
		return w.deletes.mu.RUnlock, true
	}
	w.deletes.mu.RUnlock()
	return nil, false
}

// holdsDeletes tells whether deletes wait here for a node.
func (w *Writer) holdsDeletes(node uint64) bool {
	return w.Handoff != nil && w.Handoff.Pending(node, handoff.WholeDatabase)
}

// HintDelete keeps a delete for nodes that were not reached, or on which it failed. That may be this one.
func (w *Writer) HintDelete(req *rpc.ExecuteRequest, nodes []uint64) error {
	if w.Handoff == nil {
		return errors.New("[hinted-handoff] enabled is false")
	}
	b, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		errs = append(errs, w.Handoff.Append(n, handoff.WholeDatabase, handoff.Entry{Kind: handoff.Delete, Data: b}))
		w.missedBy(n, handoff.WholeDatabase, true)
	}
	return errors.Join(errs...)
}

// Deliver sends entries of hinted handoff to a node: handoff.Deps.Deliver.
func (w *Writer) Deliver(ctx context.Context, node, shard uint64, entries, behind []handoff.Entry) (int, error) {
	for i := 0; i < len(entries); {
		if entries[i].Kind == handoff.Delete {
			if err := w.deliverDelete(ctx, node, entries[i]); err != nil {
				return i, err
			}
			i++
			continue
		}
		end := i
		for end < len(entries) && entries[end].Kind == handoff.Write {
			end++
		}
		deletes, err := w.coverings(shard, entries[end:], behind)
		if err != nil {
			return i, err
		}
		n, err := w.deliverWrites(ctx, node, entries[i:end], deletes)
		if i += n; err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// coverings are the deletes among entries that wait behind writes of a shard. Only queues from before writes had
// versions have some.
func (w *Writer) coverings(shard uint64, lists ...[]handoff.Entry) (out []*covering, err error) {
	sh, ok := w.meta.Shard(shard)
	for _, entries := range lists {
		for _, e := range entries {
			if e.Kind != handoff.Delete {
				continue
			} else if !ok {
				return nil, fmt.Errorf("shard %d is not in the metadata", shard)
			}
			req := &rpc.ExecuteRequest{}
			err := proto.Unmarshal(e.Data, req)
			if err == nil {
				err = check(req)
			}
			if err != nil {
				continue // it is dropped as malformed when it is its turn
			}
			c, err := newCovering(req, sh.RetentionPolicy)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// deliverWrites sends writes as one, without the points that deletes behind
// them remove, and returns how many of them the node has. When they cannot be
// sent as one for what one of them holds, the first is tried alone, to find it.
func (w *Writer) deliverWrites(
	ctx context.Context, node uint64, entries []handoff.Entry, deletes []*covering,
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
		kept, err := withoutDeleted(next.Points, next.Version, deletes)
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
	var never *handoff.PermanentError
	if errors.As(err, &never) && n > 1 {
		return w.deliverWrites(ctx, node, entries[:1], deletes)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
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
	case r.err != nil && r.never:
		return &handoff.PermanentError{Err: r.err}
	}
	return r.err
}

func (w *Writer) deliverDelete(ctx context.Context, node uint64, e handoff.Entry) error {
	req := &rpc.ExecuteRequest{}
	err := proto.Unmarshal(e.Data, req)
	if err == nil {
		err = check(req)
	}
	if err != nil {
		return &handoff.PermanentError{Err: fmt.Errorf("malformed entry: %w", err)}
	}
	if req.Bounds != nil {
		return nil // it took its points out of what was before it
	}
	req.Hinted = true
	if node == w.meta.NodeID() { // it failed here before
		err := w.runOnce(req)
		if neverRuns(err) {
			return &handoff.PermanentError{Err: err}
		}
		return err
	}
	n, ok := w.meta.DataNode(node)
	if !ok {
		return fmt.Errorf("data node %d is not in the cluster", node)
	}
	conn, err := w.pool.Conn(n.TCPAddr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	resp, err := rpc.NewReplicationClient(conn).Execute(ctx, req)
	switch {
	case status.Code(err) == codes.InvalidArgument:
		return &handoff.PermanentError{Err: errors.New(rpc.Message(err))}
	case err != nil:
		return errors.New(rpc.Message(err))
	case resp.Error != "":
		return errors.New(resp.Error)
	}
	return nil
}
