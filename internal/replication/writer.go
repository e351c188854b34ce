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
}

// Shards takes writes to this node's copies of shards.
type Shards interface {
	WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error
	CreateShard(database, policy string, shard uint64, enabled bool) error
}

// Deletes is what this node knows of deletes: deletes.Memory.
type Deletes interface {
	// BeginWrite begins to write points of one version to a shard. It returns those that no newer delete removes. A
	// delete that runs here waits until end was called, with the points that were written.
	BeginWrite(shard uint64, db, policy string, v order.Version, points []models.Point) (
		left []models.Point, end func(wrote []models.Point))
	// Seen is a number for a database that every delete changes which this node hears of or runs.
	Seen(db string) uint64
	// Forget is told that nothing with a version below floor arrives any more.
	Forget(floor order.Version)
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
	ForgetEvery  time.Duration // between two looks at what the journal may forget
	Handoff      Handoff       // nil when [hinted-handoff] enabled = false
	MaxPending   int           // writes under way to one node, with Handoff
	Deletes      Deletes       // what writes must not bring back; set before Open
	Order        *Order        // of writes and deletes; set before Open
	// Begun, when set, is told of a shard that this node begins with a write: other owners
	// may have more of it.
	Begun func(shard uint64) error
	// Missed is told, before the write is acknowledged, that a node's copy of a shard lacks a write which this node
	// keeps for it (kept), or which nobody keeps; nil for none.
	Missed func(node, shard uint64, kept bool)
	// Lacks is told of a shard of which this node's copy lacks writes that other owners have; nil for none.
	Lacks func(shard uint64, why string)
	// HasLacks reports whether a copy of this node lacks something until it is repaired; nil when none ever does.
	HasLacks func() bool
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

	meta     Metadata
	store    *tsdb.Store
	sub      Subscriber
	pool     *rpc.Pool
	mapper   *coordinator.PointsWriter // maps points to shards
	log      *zap.Logger
	missed   missedLog
	sender   uint64 // this process, to peers
	lanes    lanes
	writing  keylock.Locks[uint64] // by shard; held for reading while points are accepted, and for writing by a repair
	received received
	types    fieldTypes
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
	return &Writer{
		WriteTimeout: coordinator.DefaultWriteTimeout, ForgetEvery: time.Second, Shards: store,
		meta: meta, store: store, sub: sub, pool: pool, mapper: m, log: zap.NewNop(), sender: rand.Uint64() | 1,
		floors: floors{said: make(map[uint64]order.Version), told: make(map[uint64]toldFloor)},
	}
}

// WithLogger sets the logger; call it before Open.
func (w *Writer) WithLogger(log *zap.Logger) { w.log = log.With(zap.String("service", "write")) }

// Open makes the writer take writes.
func (w *Writer) Open() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = true
	w.lanes.clock = w.Order.Clock
	w.open, w.close = context.WithCancel(context.Background())
	if w.Handoff != nil {
		w.lanes.maxPending = w.MaxPending
	}
	w.wg.Add(1)
	go w.keepForgetting()
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
	self := w.meta.NodeID()
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
