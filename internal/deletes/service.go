package deletes

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

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// deleteTimeout bounds a delete on one node: the engine rewrites indexes.
const deleteTimeout = 2 * time.Minute

var errNotJoined = errors.New("this data node is in no cluster yet: run influxd-ctl add-data")

// Metadata is what deletes need to know of the cluster.
type Metadata interface {
	NodeID() uint64
	DataNode(id uint64) (cluster.Node, bool)
	DataNodes() []cluster.Node
	Shard(id uint64) (cluster.Shard, bool)
}

// Writes takes points to this node's copies of shards, and sends them to others: replication.Writer.
type Writes interface {
	// WriteAgain writes points with the version that they had, unless the copy has got something newer.
	WriteAgain(shard uint64, db, policy string, v order.Version, points []models.Point) error
	// MayHaveNewer reports whether this node's copy of a shard may have points with a version above v.
	MayHaveNewer(shard uint64, v order.Version) bool
	// DeliverWrites sends entries of hinted handoff that are writes to a node, and returns how many it has. Removed
	// returns which points of a write with a version are left out, nil for none.
	DeliverWrites(
		ctx context.Context, node uint64, entries []handoff.Entry, removed func(version uint64) func(models.Point) bool,
	) (int, error)
}

// Handoff keeps deletes for nodes that miss them.
type Handoff interface {
	Append(node, shard uint64, entries ...handoff.Entry) error
}

// Deps are the parts that deletes work with.
type Deps struct {
	Meta    Metadata
	Store   *tsdb.Store
	Pool    *rpc.Pool
	Memory  *Memory
	Writes  Writes
	Clock   *order.Clock
	Journal *order.Journal
	Handoff Handoff                       // nil when [hinted-handoff] enabled = false
	Ran     *RanLog                       // nil without Handoff
	Missed  func(node uint64)             // is told, before the delete is acknowledged, of a node that misses one
	Failed  func(db string, reason error) // is told why a delete could not run on the store
	Timeout time.Duration                 // of a message to a node, other than the one to run a delete
	Log     *zap.Logger
}

// Service runs deletes and drops on every data node, in parallel. A node that is away gets a delete through hinted
// handoff: all nodes that were reached keep it for that node. Without hinted handoff the delete is an error that names
// the node, to be run again. Drops of whole databases, policies and shards take the metadata along; a node that was
// away finds out by that.
type Service struct {
	deps    Deps
	process uint64             // random; makes the IDs of this process's deletes unlike all others
	started uint64             // when this process did, in nanoseconds
	numbers atomic.Uint64      // of deletes that began on this node
	running singleflight.Group // deletes, by ID

	mu     sync.RWMutex // held for reading while a delete starts, so that Close waits for it
	opened bool
	wg     sync.WaitGroup
	open   context.Context // from Open to Close
	close  context.CancelFunc
}

// New returns the deletes of a cluster as seen from one node; Open starts them.
func New(deps Deps) *Service {
	return &Service{deps: deps, process: rand.Uint64() | 1, started: uint64(time.Now().UnixNano())}
}

// Open makes the service run deletes. From then on writes are compared with those that ran here before: call it before
// the writer takes any.
func (d *Service) Open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = true
	d.open, d.close = context.WithCancel(context.Background())
	if d.deps.Ran != nil {
		if err := d.deps.Ran.Each(d.deps.Memory.Add); err != nil {
			return fmt.Errorf("read the deletes that ran here: %w", err)
		}
	}
	if d.deps.Handoff != nil {
		d.wg.Add(1)
		go d.tellRestart()
	}
	return nil
}

// Close refuses new deletes and waits for those that run here: the engine's store hangs for ever when it is closed
// while series are dropped.
func (d *Service) Close() error {
	d.mu.Lock()
	if d.opened {
		d.close()
	}
	d.opened = false
	d.mu.Unlock()
	d.wg.Wait()
	return nil
}

