package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

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
	// OwnersOf lists the owners of a shard, none for one that is not known. Shard looks through all shards, and this
	// does not.
	OwnersOf(shard uint64) []uint64
	// Index is that of this node's copy of the metadata: it grows with every change.
	Index() uint64
	// Deleted reports whether a shard that was in the metadata at index was deleted since.
	Deleted(shard, index uint64) bool
	// Refresh makes the metadata as new as the leader's.
	Refresh() error
	// Now is the time of the meta nodes' leader; known is false while it is this node's own.
	Now() (now time.Time, known bool)
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
	// Lacks reports whether this node may not know yet of a delete that is newer than v.
	Lacks(v order.Version) bool
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
	// LastUnversioned is a version from before this node's copy of a shard last got points whose versions the journal
	// does not have: it was made anew, or a repair wrote them. 0 is for never.
	LastUnversioned(shard uint64) uint64
	// Lacking is not 0 while a copy of this node lacks something until it is repaired. It is another number after each
	// time that a copy which was whole missed something.
	Lacking() uint64
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

// Writer is what clients ask. It maps points to shards, sends each shard's points to the owners (shardwrite.go), and
// knows the consistency levels (level.go). The parts that it is made of are in files of their own: see the comment of
// the package. It has many methods because the rest of the node asks it for what its parts know.
type Writer struct {
	*outgoing
	types    *typeDecider
	floors   *floors
	received *received
	relays   *relays
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
	running, received := &running{}, &received{}
	return &Writer{
		outgoing: out,
		types:    &typeDecider{outgoing: out},
		floors: &floors{
			outgoing: out, said: make(map[uint64]order.Version), told: make(map[uint64]toldFloor),
			gone: make(map[uint64]goneFloor), last: make(map[uint64]order.Version), relayed: make(map[order.Version]int),
		},
		received: received, relays: &relays{ownCopies: out.ownCopies, received: received, running: running},
		running: running,
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
	if (errors.Is(err, errShardDeleted) || isNotOwner(err)) && w.Meta.Refresh() == nil {
		wrote.reset()
		err = w.place(ctx, db, policy, level, points, wrote) // it was dropped or moved, and this node did not know
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
	Lacks         uint64 // 0, or as Copies.Lacking says of its copies
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
