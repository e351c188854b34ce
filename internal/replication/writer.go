// Package replication is the write path: each point goes to all owners of its
// shard, and the consistency level decides the answer.
package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

	"concord/internal/batch"
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
	// Deleted reports whether a shard that was in the metadata at index was deleted since.
	Deleted(shard, index uint64) bool
	// Refresh makes the metadata as new as the leader's.
	Refresh() error
}

// Shards takes writes to this node's copies of shards.
type Shards interface {
	WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error
	CreateShard(database, policy string, shard uint64, enabled bool) error
}

// Deletes is what this node knows of deletes: deletes.Memory.
type Deletes interface {
	// BeginWrite begins to write points of one version to a shard. It returns those that no newer delete removes. A
	// delete that runs here waits until end was called, with the points that were written. When end fails, a crash may
	// lose them.
	BeginWrite(shard uint64, db, policy string, v order.Version, points []models.Point) (
		left []models.Point, end func(wrote []models.Point) error)
	// Seen is a number for a database that every delete changes which this node hears of or runs.
	Seen(db string) uint64
	// Forget is told that nothing with a version below floor arrives any more.
	Forget(floor order.Version)
	// Floor is a version above which nothing may be forgotten yet: a delete above it may still come.
	Floor() order.Version
	// Keeps is a version below those of the deletes that are under way here. This node keeps them for others that fail
	// to run them. It is the greatest of all when there are none.
	Keeps() order.Version
}

// Subscriber gets a copy of every write.
type Subscriber interface {
	Send(*coordinator.WritePointsRequest)
}

// Copies knows which copies of shards lack something.
type Copies interface {
	// Begin is told of a shard that this node begins with a write: other owners may have more of it.
	Begin(shard uint64) error
	// Missed is told, before the write is acknowledged, that a node's copy of a shard lacks a write which this node
	// keeps for it (kept), or which nobody keeps.
	Missed(node, shard uint64, kept bool)
	// Lacks is told of a shard of which this node's copy lacks writes that other owners have.
	Lacks(shard uint64, why string)
	// Lacking reports whether a copy of this node lacks something until it is repaired.
	Lacking() bool
	// Admit returns when this node may take writes of clients.
	Admit(ctx context.Context)
	// NotWhole reports whether this node's copy of a shard may lack acknowledged writes.
	NotWhole(ctx context.Context, shard uint64) bool
}

// Deps is what a writer needs. All of it must be set, but for Handoff and NotSent.
type Deps struct {
	Meta         Metadata
	Store        *tsdb.Store // this node's copies of shards
	Shards       Shards      // takes points for them
	Subscriber   Subscriber
	NotSent      func() int64 // what subscriptions did not get so far; nil for not known
	Pool         *rpc.Pool
	Order        *Order // of writes and deletes
	Deletes      Deletes
	Copies       Copies
	Handoff      Handoff       // nil when [hinted-handoff] enabled = false
	MaxPending   int           // writes under way to one node, with Handoff
	MaxNewGroups int           // shard groups that one write of a client may make; 0 is no limit
	WriteTimeout time.Duration // for one owner
	ForgetEvery  time.Duration // between two looks at what the journal may forget
	Log          *zap.Logger
}

// Writer sends points to all owners of their shards, in parallel, and answers as soon as the consistency level is
// decided; the other owners go on in the background. What an owner misses goes to its hinted handoff queue. While that
// queue has entries, later writes to another node go there, too. This node's own copy does not wait for its queue:
// versions say which write is newer. Without hinted handoff, what is missed is counted, logged, and left to
// anti-entropy.
//
// It is made of parts, each in a file of its own. ownCopies takes writes to this node's copies (accept.go), and
// outgoing brings writes to one owner (owner.go, hints.go). With these, typeDecider decides the types of new fields
// (types.go), floors let the journal forget (floors.go), and relays bring the other owners what a node wrote here
// before it went down (received.go, relay.go). Writer itself is what clients ask. It knows the consistency levels. It
// has many methods because the rest of the node asks it for what its parts know.
type Writer struct {
	*outgoing
	types    *typeDecider
	floors   *floors
	received *received
	relays   *relays
	mapper   *coordinator.PointsWriter // maps points to shards
	running  *running
	stats    struct {
		req, points, ok, dropped, timeout, failed, partial, sub atomic.Int64
		wrote, client                                           written // by all, and by clients of the HTTP API
	}
}

