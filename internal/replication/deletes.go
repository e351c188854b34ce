package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// deleteTimeout bounds a delete on one node: the engine rewrites indexes.
const deleteTimeout = 2 * time.Minute

// Deletes runs deletes and drops on every data node, in parallel. A node that is away gets a delete through hinted
// handoff: all nodes that were reached keep it for that node. Without hinted handoff the delete is an error that names
// the node, to be run again. Drops of whole databases, policies and shards take the metadata along; a node that was
// away finds out by that.
type Deletes struct {
	meta   Metadata
	store  *tsdb.Store
	pool   *rpc.Pool
	writer *Writer
	log    *zap.Logger
}

// NewDeletes returns the deletes of a cluster as seen from one node.
func NewDeletes(meta Metadata, store *tsdb.Store, pool *rpc.Pool, writer *Writer, log *zap.Logger) *Deletes {
	return &Deletes{meta: meta, store: store, pool: pool, writer: writer, log: log}
}

// DeleteSeries runs DELETE or DROP SERIES: with a time range, points go, without, series.
func (d *Deletes) DeleteSeries(db string, sources []influxql.Source, cond influxql.Expr) error {
	if cond != nil {
		// now() must be the same instant everywhere.
		cond = influxql.Reduce(influxql.CloneExpr(cond), &influxql.NowValuer{Now: time.Now().UTC()})
	}
	text, err := deleteText(sources, cond)
	if err != nil {
		return err
	}
	return d.everywhere(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: text}, true)
}

// DeleteMeasurement runs DROP MEASUREMENT.
func (d *Deletes) DeleteMeasurement(db, name string) error {
	return d.everywhere(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: name}, true)
}

// DeleteDatabase removes a database's shards.
func (d *Deletes) DeleteDatabase(name string) error {
	return d.everywhere(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: name}, false)
}

// DeleteRetentionPolicy removes a policy's shards.
func (d *Deletes) DeleteRetentionPolicy(db, name string) error {
	return d.everywhere(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_RETENTION_POLICY, Database: db, Name: name}, false)
}

// DeleteShard removes all copies of a shard.
func (d *Deletes) DeleteShard(id uint64) error {
	return d.everywhere(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_SHARD, ShardId: id}, false)
}

// everywhere runs a statement on all nodes. When strict it is a delete: it is
// announced first, kept for nodes that do not hear of it, and only then run; a node that is lost in between has it kept then.
func (d *Deletes) everywhere(r *rpc.ExecuteRequest, strict bool) error {
	self := d.meta.NodeID()
	if self == 0 {
		return errNotJoined
	}
	r.Id = fmt.Sprintf("%x-%x", d.writer.sender, d.writer.deleteIDs.Add(1))
	nodes := slices.DeleteFunc(slices.Clone(d.meta.DataNodes()), func(n cluster.Node) bool { return n.ID == self })
	if !strict {
		ran := d.run(nodes, r)
		d.warn(r, ran.missed)
		return ran.err
	}
	version := func() uint64 {
		d.writer.Order.Clock.SetNode(self)
		return uint64(d.writer.Order.Clock.Next())
	}
	if d.writer.Handoff == nil {
		r.Version = version()
		ran := d.run(nodes, r)
		d.warn(r, ran.missed)
		if len(ran.missed) > 0 && ran.err == nil {
			return fmt.Errorf("the delete did not reach %s; all other nodes have it: run it again when the node is back",
				ran.missed)
		}
		return ran.err
	}
	if err := check(r); err != nil {
		return err
	}
	d.writer.deletes.begin(r.Database, r.Id, announced{at: time.Now()})
	d.writer.removals.announce(r, time.Now())
	heard, missed, err := d.announce(nodes, r)
	defer d.ended(nodes, r) // those that are not known to have heard of it may have, too
	if err != nil {
		return err
	}
	r.Version = version() // above all that the nodes had when they heard of it
	if err := d.keep(r, missed, heard); err != nil {
		return fmt.Errorf("the delete cannot be kept for %s, and was not run: %w", missed, err)
	}
	d.warn(r, missed)
	ran := d.run(heard, r)
	d.warn(r, ran.missed)
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

func (d *Deletes) warn(r *rpc.ExecuteRequest, missed missedNodes) {
	if len(missed) > 0 {
		d.log.Warn("A delete did not reach every node", zap.Stringer("kind", r.Kind), zap.String("database", r.Database), zap.Stringer("missed", missed))
	}
}

// ranOn is what became of a statement.
type ranOn struct {
	reached []cluster.Node // others that answered
	missed  missedNodes    // others that did not
	failed  missedNodes    // those, this one too, whose store may do later what it could not do
	err     error          // of all stores
}

// run runs a statement here and on other nodes, at the same time.
func (d *Deletes) run(nodes []cluster.Node, r *rpc.ExecuteRequest) (out ranOn) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		other error // of another node's store
	)
	failed := func(n cluster.Node, err error) {
		if err != nil && !neverRuns(err) {
			out.failed = append(out.failed, missedNode{n, err})
		}
	}
	for _, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ok, err := d.remote(n, r)
			mu.Lock()
			defer mu.Unlock()
			if !ok {
				out.missed = append(out.missed, missedNode{n, err})
				return
			}
			out.reached = append(out.reached, n)
			failed(n, err)
			if err != nil && other == nil {
				other = fmt.Errorf("data node %s: %w", n.TCPAddr, err)
			}
		}()
	}
	err := d.writer.runDelete(d.store, r)
	wg.Wait()
	failed(cluster.Node{ID: d.meta.NodeID()}, err)
	if out.err = cmp.Or(err, other); err != nil && other != nil {
		out.err = fmt.Errorf("%w; %w", err, other) // in one line
	}
	return out
}

