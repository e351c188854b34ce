package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
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

// recentDelete is a delete that came while writes may have been under way.
type recentDelete struct {
	at    time.Time
	req   *rpc.ExecuteRequest
	noted chan struct{} // closed when it is behind all that was queued before it
	err   error         // valid then: why it is not

	failed bool // err is not nil; guarded by recentDeletes.mu
}

type recentDeletes struct {
	mu   sync.Mutex
	list []*recentDelete
}

// add remembers a delete, and tells whether it has to be noted: it is new, or could not be noted before.
func (r *recentDeletes) add(req *rpc.ExecuteRequest, keep time.Duration) (*recentDelete, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.list = slices.DeleteFunc(r.list, func(d *recentDelete) bool { return now.Sub(d.at) > keep })
	for i, d := range r.list {
		if d.req.Id != req.Id || req.Id == "" {
			continue
		}
		if d.failed {
			d = &recentDelete{at: d.at, req: req, noted: make(chan struct{})}
			r.list[i] = d
			return d, true
		}
		return d, false
	}
	d := &recentDelete{at: now, req: req, noted: make(chan struct{})}
	r.list = append(r.list, d)
	return d, true
}

// done tells that a delete was noted, or could not be.
func (r *recentDeletes) done(d *recentDelete, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.err, d.failed = err, err != nil
	close(d.noted)
}

// since lists the deletes of a database that came after t.
func (r *recentDeletes) since(db string, t time.Time) []*rpc.ExecuteRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rpc.ExecuteRequest
	for _, d := range r.list {
		if d.req.Database == db && !d.at.Before(t) {
			out = append(out, d.req)
		}
	}
	return out
}