// DeleteSeries runs DELETE or DROP SERIES: with a time range, points go, without, series.
func (d *Service) DeleteSeries(db string, sources []influxql.Source, cond influxql.Expr) error {
	if cond != nil {
		// now() must be the same instant everywhere.
		cond = influxql.Reduce(influxql.CloneExpr(cond), &influxql.NowValuer{Now: time.Now().UTC()})
	}
	text, err := deleteText(sources, cond)
	if err != nil {
		return err
	}
	return d.everywhere(&rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: text})
}

// DeleteMeasurement runs DROP MEASUREMENT.
func (d *Service) DeleteMeasurement(db, name string) error {
	return d.everywhere(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: name})
}

// others are the other data nodes. The error says that this node is in no cluster.
func (d *Service) others() ([]cluster.Node, error) {
	self := d.deps.Meta.NodeID()
	if self == 0 {
		return nil, errNotJoined
	}
	nodes := slices.Clone(d.deps.Meta.DataNodes())
	return slices.DeleteFunc(nodes, func(n cluster.Node) bool { return n.ID == self }), nil
}

// everywhere runs a delete on all nodes. It is announced first, kept for nodes that do not hear of it, and only then
// run; a node that is lost in between has it kept then.
func (d *Service) everywhere(r *rpc.Delete) error {
	nodes, err := d.others()
	if err != nil {
		return err
	}
	r.Id = fmt.Sprintf("%x-%x", d.process, d.numbers.Add(1))
	if d.deps.Handoff == nil {
		return d.withoutHandoff(nodes, r)
	}
	if err := check(r); err != nil {
		return err
	}
	d.deps.Memory.announced(r, announcer{at: time.Now()})
	heard, missed, err := d.announce(nodes, r)
	defer d.ended(nodes, r) // those that are not known to have heard of it may have, too
	if err != nil {
		return err
	}
	r.Version = d.version() // above all that the nodes had when they heard of it
	if err := d.keep(r, missed, heard); err != nil {
		return fmt.Errorf("the delete cannot be kept for %s, and was not run: %w", missed, err)
	}
	d.warn(r.Kind, r.Database, missed)
	ran := d.run(heard, r)
	d.warn(r.Kind, r.Database, ran.missed)
	kept := d.keep(r, slices.Concat(ran.missed, ran.failed), ran.reached)
	switch {
	case ran.err != nil && len(ran.failed) > 0 && kept == nil:
		return fmt.Errorf("%w; it is run again there, and has run on all other nodes", ran.err)
	case ran.err == nil && kept != nil:
		return fmt.Errorf("the delete did not reach %s (%w); all other nodes have it: run it again when the node is back",
			ran.missed, kept)
	}
	return ran.err
}

// withoutHandoff runs a delete on all nodes when nobody could keep it for one that is away.
func (d *Service) withoutHandoff(nodes []cluster.Node, r *rpc.Delete) error {
	r.Version = d.version()
	ran := d.run(nodes, r)
	d.warn(r.Kind, r.Database, ran.missed)
	if len(ran.missed) > 0 && ran.err == nil {
		return fmt.Errorf("the delete did not reach %s; all other nodes have it: run it again when the node is back",
			ran.missed)
	}
	return ran.err
}

// version is that of a delete which begins now.
func (d *Service) version() uint64 {
	d.deps.Clock.SetNode(d.deps.Meta.NodeID())
	return uint64(d.deps.Clock.Next())
}

// now is this node's clock.
func (d *Service) now() uint64 { return uint64(d.deps.Clock.Now()) }

// heard moves the clock of this node past that of another one. The error says that the other one is far ahead.
func (d *Service) heard(clock uint64) error { return d.deps.Clock.Heard(order.Version(clock)) }

// missedNode is a node that was not reached, and why.
type missedNode struct {
	cluster.Node
	err error
}

type missedNodes []missedNode

func (m missedNodes) String() string {
	out := make([]string, len(m))
	for i, n := range m {
		out[i] = n.TCPAddr + ": " + n.err.Error()
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (d *Service) warn(kind fmt.Stringer, database string, missed missedNodes) {
	if len(missed) > 0 {
		d.deps.Log.Warn("A delete did not reach every node", zap.Stringer("kind", kind), zap.String("database", database),
			zap.Stringer("missed", missed))
	}
}