// announce tells all nodes of a delete before any of them runs it. Each answers with its clock: the version of the
// delete is to be greater than those of the writes before it, which may still be under way to a slow owner.
//
// A delete that more than half of the nodes do not know of is refused: they
// take writes meanwhile, which it would remove when it reaches them. Of two
// nodes one is enough, or there were no deletes while the other is away.
func (d *Deletes) announce(nodes []cluster.Node, r *rpc.ExecuteRequest) (heard []cluster.Node, missed missedNodes, err error) {
	first := proto.Clone(r).(*rpc.ExecuteRequest)
	first.AnnounceOnly, first.SenderNode, first.Started = true, d.meta.NodeID(), d.writer.started
	first.Version = d.writer.clock() // it gets its own when all have heard of it
	ctx, cancel := context.WithTimeout(context.Background(), d.writer.WriteTimeout)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for _, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var resp *rpc.ExecuteResponse
			conn, err := d.pool.Conn(n.TCPAddr)
			if err == nil {
				resp, err = rpc.NewReplicationClient(conn).Execute(ctx, first)
			}
			if err == nil && resp.Error != "" {
				err = errors.New(resp.Error)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missed = append(missed, missedNode{n, errors.New(rpc.Message(err))})
				return
			}
			heard = append(heard, n)
			d.writer.heard(resp.Clock)
		}()
	}
	wg.Wait()
	if all, know := len(nodes)+1, len(heard)+1; know <= all/2 && all > 2 {
		return heard, nil, fmt.Errorf("the delete reaches %d of %d data nodes, and needs more than half: run it again when they are back (%s)", know, all, missed)
	}
	return heard, missed, nil
}

// ended tells the nodes that nothing of a delete is under way
// any more: until then, and for no longer than a delete may take, they take no points from others
// in its database, by repairs or copies. A node that does not answer is told later.
func (d *Deletes) ended(nodes []cluster.Node, r *rpc.ExecuteRequest) {
	last := proto.Clone(r).(*rpc.ExecuteRequest)
	last.AnnounceOnly, last.Ended = true, true
	ctx, cancel := context.WithTimeout(context.Background(), d.writer.WriteTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := d.writer.tell(ctx, n, last); err != nil {
				d.log.Debug("A data node does not hear yet that a delete has ended", zap.String("node", n.TCPAddr), zap.String("error", rpc.Message(err)))
				d.writer.tellLater(n, last)
			}
		}()
	}
	wg.Wait()
	d.writer.deletes.end(r.Database, r.Id, time.Now())
	d.writer.removals.ended(r.Database, r.Id)
}

// keep queues a delete for missed nodes, here and on every node that was reached. Here is enough for it not to be lost;
// the first that reaches a missed node brings it.
func (d *Deletes) keep(r *rpc.ExecuteRequest, missed missedNodes, reached []cluster.Node) error {
	if len(missed) == 0 {
		return nil
	}
	ids := make([]uint64, len(missed))
	for i, n := range missed {
		ids[i] = n.ID
	}
	if err := d.writer.HintDelete(r, ids); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.writer.WriteTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range reached {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conn, err := d.pool.Conn(n.TCPAddr)
			if err == nil {
				_, err = rpc.NewReplicationClient(conn).Hint(ctx, &rpc.HintRequest{Delete: r, Nodes: ids})
			}
			if err != nil {
				d.log.Warn("A data node does not keep a delete for those that miss it", zap.String("node", n.TCPAddr), zap.String("error", rpc.Message(err)))
			}
		}()
	}
	wg.Wait()
	return nil
}

func (d *Deletes) remote(n cluster.Node, r *rpc.ExecuteRequest) (reached bool, err error) {
	conn, err := d.pool.Conn(n.TCPAddr)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	resp, err := rpc.NewReplicationClient(conn).Execute(ctx, r)
	if err != nil {
		return status.Code(err) == codes.InvalidArgument, errors.New(rpc.Message(err))
	}
	if resp.Error != "" {
		return true, errors.New(resp.Error)
	}
	return true, nil
}