// hint queues the messages of a write for an owner. Deletes that came since the
// write began follow it, and take their points out of it.
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
	for _, del := range w.recentSince(d.db, d.began, d.node) {
		e, err := w.boundedDelete(del, d.shard)
		if err != nil {
			return result{err: fmt.Errorf("%w; and hinted handoff: %w", cause, err)}
		}
		entries = append(entries, e...)
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

// recentSince lists the deletes that follow a write in the queue for a node. A node that knows versions orders them
// itself.
func (w *Writer) recentSince(db string, began time.Time, node uint64) []*rpc.ExecuteRequest {
	return slices.DeleteFunc(w.recent.since(db, began), func(d *rpc.ExecuteRequest) bool { return w.ordered(d, node) })
}

// ordered reports whether a delete and the node that runs it know versions: then the node leaves out what is older
// than the delete, and nothing has to be taken out of queues. A delete that is refused must remove nothing.
func (w *Writer) ordered(d *rpc.ExecuteRequest, node uint64) bool {
	if w.Order == nil || d.Version == 0 {
		return false
	}
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	_, told := w.floors.told[node]
	return told || w.floors.knows[node] || node == w.meta.NodeID()
}

// allOrdered reports whether all other data nodes know versions: what is older than a delete is left out then, whoever
// sends it.
func (w *Writer) allOrdered() bool {
	if w.Order == nil {
		return false
	}
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	return !slices.ContainsFunc(w.meta.DataNodes(), func(n cluster.Node) bool {
		_, told := w.floors.told[n.ID]
		return !told && n.ID != w.meta.NodeID()
	})
}

// boundedDelete is a delete of what waits before it in the queue of one shard, none when the shard is gone.
func (w *Writer) boundedDelete(req *rpc.ExecuteRequest, shard uint64) ([]handoff.Entry, error) {
	sh, ok := w.meta.Shard(shard)
	if !ok && len(w.meta.DataNodes()) == 0 {
		return nil, errors.New("the cluster's metadata is not here yet") // which says nothing of the shard
	}
	if !ok || sh.Database != req.Database {
		return nil, nil
	}
	r := proto.Clone(req).(*rpc.ExecuteRequest)
	r.ShardId, r.InQueueAlone = shard, true
	r.Bounds = &rpc.DeleteBounds{RetentionPolicy: sh.RetentionPolicy, Start: sh.Start, End: sh.GroupEnd}
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	return []handoff.Entry{{Kind: handoff.Delete, Data: b}}, nil
}

// ran tells whether a delete ran here.
func (w *Writer) ran(id string) bool { return w.Deletes != nil && w.Deletes.Ran(id) }

// runDelete runs a delete or a drop on this node's store, and remembers a
// delete that is not bounded. Close waits for it: the engine's store hangs for ever when it is
// closed while series are dropped.
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
	running := fmt.Sprintf("run %x", w.lanes.next())
	w.deletes.begin(r.Database, running, announced{at: time.Now()})
	defer func() { w.deletes.end(r.Database, running, time.Now()) }()
	if r.Bounds == nil {
		// What was sent before the delete, by this node or others, must not end after it.
		if hung := w.lanes.await(r.Database, w.meta.NodeID(), deleteTimeout); len(hung) > 0 {
			return fmt.Errorf("writes from before the delete do not end: run it again")
		}
		w.fences.bar(r.Database, r.Barriers)
	}
	versioned := r.Version != 0 && r.Bounds == nil && w.Order != nil
	if versioned {
		w.removals.announce(r, time.Now())
		w.removals.add(r)
	}
	var newer []acceptedWrite
	if versioned && r.Hinted {
		if newer, err = w.newerInStore(store, r); err != nil {
			return err
		}
	}
	if err := execute(store, r); err != nil {
		return err
	}
	if versioned {
		for _, n := range append(newer, w.removals.newer(r)...) {
			user := tsdb.WriteContext{UserId: tsdb.UnknownUser}
			if err := w.accept(user, n.shard, r.Database, n.policy, n.version, true, n.points); err != nil {
				return fmt.Errorf("write again what is newer than the delete: %w", err)
			}
		}
	}
	if w.Deletes == nil || r.Bounds != nil {
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

// noteWait is how long a delete waits for writes under way.
const noteWait = 3 * time.Second

// NoteDelete is told of every delete before it runs anywhere: it goes behind
// the writes that this node has queued for any owner, and takes its points out of them. What this node
// sent before the barrier that it returns, and what is still under way, is void for owners that
// ran the delete, and comes back into the queue, before the delete.
// A delete that was noted before is not noted again.
func (w *Writer) NoteDelete(req *rpc.ExecuteRequest) (*rpc.Barrier, error) {
	w.deletes.next(req.Database)
	if w.Handoff == nil {
		return nil, nil
	}
	d, isNew := w.recent.add(req, 6*w.WriteTimeout+time.Minute)
	if isNew {
		w.recent.done(d, w.noteBehind(req))
	}
	<-d.noted
	return w.barrier(), d.err
}

// noteBehind queues a delete behind all that was queued before it. A write that is under way is either in a queue
// by then, or finds the delete among the recent ones when it gets there.
func (w *Writer) noteBehind(req *rpc.ExecuteRequest) error {
	w.lanes.await(req.Database, 0, noteWait)
	for _, q := range w.Handoff.Waiting() {
		if w.ordered(req, q.Node) {
			continue
		}
		entries, err := w.boundedDelete(req, q.Shard)
		if err == nil && len(entries) > 0 {
			err = w.Handoff.Append(q.Node, q.Shard, entries...)
		}
		if err != nil {
			// Without it the writes before it would bring back what it removes.
			return fmt.Errorf("queue the delete for data node %d: %w", q.Node, err)
		}
	}
	return nil
}

// barrier is between what this node has sent and what it will send.
func (w *Writer) barrier() *rpc.Barrier {
	return &rpc.Barrier{Sender: w.sender, Sequence: w.lanes.next()}
}

// holdsDeletes tells whether deletes wait here for a node. Until it has them, what
// comes out of its own hinted handoff may be points that they remove.
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
		// Writes of that node which were let in before must not end after the delete.
		w.arrivals.wait(n)
	}
	return errors.Join(errs...)
}

