// Package replication is the write path: each point goes to all owners of its
// shard, and the consistency level decides the answer. Deletes run on every node.
package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/rpc"
)

var errNotJoined = errors.New("this data node is in no cluster yet: run influxd-ctl add-data")

// Metadata is what writes need to know of the cluster.
type Metadata interface {
	Database(name string) *emeta.DatabaseInfo
	RetentionPolicy(database, policy string) (*emeta.RetentionPolicyInfo, error)
	CreateShardGroup(database, policy string, at time.Time) (*emeta.ShardGroupInfo, error)
	NodeID() uint64
	DataNode(id uint64) (cluster.Node, bool)
	DataNodes() []cluster.Node
	Shard(id uint64) (cluster.Shard, bool)
}

// Shards takes writes to this node's copies of shards.
type Shards interface {
	WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error
	CreateShard(database, policy string, shard uint64, enabled bool) error
}

// Subscriber gets a copy of every write.
type Subscriber interface {
	Send(*coordinator.WritePointsRequest)
}

// Writer sends points to all owners of their shards, in parallel, and answers
// as soon as the consistency level is decided; the other owners go on in the
// background. What an owner misses goes to its hinted handoff queue, and while that is not empty, so
// does every later write, which keeps the order. Without hinted handoff it is
// counted, logged, and left to anti-entropy.
type Writer struct {
	WriteTimeout time.Duration // for one owner
	Handoff      Handoff       // nil when [hinted-handoff] enabled = false
	MaxPending   int           // writes under way to one node, with Handoff
	Deletes      *RanLog       // deletes that ran here; nil without Handoff
	Order        *Order        // nil when points have no versions
	// Begun, when set, is told of a shard that this node begins with a write: other owners
	// may have more of it.
	Begun func(shard uint64) error
	// Missed is told, before the write is acknowledged, that a node's copy of a shard lacks a write which this node
	// keeps for it (kept), or which nobody keeps; nil for none.
	Missed func(node, shard uint64, kept bool)
	// Lacks is told of a shard of which this node's copy lacks writes that other owners have; nil for none.
	Lacks func(shard uint64, why string)
	// Admit returns when the other nodes take writes from this one; nil when they always do.
	Admit func(ctx context.Context)
	// NotWhole reports whether this node's copy of a shard may lack acknowledged writes; nil when it never does.
	NotWhole func(ctx context.Context, shard uint64) bool
	// Deleted reports whether a shard that was in the metadata at index was deleted since; nil when that is not known.
	Deleted func(shard, index uint64) bool
	// Refresh makes the metadata as new as the leader's; nil when it always is.
	Refresh func() error
	// Shards takes the points; NewWriter sets the store.
	Shards Shards
	// Failed, when set, is told why a delete could not run on the store.
	Failed func(db string, err error)

	meta     Metadata
	store    *tsdb.Store
	sub      Subscriber
	pool     *rpc.Pool
	mapper   *coordinator.PointsWriter // maps points to shards
	log      *zap.Logger
	missed   missedLog
	sender   uint64 // this process, to peers
	started  uint64 // when it did, in nanoseconds
	lanes    lanes
	messages atomic.Uint64 // with points, sent to peers
	recent   recentDeletes
	fences   fences
	arrivals arrivals
	deletes  deleteCounts
	received received
	types    fieldTypes
	removals removals
	floors   floors
	newest   newestVersions

	mu     sync.RWMutex // held for reading while owners start, so that Close waits for them
	opened bool
	wg     sync.WaitGroup
	open   context.Context // from Open to Close
	close  context.CancelFunc

	stats struct {
		req, points, local, remote, hinted, ok, dropped, timeout, failed, sub atomic.Int64
	}
}

// NewWriter returns a writer that Open starts.
func NewWriter(meta Metadata, store *tsdb.Store, sub Subscriber, pool *rpc.Pool) *Writer {
	m := coordinator.NewPointsWriter()
	m.MetaClient = meta
	return &Writer{WriteTimeout: coordinator.DefaultWriteTimeout, meta: meta, store: store, sub: sub, pool: pool, Shards: store, mapper: m, log: zap.NewNop(), sender: rand.Uint64() | 1, started: uint64(time.Now().UnixNano()), deletes: deleteCounts{base: rand.Uint64()>>1 | 1}}
}

// WithLogger sets the logger; call it before Open.
func (w *Writer) WithLogger(log *zap.Logger) { w.log = log.With(zap.String("service", "write")) }