// NewWriter returns a writer that Open starts.
func NewWriter(deps Deps) *Writer {
	deps.Log = deps.Log.With(zap.String("service", "write"))
	out := &outgoing{
		ownCopies: &ownCopies{Deps: deps}, sender: rand.Uint64() | 1, lanes: lanes{clock: deps.Order.Clock},
	}
	if deps.Handoff != nil {
		out.lanes.maxPending = deps.MaxPending
	}
	mapper, running, received := coordinator.NewPointsWriter(), &running{}, &received{}
	mapper.MetaClient = deps.Meta
	return &Writer{
		outgoing: out,
		types:    &typeDecider{outgoing: out},
		floors: &floors{
			outgoing: out, said: make(map[uint64]order.Version), told: make(map[uint64]toldFloor),
			gone: make(map[uint64]goneFloor), last: make(map[uint64]order.Version), relayed: make(map[order.Version]int),
		},
		received: received, relays: &relays{ownCopies: out.ownCopies, received: received, running: running},
		mapper: mapper, running: running,
	}
}

// running is what a writer does between Open and Close.
type running struct {
	mu     sync.RWMutex // held for reading while owners start, so that close waits for them
	opened bool
	wg     sync.WaitGroup
	ctx    context.Context // from open to close
	cancel context.CancelFunc
}

// open begins, with tasks that end when ctx does.
func (r *running) open(tasks ...func(ctx context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = true
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, task := range tasks {
		r.wg.Go(func() { task(r.ctx) })
	}
}

// begin reports whether n tasks may begin. Each ends by wg.Done.
func (r *running) begin(n int) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.opened {
		r.wg.Add(n)
	}
	return r.opened
}

// close lets no task begin, and waits for those that began.
func (r *running) close() {
	r.mu.Lock()
	if r.opened {
		r.cancel()
	}
	r.opened = false
	r.mu.Unlock()
	r.wg.Wait()
}

// Open makes the writer take writes.
func (w *Writer) Open() { w.running.open(w.floors.keepForgetting, w.relays.keepForgetting) }

// Close refuses new writes and waits for those to owners that go on, which is
// WriteTimeout at most.
func (w *Writer) Close() error {
	w.running.close()
	return nil
}

// WritePointsInto takes the points of SELECT INTO.
func (w *Writer) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	ctx := tsdb.WriteContext{UserId: tsdb.SelectIntoUser}
	return w.WritePointsPrivileged(ctx, r.Database, r.RetentionPolicy, models.ConsistencyLevelOne, r.Points)
}

// WritePoints takes the points of a client.
func (w *Writer) WritePoints(
	db, policy string, level models.ConsistencyLevel, user emeta.User, points []models.Point,
) error {
	id := tsdb.UnknownUser
	if user != nil {
		id = user.ID()
	}
	if err := w.checkNewGroups(db, policy, points); err != nil {
		w.stats.req.Add(1)
		w.stats.dropped.Add(int64(len(points)))
		return err
	}
	var wrote written
	err := w.write(tsdb.WriteContext{UserId: id}, db, policy, level, points, &wrote)
	w.stats.client.add(&wrote)
	return err
}

// ClientValues is how many fields clients of the HTTP API have written.
func (w *Writer) ClientValues() int64 { return w.stats.client.values.Load() }

// WritePointsPrivileged writes points at a consistency level. A partial write is a
// tsdb.PartialWriteError, as in InfluxDB 1.x; a missed level is
// coordinator.ErrTimeout, ErrPartialWrite or the error of an owner.
func (w *Writer) WritePointsPrivileged(
	ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point,
) error {
	return w.write(ctx, db, policy, level, points, &written{})
}

