package deletes

import (
	"cmp"
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
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"concord/internal/cluster"
	"concord/internal/drops"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// deleteTimeout bounds a delete on one node: the engine rewrites indexes.
const deleteTimeout = 2 * time.Minute

var errNotJoined = errors.New("this data node is in no cluster yet: run influxd-ctl add-data")

var errNoMetadata = errors.New("this data node is not in the metadata that it has: try again, or run influxd-ctl " +
	"add-data if it was removed")

// Metadata is what deletes need to know of the cluster.
type Metadata interface {
	NodeID() uint64
	DataNode(id uint64) (cluster.Node, bool)
	DataNodes() []cluster.Node
	Shard(id uint64) (cluster.Shard, bool)
	State() *cluster.State
	// CatchUpWithOthers makes this node's metadata as new as other nodes are known to have it, or returns that it is
	// behind.
	CatchUpWithOthers(ctx context.Context) error
}

// Writes takes points to this node's copies of shards, and sends them to others: replication.Writer.
type Writes interface {
	// WriteAgain writes points with the version that they had, unless the copy has got something newer.
	WriteAgain(shard uint64, db, policy string, v order.Version, points []models.Point) error
	// MayHaveNewer reports whether this node's copy of a shard may have points with a version above v.
	MayHaveNewer(shard uint64, v order.Version) bool
	// Entries returns a write as hinted handoff keeps it.
	Entries(shard uint64, db, policy string, v order.Version, points []models.Point) ([]handoff.Entry, error)
	// DeliverWrites sends entries of hinted handoff that are writes to a node, and returns how many it has. Removed
	// returns which points of a write with a version are left out, nil for none, or why the write has to wait.
	DeliverWrites(
		ctx context.Context, node uint64, entries []handoff.Entry,
		removed func(version uint64) (func(models.Point) bool, error),
	) (int, error)
}

// Handoff keeps deletes for nodes that miss them, and for this node the writes that are newer than a delete.
type Handoff interface {
	Append(node, shard uint64, entries ...handoff.Entry) error
	// Back makes what waits for a node be tried at once.
	Back(node uint64)
}

// Deps are the parts that deletes work with. It has many fields, because a delete concerns writes, hinted handoff,
// copies and disks.
type Deps struct {
	Meta    Metadata
	Store   *drops.Store
	Pool    *rpc.Pool
	Memory  *Memory
	Writes  Writes
	Clock   *order.Clock
	Journal *order.Journal
	Handoff Handoff // nil when [hinted-handoff] enabled = false
	Ran     *RanLog // nil without Handoff
	// Missed is called, before the delete is acknowledged, for a node's copy of a shard that lacks what Handoff has for
	// it. The shard is handoff.WholeDatabase for a delete. Missed is not called without Handoff.
	Missed func(node, shard uint64)
	// Lost is called for a node that lacks a delete which others ran, and which nobody keeps for it.
	Lost func(node uint64)
	// LastUnversioned is a version from before this node's copy of a shard last got points whose versions the journal
	// does not have: it was made anew, or a repair wrote them. 0 is for never.
	LastUnversioned func(shard uint64) order.Version
	// Mark returns the mark of this node's disk (package copystate). HearMark remembers the mark of another node, on
	// which a delete ran. If the disk of that node is rolled back later, this node tells it so.
	Mark     func() *rpc.DiskMark
	HearMark func(*rpc.DiskMark)
	// Lacks is called for a shard of which this node's copy may lack writes that other owners have.
	Lacks   func(shard uint64, why string)
	Failed  func(db string, reason error) // is called when a delete could not run on the store
	Ready   func(db string) error         // says why no delete may run on the store now, nil for nothing
	Timeout time.Duration                 // of a message to a node, other than the one to run a delete
	Log     *zap.Logger
}

// Service runs deletes and drops on every data node, in parallel. A node that is away gets a delete through hinted
// handoff: all nodes that were reached keep it for that node. Without hinted handoff the delete is an error that names
// the node, to be run again. Drops of whole databases, policies and shards are in the metadata: a node that was away
// finds them there.
//
// It has many methods, because each step of a delete is one and all steps work with the same parts. A file has the
// methods of one step: announce.go, keep.go, run.go, rewrite.go with newer.go, and drop.go. What is remembered of
// deletes has types of its own, Memory and RanLog.
type Service struct {
	deps    Deps
	process uint64             // random: names this process, also in the IDs of deletes
	started atomic.Uint64      // when this process was started, in nanoseconds: see endFormer
	numbers atomic.Uint64      // of deletes that began on this node, for their IDs
	running singleflight.Group // deletes, by ID
	turns   sync.Map           // *turns by database

	failedRuns sync.Map // the IDs of deletes that failed here, and run again

	mu     sync.RWMutex // held for reading while a delete starts, so that Close waits for it
	opened bool
	wg     sync.WaitGroup
	open   context.Context // from Open to Close
	close  context.CancelFunc
}

// New returns the deletes of a cluster as seen from one node; Open starts them.
func New(deps Deps) *Service {
	d := &Service{deps: deps, process: rand.Uint64() | 1}
	d.started.Store(uint64(time.Now().UnixNano()))
	return d
}

// Load reads which deletes ran here before. From then on writes are compared with them: call it before anything is
// written, by clients or out of hinted handoff.
func (d *Service) Load() error {
	if d.deps.Ran == nil {
		return nil
	}
	d.deps.Memory.halfRun.possible(time.Now())
	if err := d.deps.Ran.Each(d.deps.Memory.Add); err != nil {
		return fmt.Errorf("read the deletes that ran here: %w", err)
	}
	if !d.deps.Ran.Learned() {
		d.lacksDeletes()
	}
	return nil
}

// Open makes the service run deletes.
func (d *Service) Open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = true
	d.open, d.close = context.WithCancel(context.Background())
	if d.deps.Handoff != nil {
		d.wg.Add(1)
		go d.announceRestart()
	}
	if d.deps.Ran != nil {
		d.wg.Add(2)
		go d.keepFinishing()
		go d.keepLearning()
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

// DeleteSeries runs DELETE or DROP SERIES. With a time range it removes points, and without one, series.
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

// others are the other data nodes. The error says that this node is in no cluster, or not in the metadata that it has.
// Without metadata it would seem to be alone, and to have asked or told all others.
func (d *Service) others() ([]cluster.Node, error) {
	self := d.deps.Meta.NodeID()
	if self == 0 {
		return nil, errNotJoined
	}
	all := d.deps.Meta.DataNodes()
	others := slices.DeleteFunc(slices.Clone(all), func(n cluster.Node) bool { return n.ID == self })
	if len(others) == len(all) {
		return nil, errNoMetadata
	}
	return others, nil
}

// self is this node.
func (d *Service) self() cluster.Node {
	id := d.deps.Meta.NodeID()
	if n, ok := d.deps.Meta.DataNode(id); ok {
		return n
	}
	return cluster.Node{ID: id, TCPAddr: fmt.Sprint(id)} // it is not in its metadata yet
}

// newID is for a delete that begins here.
func (d *Service) newID() string { return fmt.Sprintf("%x-%x", d.process, d.numbers.Add(1)) }

func idsOf(nodes []cluster.Node) []uint64 {
	out := make([]uint64, len(nodes))
	for i, n := range nodes {
		out[i] = n.ID
	}
	return out
}

// everywhere runs a delete on all nodes. It is announced first, and kept for the nodes that are away. Only then it is
// run. Afterwards it is kept for the nodes that did not answer when it ran, or whose stores failed. Without hinted
// handoff it is announced and run, but nobody keeps it.
//
// A node that is behind may not know all nodes, and nobody would keep the delete for the one that it does not know.
func (d *Service) everywhere(r *rpc.Delete) error {
	if err := d.deps.Meta.CatchUpWithOthers(context.Background()); err != nil {
		return err
	}
	nodes, err := d.others()
	if err != nil {
		return err
	}
	r.Id, r.Nodes = d.newID(), append(idsOf(nodes), d.deps.Meta.NodeID())
	if err := check(r); err != nil {
		return err
	}
	by := announcer{at: time.Now()}
	if d.deps.Handoff != nil {
		by.above = order.Version(d.now())
	}
	d.deps.Memory.announce(r, by)
	reached, missed := d.announce(nodes, r)
	defer d.announceEnd(nodes, r) // also to those that did not answer: the announcement may have arrived
	if d.deps.Handoff == nil {
		return d.withoutHandoff(nodes, r)
	}
	if err := enough(reached, missed); err != nil {
		return err
	}
	r.Version = d.version() // it is above all clocks that the nodes have answered with
	if err := d.keep(r, missed, reached); err != nil {
		return fmt.Errorf("the delete cannot be kept for %s, and was not run: %w", missed, err)
	}
	d.warn(r.Kind, r.Database, missed)
	ran := d.run(reached, r)
	d.warn(r.Kind, r.Database, ran.missed)
	lacking := slices.Concat(ran.missed, ran.failed)
	kept := d.keep(r, lacking, ran.reached)
	if kept != nil {
		for _, n := range lacking {
			d.deps.Lost(n.ID)
		}
	}
	return ran.outcome(missed, kept)
}

// withoutHandoff runs a delete on all nodes when nobody could keep it for one that is away. It needs no majority: its
// client is told which nodes it did not reach. It was announced, as repairs beside it would bring deleted points back
// from a node that has yet to run it.
func (d *Service) withoutHandoff(nodes []cluster.Node, r *rpc.Delete) error {
	r.Version = d.version()
	ran := d.run(nodes, r)
	d.warn(r.Kind, r.Database, ran.missed)
	if len(ran.missed) == 0 {
		return ran.err
	}
	return inOneLine(ran.err, fmt.Errorf("the delete did not reach %s: run it again when the node is back", ran.missed))
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

// inOneLine joins two errors of which either may be nil.
func inOneLine(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

func (d *Service) warn(kind fmt.Stringer, database string, missed missedNodes) {
	if len(missed) > 0 {
		d.deps.Log.Warn("A delete did not reach every node", zap.Stringer("kind", kind), zap.String("database", database),
			zap.Stringer("missed", missed))
	}
}