// Open makes the writer take writes.
func (w *Writer) Open() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = true
	if w.Order != nil {
		w.lanes.clock = w.Order.Clock
		if w.Deletes != nil {
			if err := w.Deletes.Each(w.removals.add); err != nil {
				return fmt.Errorf("read the deletes that ran here: %w", err)
			}
		}
	}
	w.open, w.close = context.WithCancel(context.Background())
	if w.Handoff != nil {
		w.lanes.maxPending = w.MaxPending
		w.wg.Add(1)
		go w.tellRestart()
	}
	return nil
}

// Close refuses new writes and waits for those to owners that go on, which is
// WriteTimeout at most.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.opened {
		w.close()
	}
	w.opened = false
	w.mu.Unlock()
	w.wg.Wait()
	return nil
}

// WritePointsInto takes the points of SELECT INTO.
func (w *Writer) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	return w.WritePointsPrivileged(tsdb.WriteContext{UserId: tsdb.SelectIntoUser}, r.Database, r.RetentionPolicy, models.ConsistencyLevelOne, r.Points)
}

// WritePoints takes the points of a client.
func (w *Writer) WritePoints(db, policy string, level models.ConsistencyLevel, user emeta.User, points []models.Point) error {
	id := tsdb.UnknownUser
	if user != nil {
		id = user.ID()
	}
	return w.WritePointsPrivileged(tsdb.WriteContext{UserId: id}, db, policy, level, points)
}

// WritePointsPrivileged writes points at a consistency level. A partial write is a
// tsdb.PartialWriteError, as in InfluxDB 1.x; a missed level is
// coordinator.ErrTimeout, ErrPartialWrite or the error of an owner.
func (w *Writer) WritePointsPrivileged(ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	w.stats.req.Add(1)
	w.stats.points.Add(int64(len(points)))
	if w.meta.NodeID() == 0 {
		return errNotJoined
	}
	if level < models.ConsistencyLevelAny || level > models.ConsistencyLevelAll {
		return models.ErrInvalidConsistencyLevel
	}
	if w.Admit != nil {
		w.Admit(context.Background())
	}
	err := w.place(ctx, db, policy, level, points)
	if errors.Is(err, errShardDeleted) && w.Refresh != nil && w.Refresh() == nil {
		err = w.place(ctx, db, policy, level, points) // it was dropped, and this node did not know
	}
	return err
}