// write is WritePointsPrivileged, and counts in wrote what was written.
func (w *Writer) write(
	ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point, wrote *written,
) error {
	w.stats.req.Add(1)
	w.stats.points.Add(int64(len(points)))
	if w.Meta.NodeID() == 0 {
		return errNotJoined
	}
	if level < models.ConsistencyLevelAny || level > models.ConsistencyLevelAll {
		return models.ErrInvalidConsistencyLevel
	}
	w.Copies.Admit(context.Background())
	err := w.place(ctx, db, policy, level, points, wrote)
	if errors.Is(err, errShardDeleted) && w.Meta.Refresh() == nil {
		wrote.reset()
		err = w.place(ctx, db, policy, level, points, wrote) // it was dropped, and this node did not know
	}
	w.stats.wrote.add(wrote)
	return err
}

// place sends points to the shards that this node's metadata says.
func (w *Writer) place(
	ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point, wrote *written,
) error {
	if policy == "" {
		info := w.Meta.Database(db)
		if info == nil {
			return influxdb.ErrDatabaseNotFound(db)
		}
		policy = info.DefaultRetentionPolicy
	}
	request := &coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points}
	mapping, err := w.mapShards(request)
	if err != nil {
		return err
	}
	results := make(chan error, len(mapping.Points))
	for id, pts := range mapping.Points {
		go func() { results <- w.writeShard(ctx, mapping.Shards[id], db, policy, level, pts, wrote) }()
	}
	w.Subscriber.Send(&coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points})
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

// result is what one owner made of a write.
type result struct {
	err       error // from the owner, or from the connection to it
	took      int   // without err: the points that the owner took, or has something newer of
	partial   *tsdb.PartialWriteError
	hinted    bool // with err: the write is in hinted handoff
	permanent bool // with err: the same write can never succeed

	undecided     bool             // nothing was written: the owner's copy is not whole, and another one decides
	typeConflicts []*rpc.FieldType // with partial, of an owner that decides: the types that it has
}

// refused reports whether the owner will never take the write, although the shard exists.
func (r result) refused() bool {
	return r.err != nil && r.permanent && !errors.Is(r.err, errShardDeleted)
}

// writeShard writes to all owners and returns when the level is decided. A write with fields that the shard is not
// known to have goes to one owner first, which decides their types.
func (w *Writer) writeShard(
	ctx tsdb.WriteContext, shard *emeta.ShardInfo, db, policy string, level models.ConsistencyLevel,
	points []models.Point, wrote *written,
) error {
	owners := shard.Owners
	if len(owners) == 0 {
		return fmt.Errorf("%w: shard %d has no owners", coordinator.ErrWriteFailed, shard.ID)
	}
	deletes := w.Deletes.Seen(db)
	read := batch.Of(points)
	if read != nil {
		defer read.Release()
	}
	newFields, mayHaveTime := w.fieldsOf(shard, deletes, points, read)
	if mayHaveTime {
		left, reason, err := withoutTime(points)
		if err != nil {
			return err
		}
		if reason != "" {
			err := w.writeShard(ctx, shard, db, policy, level, left, wrote)
			return alsoStripped(err, tsdb.PartialWriteError{Reason: reason, Database: db, RetentionPolicy: policy})
		}
	}
	values := valuesOf(read, points)
	if len(newFields) > 0 {
		read = nil // the owner that decides may refuse some of the points
	}
	for restamps := 0; ; restamps++ {
		write := &shardWrite{
			ctx: ctx, shard: shard, db: db, policy: policy, level: level, points: points, batch: read,
			newFields: newFields, deletes: deletes, yields: restamps == maxRestamps,
		}
		if read == nil {
			write.points = slices.Clone(points) // the local store reorders what it is given
		}
		if err := w.writeOwners(write); !errors.Is(err, errBehind) {
			wrote.count(len(points), values, err)
			return err
		}
	}
}

