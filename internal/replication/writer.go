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

	"concord/internal/cluster"
	"concord/internal/keylock"
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

// Deps is what a writer needs. All of it must be set, but for Handoff.
type Deps struct {
	Meta         Metadata
	Store        *tsdb.Store // this node's copies of shards
	Shards       Shards      // takes points for them
	Subscriber   Subscriber
	Pool         *rpc.Pool
	Order        *Order // of writes and deletes
	Deletes      Deletes
	Copies       Copies
	Handoff      Handoff       // nil when [hinted-handoff] enabled = false
	MaxPending   int           // writes under way to one node, with Handoff
	WriteTimeout time.Duration // for one owner
	ForgetEvery  time.Duration // between two looks at what the journal may forget
	Log          *zap.Logger
}

// Writer sends points to all owners of their shards, in parallel, and answers
// as soon as the consistency level is decided; the other owners go on in the
// background. What an owner misses goes to its hinted handoff queue, and while that is not empty, so
// does every later write, which keeps the order. Without hinted handoff it is
// counted, logged, and left to anti-entropy.
type Writer struct {
	Deps
	mapper   *coordinator.PointsWriter // maps points to shards
	missed   missedLog
	sender   uint64 // this process, to peers
	lanes    lanes
	writing  keylock.Locks[uint64] // by shard; held for reading while points are accepted, and for writing by a repair
	creating keylock.Locks[uint64] // by shard; held while a write creates a copy
	received received
	types    fieldTypes
	floors   floors
	newest   newestVersions

	mu     sync.RWMutex // held for reading while owners start, so that Close waits for them
	opened bool
	wg     sync.WaitGroup
	ctx    context.Context // from Open to Close
	cancel context.CancelFunc

	stats struct {
		req, points, local, remote, hinted, ok, dropped, timeout, failed, sub atomic.Int64
	}
}

// NewWriter returns a writer that Open starts.
func NewWriter(deps Deps) *Writer {
	deps.Log = deps.Log.With(zap.String("service", "write"))
	w := &Writer{
		Deps: deps, mapper: coordinator.NewPointsWriter(), sender: rand.Uint64() | 1,
		floors: floors{said: make(map[uint64]order.Version), told: make(map[uint64]toldFloor)},
	}
	w.mapper.MetaClient = deps.Meta
	w.lanes.clock = deps.Order.Clock
	if deps.Handoff != nil {
		w.lanes.maxPending = deps.MaxPending
	}
	return w
}

// Open makes the writer take writes.
func (w *Writer) Open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = true
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.wg.Add(1)
	go w.keepForgetting()
}

// Close refuses new writes and waits for those to owners that go on, which is
// WriteTimeout at most.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.opened {
		w.cancel()
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
	if w.Meta.NodeID() == 0 {
		return errNotJoined
	}
	if level < models.ConsistencyLevelAny || level > models.ConsistencyLevelAll {
		return models.ErrInvalidConsistencyLevel
	}
	w.Copies.Admit(context.Background())
	err := w.place(ctx, db, policy, level, points)
	if errors.Is(err, errShardDeleted) && w.Meta.Refresh() == nil {
		err = w.place(ctx, db, policy, level, points) // it was dropped, and this node did not know
	}
	return err
}

// place sends points to the shards that this node's metadata says.
func (w *Writer) place(ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	if policy == "" {
		info := w.Meta.Database(db)
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
	partial   *tsdb.PartialWriteError
	hinted    bool // with err: the write is in hinted handoff
	permanent bool // with err: the same write can never succeed

	undecided     bool             // nothing was written: the owner's copy is not whole, and another one decides
	typeConflicts []*rpc.FieldType // with partial, of an owner that decides: the types that it has
}

// writeShard writes to all owners and returns when the level is decided. A write with fields that the shard is not
// known to have goes to one owner first, which decides their types.
func (w *Writer) writeShard(ctx tsdb.WriteContext, shard *emeta.ShardInfo, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	owners := shard.Owners
	if len(owners) == 0 {
		return fmt.Errorf("%w: shard %d has no owners", coordinator.ErrWriteFailed, shard.ID)
	}
	deletes := w.Deletes.Seen(db)
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
		write := shardWrite{
			ctx: ctx, shard: shard, db: db, policy: policy, level: level,
			points:    slices.Clone(points), // the local store reorders what it is given
			newFields: newFields, deletes: deletes, yields: restamps == maxRestamps,
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
	self := w.Meta.NodeID()
	w.Order.Clock.SetNode(self)
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
	deliveries := w.lanes.begin(nodes, shard.ID, size, w.WriteTimeout)
	defer w.lanes.answer(deliveries)
	stamp(requests, deliveries[0].version, a.yields)
	// yield writes what was sent to the owner again, without the points of which the owner has something newer.
	done := func(d *delivery, r result, yield func()) {
		results <- r
		if errors.Is(r.err, errBehind) && d.verdict.wait() {
			yield() // the write is acknowledged, as other owners were enough
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
					yield := func() { w.writeLocal(ctx, d, db, policy, points, true) }
					done(d, w.writeLocal(ctx, d, db, policy, points, a.yields), yield)
					return
				}
				yield := func() { w.writeRemote(d, yielding(requests), sending{}) }
				done(d, w.writeRemote(d, requests, sending{}), yield)
			}()
		}
	}
	err := w.decide(a.level, results, len(owners))
	for _, ln := range deliveries[0].verdict.pass(err) {
		w.Copies.Missed(ln.node, ln.shard, true)
	}
	return err
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