// place sends points to the shards that this node's metadata says.
func (w *Writer) place(ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	if policy == "" {
		info := w.meta.Database(db)
		if info == nil {
			return influxdb.ErrDatabaseNotFound(db)
		}
		policy = info.DefaultRetentionPolicy
	}
	mapping, err := w.mapper.MapShards(&coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points})
	if err != nil {
		return err
	}
	results := make(chan error, len(mapping.Points))
	for id, pts := range mapping.Points {
		go func() { results <- w.writeShard(ctx, mapping.Shards[id], db, policy, level, pts) }()
	}
	w.sub.Send(&coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points})
	w.stats.sub.Add(1)

	var partial *tsdb.PartialWriteError
	if n := mapping.Dropped(); n > 0 {
		w.stats.dropped.Add(int64(n))
		partial = &tsdb.PartialWriteError{
			Reason: mapping.SummariseDropped(), Dropped: n, Database: db, RetentionPolicy: policy,
		}
	}
	var failed error
	for range mapping.Points {
		var p tsdb.PartialWriteError
		switch err := <-results; {
		case err == nil:
		case errors.As(err, &p):
			partial = merge(partial, p)
		case failed == nil:
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	if partial != nil {
		return *partial
	}
	return nil
}

// errShardDeleted is for a write to a shard that is not in the metadata any more.
var errShardDeleted = errors.New("the shard was dropped")

// deleted reports whether a shard that was in the metadata at index was deleted since.
func (w *Writer) deleted(shard, index uint64) bool {
	return w.Deleted != nil && w.Deleted(shard, index)
}

// result is what one owner made of a write.
type result struct {
	err     error // of the owner or of the way to it
	partial *tsdb.PartialWriteError
	hinted  bool // with err: the write is in hinted handoff
	never   bool // with err: the same write can never succeed

	undecided bool             // nothing was written: the owner's copy is not whole, and another one decides
	conflicts []*rpc.FieldType // with partial, of an owner that decides: the types that it has
}

// required is how many of n owners must have written.
func required(level models.ConsistencyLevel, n int) int {
	switch level {
	case models.ConsistencyLevelAll:
		return n
	case models.ConsistencyLevelQuorum:
		return n/2 + 1
	}
	return 1
}

// writeShard writes to all owners and returns when the level is decided. A write with fields that the shard is not
// known to have goes to one owner first, which decides their types.
func (w *Writer) writeShard(ctx tsdb.WriteContext, shard *emeta.ShardInfo, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	owners := shard.Owners
	if len(owners) == 0 {
		return fmt.Errorf("%w: shard %d has no owners", coordinator.ErrWriteFailed, shard.ID)
	}
	deletes := w.deletes.seen(db)
	var newFields map[fieldKey]influxql.DataType
	mayHaveTime := true
	if len(owners) > 1 {
		newFields, mayHaveTime = w.types.unknown(shard.ID, deletes, points)
	}
	if mayHaveTime {
		left, reason, err := withoutTime(points)
		if err != nil {
			return err
		}
		if reason != "" {
			err := w.writeShard(ctx, shard, db, policy, level, left)
			return alsoStripped(err, tsdb.PartialWriteError{Reason: reason, Database: db, RetentionPolicy: policy})
		}
	}
	for restamps := 0; ; restamps++ {
		write := shardWrite{ctx: ctx, shard: shard, db: db, policy: policy, level: level, newFields: newFields, deletes: deletes}
		write.yields = restamps == maxRestamps
		write.points = points
		if w.Order != nil {
			write.points = slices.Clone(points) // the local store reorders what it is given
		}
		if err := w.writeOwners(write); !errors.Is(err, errBehind) {
			return err
		}
	}
}

// maxRestamps is how often a write gets a greater version because an owner had a newer one of the same points. After
// that the newer writes overlap with this one, and may win.
const maxRestamps = 3

// shardWrite is one attempt to write points to the owners of a shard.
type shardWrite struct {
	ctx        tsdb.WriteContext
	shard      *emeta.ShardInfo
	db, policy string
	level      models.ConsistencyLevel
	points     []models.Point
	newFields  map[fieldKey]influxql.DataType // whose types are not known
	deletes    uint64                         // as in shardTypes
	yields     bool                           // to newer versions of the points
}

// writeOwners makes an attempt. The error is errBehind when an owner has something newer and the client has no answer.
func (w *Writer) writeOwners(a shardWrite) error {
	ctx, shard, db, policy, points, owners := a.ctx, a.shard, a.db, a.policy, a.points, a.shard.Owners
	w.mu.RLock()
	if !w.opened {
		w.mu.RUnlock()
		return fmt.Errorf("%w: this node is shutting down", coordinator.ErrWriteFailed)
	}
	w.wg.Add(len(owners))
	w.mu.RUnlock()
	// Taken before the local store reorders the points. The points themselves
	// must outlive the call: the engine's inputs parse each request anew.
	var requests []*rpc.WriteShardRequest
	size := 0
	self := w.meta.NodeID()
	if w.Order != nil {
		w.Order.Clock.SetNode(self)
	}
	nodes := make([]uint64, len(owners))
	for i, o := range owners {
		nodes[i] = o.NodeID
		if o.NodeID != self && requests == nil {
			var err error
			if requests, size, err = encode(ctx, shard.ID, db, policy, points); err != nil {
				w.wg.Add(-len(owners))
				return err
			}
		}
	}
	results := make(chan result, len(owners))
	deliveries := w.lanes.begin(nodes, shard.ID, db, size, w.WriteTimeout)
	defer w.lanes.answer(deliveries)
	stamp(requests, deliveries[0].version, a.yields)
	done := func(d *delivery, r result) {
		results <- r
		// Other owners were enough: this one gets the points of which it has nothing newer.
		if errors.Is(r.err, errBehind) && d.verdict.wait() {
			w.yield(ctx, d, db, policy, requests, points)
		}
		w.lanes.finish(d)
		w.wg.Done()
	}
	if len(a.newFields) > 0 {
		go w.decideTypes(&undecidedWrite{ctx, db, policy, a.deletes, a.newFields, a.yields, requests, deliveries, done})
	} else {
		for _, d := range deliveries {
			go func() {
				if d.node == self {
					done(d, w.writeLocal(ctx, d, db, policy, points, a.yields))
					return
				}
				done(d, w.writeRemote(d, requests, sending{}))
			}()
		}
	}
	err := w.decide(a.level, results, len(owners))
	for _, ln := range deliveries[0].verdict.pass(err) {
		w.missedBy(ln.node, ln.shard, true)
	}
	return err
}

// decide waits until the owners' results decide the level, or WriteTimeout passes.
func (w *Writer) decide(level models.ConsistencyLevel, results <-chan result, owners int) error {
	wait := w.WriteTimeout
	if level == models.ConsistencyLevelAny && w.Handoff != nil {
		wait += time.Second // an owner's timeout puts the write into its queue first
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	need := required(level, owners)
	var (
		wrote, failed int
		missed        int // failed, and not in hinted handoff
		first         error
		partial       *tsdb.PartialWriteError
	)
	timedOut := false
	// A level that cannot be met is answered once an owner wrote or all failed: the two are different answers.
	for !timedOut && (failed <= owners-need || wrote == 0 && failed < owners) {
		var r result
		select {
		case r = <-results:
		case <-timeout.C:
			r.err = coordinator.ErrTimeout
			timedOut = true
		}
		if errors.Is(r.err, errBehind) {
			return errBehind
		}
		if r.err != nil && !(r.hinted && level == models.ConsistencyLevelAny) {
			failed++
			if !r.hinted {
				missed++
			}
			if first == nil || errors.Is(r.err, coordinator.ErrTimeout) {
				first = r.err
			}
		} else {
			wrote++
			if partial == nil {
				partial = r.partial
			}
		}
		if wrote >= need {
			w.stats.ok.Add(1)
			if partial != nil {
				return *partial
			}
			return nil
		}
	}
	w.stats.failed.Add(1)
	switch {
	case errors.Is(first, coordinator.ErrTimeout):
		w.stats.timeout.Add(1)
		return coordinator.ErrTimeout
	case wrote > 0 && missed == 0:
		// Clients drop what is a partial write, and may: the others get it.
		return fmt.Errorf("%w: %d of %d owners have it, hinted handoff brings it to the others", coordinator.ErrPartialWrite, wrote, owners)
	case wrote > 0:
		return fmt.Errorf("%w: %d of %d owners have it, the level needs %d: %w", coordinator.ErrWriteFailed, wrote, owners, need, first)
	case influxdb.IsClientError(first):
		return first
	}
	return fmt.Errorf("%w: %w", coordinator.ErrWriteFailed, first)
}

// merge adds a partial write to those before, with each reason once.
func merge(a *tsdb.PartialWriteError, b tsdb.PartialWriteError) *tsdb.PartialWriteError {
	if a == nil {
		return &b
	}
	m := *a
	m.Dropped += b.Dropped
	if !strings.Contains(m.Reason, b.Reason) {
		m.Reason += "; " + b.Reason
	}
	return &m
}

// batchBytes is where a shard's points go on in another message, well below rpc.MaxMessage.
const batchBytes = 8 << 20

// encode makes the messages with a shard's points; owners share them and only
// read. size is the bytes of all points.
func encode(ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) (out []*rpc.WriteShardRequest, size int, err error) {
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

// yield writes an acknowledged write to an owner, without the points of which it has something newer.
func (w *Writer) yield(
	ctx tsdb.WriteContext, d *delivery, db, policy string, requests []*rpc.WriteShardRequest, points []models.Point,
) {
	if d.node == w.meta.NodeID() {
		w.writeLocal(ctx, d, db, policy, points, true)
		return
	}
	again := make([]*rpc.WriteShardRequest, len(requests))
	for i, r := range requests {
		again[i] = proto.Clone(r).(*rpc.WriteShardRequest)
		again[i].Yields = true
	}
	w.writeRemote(d, again, sending{})
}

// stamp gives the messages of a write its version.
func stamp(requests []*rpc.WriteShardRequest, v order.Version, yields bool) {
	for _, r := range requests {
		r.Version, r.Yields = uint64(v), yields
	}
}

// writeLocal writes to this node's own copy. What the store may take later
// goes to hinted handoff, as for any other owner. Yields is as in shardWrite.
func (w *Writer) writeLocal(
	ctx tsdb.WriteContext, d *delivery, db, policy string, points []models.Point, yields bool,
) result {
	d.wait()
	if w.deleted(d.shard, 1) {
		return result{err: errShardDeleted, never: true}
	}
	failed := result{err: errQueueNotEmpty}
	if w.Handoff == nil || !w.Handoff.Pending(d.node, d.shard) {
		w.stats.local.Add(int64(len(points)))
		r := judge(w.accept(ctx, d.shard, db, policy, d.version, yields, points))
		if r.err == nil || errors.Is(r.err, errBehind) || influxdb.IsClientError(r.err) {
			return r
		}
		if w.Handoff == nil {
			w.missedBy(d.node, d.shard, false)
			return r
		}
		failed = r
	}
	reqs, _, err := encode(ctx, d.shard, db, policy, points)
	if err != nil {
		return result{err: err}
	}
	stamp(reqs, d.version, yields)
	return w.hint(d, reqs, failed)
}

// judge tells a partial write, after which the owner has the other points, from a failure.
func judge(err error) result {
	var p tsdb.PartialWriteError
	if errors.As(err, &p) {
		return result{partial: &p}
	}
	return result{err: err}
}

// writeStore writes to the local copy of a shard and creates it where it is missing.
// begun, which may be nil, is told before.
func writeStore(store Shards, begun func(shard uint64) error, ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) error {
	err := store.WriteToShard(ctx, id, points)
	if errors.Is(err, tsdb.ErrShardNotFound) {
		err = beginShard(store, begun, ctx, id, db, policy, points)
	}
	if errors.Is(err, tsdb.ErrShardDeletion) {
		return tsdb.PartialWriteError{Reason: fmt.Sprintf("shard %d is pending deletion", id), Dropped: len(points), Database: db, RetentionPolicy: policy}
	}
	return err
}

// beginning is held while a write creates a copy.
var beginning sync.Mutex

// beginShard creates the copy of a shard, unless another write did so meanwhile, and writes to it. Of two first
// writes at the same time one alone tells begun: of the second it would seem that the copy was lost between them.
func beginShard(store Shards, begun func(shard uint64) error, ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) error {
	beginning.Lock()
	defer beginning.Unlock()
	if err := store.WriteToShard(ctx, id, points); !errors.Is(err, tsdb.ErrShardNotFound) {
		return err
	}
	if begun != nil {
		if err := begun(id); err != nil {
			return err
		}
	}
	if err := store.CreateShard(db, policy, id, true); err != nil {
		return err
	}
	return store.WriteToShard(ctx, id, points)
}

// writeRemote writes the messages in turn, within WriteTimeout. From the first
// that fails and may succeed later, they go to hinted handoff. Of the order, it sets what depends on the message.
func (w *Writer) writeRemote(d *delivery, reqs []*rpc.WriteShardRequest, at sending) result {
	d.wait() // an earlier write may go to the queue yet
	var all result
	for i, req := range reqs {
		if w.Handoff != nil && w.Handoff.Pending(d.node, d.shard) {
			return w.hint(d, reqs[i:], result{err: errQueueNotEmpty})
		}
		at.sequence, at.write, at.settledWrite = d.sequence, partOf(d.write, i), partOf(w.lanes.settledWrite(d.shard), 0)
		r := w.send(d.ctx, d.node, req, at)
		at.onlyWhole = false // it has a part of the write
		if r.undecided || errors.Is(r.err, errBehind) {
			return r
		}
		if r.err != nil {
			if r.never {
				return r
			}
			return w.hint(d, reqs[i:], r)
		}
		if r.partial != nil {
			all.partial = merge(all.partial, *r.partial)
			all.conflicts = append(all.conflicts, r.conflicts...)
		}
	}
	return all
}

// sending is the place of a message among those of this process.
type sending struct {
	sequence            uint64
	hinted              bool
	write, settledWrite uint64 // as in WriteShardRequest
	decides, onlyWhole  bool   // as there
}

// partOf is the number of one message of a write.
func partOf(write uint64, part int) uint64 { return write<<8 | uint64(min(part, 255)) }

func (w *Writer) send(ctx context.Context, node uint64, req *rpc.WriteShardRequest, at sending) result {
	sequence, hinted := at.sequence, at.hinted
	w.stats.remote.Add(int64(len(req.Points)))
	n, ok := w.meta.DataNode(node)
	if !ok {
		// What was queued is kept until it is clear that the node is gone: then its queue goes, and not an entry.
		return result{err: fmt.Errorf("owner %d of shard %d is not in the cluster", node, req.ShardId), never: !hinted}
	}
	var resp *rpc.WriteShardResponse
	settled := sequence // a hinted one voids all before it
	if !hinted {
		settled = min(sequence, w.lanes.settled(lane{node, req.ShardId}))
	}
	conn, err := w.pool.Conn(n.TCPAddr)
	if err == nil {
		resp, err = rpc.NewReplicationClient(conn).WriteShard(ctx, &rpc.WriteShardRequest{
			ShardId: req.ShardId, Database: req.Database, RetentionPolicy: req.RetentionPolicy, UserId: req.UserId, Points: req.Points,
			Sender: w.sender, SenderNode: w.meta.NodeID(), Sequence: sequence, Hinted: hinted, Message: w.messages.Add(1), Settled: settled,
			Write: at.write, SettledWrite: at.settledWrite, Decides: at.decides, OnlyWhole: at.onlyWhole,
			Version: req.Version, Spans: req.Spans, Yields: req.Yields,
		})
	}
	if err == nil {
		w.heard(resp.Clock)
	}
	if err != nil {
		if w.Handoff == nil {
			w.missed.note(w.log, n.TCPAddr, len(req.Points), err)
		}
		// Canceled: the peer saw the deadline first.
		switch c := status.Code(err); {
		case c == codes.DeadlineExceeded, c == codes.Canceled, ctx.Err() != nil:
			return result{err: coordinator.ErrTimeout}
		case c == codes.NotFound:
			return result{err: errShardDeleted, never: !hinted} // its queue goes when the metadata says so here, too
		case c == codes.InvalidArgument, c == codes.ResourceExhausted:
			return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, rpc.Message(err)), never: true}
		}
		return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, rpc.Message(err))}
	}
	switch {
	case resp.Undecided:
		return result{undecided: true}
	case resp.Behind:
		return result{err: errBehind}
	case resp.Partial:
		return result{conflicts: resp.Conflicts, partial: &tsdb.PartialWriteError{
			Reason: resp.Error, Dropped: int(resp.Dropped), Database: req.Database, RetentionPolicy: req.RetentionPolicy,
		}}
	case resp.Error != "":
		return result{err: errors.New(resp.Error), never: !resp.Retryable} // as the local store's: callers match its beginning
	}
	return result{}
}