// fieldsOf returns the fields of points whose types are not known, where owners have to agree on them, and whether a
// field may be called time. Read is the batch of the points, or nil.
func (w *Writer) fieldsOf(shard *emeta.ShardInfo, deletes uint64, points []models.Point, read *batch.Batch) (
	newFields map[fieldKey]influxql.DataType, mayHaveTime bool,
) {
	switch {
	case len(shard.Owners) == 1 && read == nil:
		return nil, true
	case len(shard.Owners) == 1:
		return nil, read.HasField(tsdb.TimeBytes)
	case read == nil:
		return w.types.known.unknown(shard.ID, deletes, points)
	}
	return w.types.known.unknownColumns(shard.ID, deletes, read.Columns())
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
	batch      *batch.Batch                   // of points; nil when they cannot be one, or some field is new
	newFields  map[fieldKey]influxql.DataType // whose types are not known
	deletes    uint64                         // as in shardTypes
	yields     bool                           // to newer versions of the points

	version  order.Version
	requests []*rpc.WriteShardRequest // made by encode, or by the first who asks messages
	encoded  sync.Once
	failed   error // why there are no requests
}

// encode makes what the owners other than self get. It returns the bytes of all points, 0 when there are no such
// owners.
func (a *shardWrite) encode(self uint64) (size int, err error) {
	if !slices.ContainsFunc(a.shard.Owners, func(o emeta.ShardOwner) bool { return o.NodeID != self }) {
		return 0, nil
	}
	if a.batch != nil && len(a.batch.Encoded()) <= batch.MaxBytes {
		return a.batch.Size(), nil
	}
	if a.batch != nil { // it goes in several messages
		a.batch, a.points = nil, slices.Clone(a.points)
	}
	a.encoded.Do(func() { a.requests, size, a.failed = encode(a.ctx, a.shard.ID, a.db, a.policy, a.points) })
	return size, a.failed
}

// messages returns the write in the form that nodes of all versions take and that hinted handoff keeps. Owners share
// it, and only read.
func (a *shardWrite) messages() ([]*rpc.WriteShardRequest, error) {
	a.encoded.Do(func() {
		// Those of the batch: when the client has its answer, its slice may have other points.
		a.requests, _, a.failed = encode(a.ctx, a.shard.ID, a.db, a.policy, a.local())
		stamp(a.requests, a.version, a.yields)
	})
	return a.requests, a.failed
}

// local returns points for this node's own store, which reorders them.
func (a *shardWrite) local() []models.Point {
	if a.batch != nil {
		return a.batch.Points()
	}
	return a.points
}

// writeOwners makes an attempt. The error is errBehind when an owner has something newer and the client has no answer.
func (w *Writer) writeOwners(a *shardWrite) error {
	owners := make([]uint64, len(a.shard.Owners))
	for i, o := range a.shard.Owners {
		owners[i] = o.NodeID
	}
	if !w.running.begin(len(owners)) {
		return fmt.Errorf("%w: this node is shutting down", coordinator.ErrWriteFailed)
	}
	self := w.Meta.NodeID()
	w.Order.Clock.SetNode(self)
	// Taken before the local store reorders the points. The points themselves
	// must outlive the call: the engine's inputs parse each request anew.
	size, err := a.encode(self)
	if err != nil {
		w.running.wg.Add(-len(owners))
		return err
	}
	deliveries := w.lanes.begin(owners, a.shard.ID, size, w.WriteTimeout)
	defer w.lanes.answer(deliveries)
	a.version = deliveries[0].version
	stamp(a.requests, a.version, a.yields)
	results := make(chan result, len(owners))
	// yield writes what was sent to the owner again, without the points of which the owner has something newer.
	done := func(d *delivery, r result, yield func() result) {
		w.note(d, r)
		results <- r
		if errors.Is(r.err, errBehind) && d.verdict.wait() {
			w.note(d, yield()) // other owners have the write, or may have it
		}
		w.lanes.finish(d)
		w.running.wg.Done()
	}
	if len(a.newFields) > 0 {
		go w.types.decide(&undecidedWrite{
			a.ctx, a.db, a.policy, a.deletes, a.newFields, a.yields, a.requests, deliveries, done,
		})
	} else {
		for _, d := range deliveries {
			if a.batch != nil {
				a.batch.Retain() // the client may have its answer before the owner has the points
			}
			go w.writeOwner(a, d, done)
		}
	}
	err = w.decide(a.level, results, len(owners))
	for _, l := range deliveries[0].verdict.pass(err) { // before the client has its answer
		w.Copies.Missed(l.node, l.shard, l.kept)
	}
	return err
}