// arrivals are held for reading while a write of another node is checked and written here.
type arrivals struct {
	mu sync.Mutex
	m  map[uint64]*sync.RWMutex
}

// wait returns when the writes of a node that run now have ended.
func (a *arrivals) wait(node uint64) {
	l := a.of(node)
	l.Lock()
	defer l.Unlock()
}

func (a *arrivals) of(node uint64) *sync.RWMutex {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = make(map[uint64]*sync.RWMutex)
	}
	l := a.m[node]
	if l == nil {
		l = &sync.RWMutex{}
		a.m[node] = l
	}
	return l
}

// Deliver sends entries of hinted handoff to a node: handoff.Deps.Deliver.
func (w *Writer) Deliver(ctx context.Context, node, shard uint64, entries []handoff.Entry, behind func() []handoff.Entry) (int, error) {
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
		// Anew behind each delete, which voids what has a sequence below its own. And in this order: a
		// delete that is not behind the entries yet has a barrier above the sequence.
		sequence := w.lanes.next()
		waiting := behind()
		deletes, err := w.coverings(shard, entries[end:], waiting)
		if err != nil {
			return i, err
		}
		n, err := w.deliverWrites(ctx, node, sequence, entries[i:end], deletes)
		if i += n; err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// coverings are the deletes among entries that wait behind writes of a shard.
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
func (w *Writer) deliverWrites(ctx context.Context, node, sequence uint64, entries []handoff.Entry, deletes []*covering) (int, error) {
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
		err = w.deliverRequest(ctx, node, sequence, req)
	}
	var never *handoff.PermanentError
	if errors.As(err, &never) && n > 1 {
		return w.deliverWrites(ctx, node, sequence, entries[:1], deletes)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (w *Writer) deliverRequest(ctx context.Context, node, sequence uint64, req *rpc.WriteShardRequest) error {
	ctx, cancel := context.WithTimeout(ctx, w.WriteTimeout)
	defer cancel()
	var r result
	if node == w.meta.NodeID() {
		points, err := decodePoints(req.Points)
		if err != nil {
			return &handoff.PermanentError{Err: err}
		}
		release, ok := w.fences.pass(ctx, w.sender, req.ShardId, sequence, true, req.Database)
		if !ok {
			return errors.New("a delete came meanwhile")
		}
		defer release()
		r = judge(w.acceptSpans(req, points))
	} else {
		r = w.send(ctx, node, req, sending{sequence: sequence, hinted: true})
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

// runOwnDelete runs a delete on this node that failed here before.
func (w *Writer) runOwnDelete(req *rpc.ExecuteRequest) error {
	if req.Bounds == nil {
		release, ok := w.fences.once(req.Id, w.ran)
		if !ok {
			return nil
		}
		defer release()
	}
	req.Hinted = true
	err := w.runDelete(w.store, req)
	if neverRuns(err) {
		return &handoff.PermanentError{Err: err}
	}
	return err
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
	if node == w.meta.NodeID() {
		if req.InQueueAlone {
			return nil
		}
		return w.runOwnDelete(req)
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
	req.Hinted, req.Sender, req.Sequence = true, w.sender, w.lanes.next()
	resp, err := rpc.NewReplicationClient(conn).Execute(ctx, req)
	switch {
	case status.Code(err) == codes.InvalidArgument:
		return &handoff.PermanentError{Err: errors.New(rpc.Message(err))}
	case err != nil:
		return errors.New(rpc.Message(err))
	case resp.Error != "":
		return errors.New(resp.Error)
	}
	if resp.Barrier != nil {
		// The node missed the delete, and no write of its is taken until now.
		w.fences.bar(req.Database, []*rpc.Barrier{resp.Barrier})
	}
	return nil
}