// missedLog says once, and then every ten seconds, what a node misses.
type missedLog struct {
	mu    sync.Mutex
	nodes map[string]*missedBy
}

type missedBy struct {
	last   time.Time
	points int
}

func (m *missedLog) note(log *zap.Logger, addr string, points int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = make(map[string]*missedBy)
	}
	by := m.nodes[addr]
	if by == nil {
		by = &missedBy{}
		m.nodes[addr] = by
	}
	by.points += points
	if time.Since(by.last) < 10*time.Second {
		return
	}
	log.Warn("A data node misses writes; anti-entropy will repair it", zap.String("node", addr), zap.Int("points", by.points), zap.Error(err))
	by.last, by.points = time.Now(), 0
}

// slowAfter is how long a write may be under way before it counts as missing where it is to arrive.
const slowAfter = 500 * time.Millisecond

// Slow lists the shards, by node, of acknowledged writes that have been under way to the node for a while.
func (w *Writer) Slow() map[uint64][]uint64 { return w.lanes.slow(slowAfter) }

// Settle waits until the writes that this node acknowledged have arrived at a node's copies of shards, and returns
// the shards of which some have not by the end of ctx.
func (w *Writer) Settle(ctx context.Context, node uint64, shards []uint64) []uint64 {
	return w.lanes.settle(ctx, node, shards)
}

func (w *Writer) missedBy(node, shard uint64, kept bool) {
	if w.Missed != nil {
		w.Missed(node, shard, kept)
	}
}

// Requests is how many writes this node coordinated.
func (w *Writer) Requests() int64 { return w.stats.req.Load() }

// Statistics are the engine's of writes, with where the points went.
func (w *Writer) Statistics(tags map[string]string) []models.Statistic {
	s := &w.stats
	return []models.Statistic{{
		Name: "write", Tags: tags,
		Values: map[string]any{
			"req": s.req.Load(), "pointReq": s.points.Load(), "pointReqLocal": s.local.Load(), "pointReqRemote": s.remote.Load(),
			"pointReqHH": s.hinted.Load(), "writeOk": s.ok.Load(), "writeDrop": s.dropped.Load(),
			"writeTimeout": s.timeout.Load(), "writeError": s.failed.Load(), "subWriteOk": s.sub.Load(),
		},
	}}
}