// note notes what an owner will never take of a write, although others may.
func (w *Writer) note(d *delivery, r result) {
	var lack []lane
	switch _, member := w.Meta.DataNode(d.node); {
	case !member:
	case r.refused():
		if d.verdict.note(lacks{d.lane, false}) {
			lack = []lane{d.lane}
		}
	case r.err == nil:
		reason := ""
		if r.partial != nil {
			reason = r.partial.Reason
		}
		lack = d.verdict.took(d.lane, r.took, reason)
	}
	for _, l := range lack {
		w.Copies.Missed(l.node, l.shard, false)
	}
}

// writeOwner writes to one owner. It is done with the owner then.
func (w *Writer) writeOwner(a *shardWrite, d *delivery, done func(d *delivery, r result, yield func() result)) {
	write := w.writeAway
	if d.node == w.Meta.NodeID() {
		write = w.writeHere
	}
	done(d, write(a, d, a.yields), func() result { return write(a, d, true) })
	if a.batch != nil {
		a.batch.Release()
	}
}

// writeHere writes to this node's own copy. Yields is as in shardWrite, also below.
func (w *Writer) writeHere(a *shardWrite, d *delivery, yields bool) result {
	return w.writeLocal(a.ctx, d, a.db, a.policy, a.local(), a.messages, yields)
}

// writeAway writes to another node.
func (w *Writer) writeAway(a *shardWrite, d *delivery, yields bool) result {
	if a.batch != nil && w.batchless.takes(d.node) {
		if r := w.writeBatch(a, d, yields); !errors.Is(r.err, errNoBatches) {
			return r
		}
		w.batchless.note(d.node)
	}
	requests, err := a.messages()
	if err != nil {
		return result{err: err, permanent: true}
	}
	if yields && !a.yields {
		requests = yielding(requests)
	}
	return w.writeRemote(d, requests, sending{})
}

// Says returns what another node is told, as in Said. While hinted handoff keeps something for that node, the floor
// stays what it was: what is kept may be as old.
func (w *Writer) Says(to uint64) (clock, floor, underWay uint64) {
	underWay = uint64(w.lanes.oldest())
	return w.clock(), uint64(w.floors.floor(to)), underWay
}

// Said is what a node says of the order of writes.
type Said struct {
	Node, Process uint64 // who says it; Process is as Writer.Sender
	Clock         uint64
	Floor         uint64 // none of its writes with a smaller version will reach this node any more
	UnderWay      uint64 // none of this process with a smaller version is on its way to any node
	Lacks         bool   // some of its copies lack something
	// It has not told this node yet what it keeps for it, and what it lost.
	Starting bool
}

// Told takes what another node says.
func (w *Writer) Told(s Said) {
	w.heard(s.Clock)
	w.received.below(s.Process, order.Version(max(s.UnderWay, s.Floor)))
	w.floors.hear(s.Node, toldFloor{order.Version(s.Floor), s.Lacks})
	if !s.Starting {
		w.floors.hearEnded(s.Process, order.Version(s.Floor))
	}
}

// SenderGone is told that processes of a node are gone, all but current when that is not 0. The other owners get
// those of their writes that came here.
func (w *Writer) SenderGone(node, current uint64) {
	w.floors.senderGone(node)
	w.relays.senderGone(node, current)
}

// Requests is how many writes this node coordinated.
func (w *Writer) Requests() int64 { return w.stats.req.Load() }
