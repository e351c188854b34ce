package deletes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy/fieldindex"
	"concord/internal/order"
	"concord/internal/rpc"
	"concord/internal/writecache"
)

// results are those of a statement on all nodes.
type results struct {
	reached []cluster.Node // other nodes that answered
	missed  missedNodes    // other nodes that did not
	failed  missedNodes    // nodes, also this one, whose store failed and may succeed later
	err     error          // of all stores
}

// outcome returns the error for the client of a delete. Missed are the nodes that were away before it ran, for which it
// is kept. The error kept is why it is not kept for the nodes on which it has not run since.
func (o results) outcome(missed missedNodes, kept error) error {
	switch {
	case kept != nil:
		return inOneLine(o.err, fmt.Errorf(
			"the delete cannot be kept for %s (%w): when these nodes are back, run the delete again",
			slices.Concat(o.missed, o.failed), kept))
	case o.err == nil && len(o.failed) == 0:
		return o.majority(missed)
	case len(o.failed) == 0:
		return o.err
	}
	if missed = slices.Concat(missed, o.missed); len(missed) > 0 {
		return fmt.Errorf("%w; it is run again there, and on %s when they are back", o.err, missed)
	}
	return fmt.Errorf("%w; it is run again there, and has run on all other nodes", o.err)
}

// majority returns an error unless a delete has run on more than half of the nodes. Only these know of it when the node
// that keeps it for the others is away. Of two nodes one is enough, as for its announcement.
func (o results) majority(missed missedNodes) error {
	missed = slices.Concat(missed, o.missed)
	ran := len(o.reached) + 1
	if all := ran + len(missed); ran <= all/2 && all > 2 {
		return fmt.Errorf("the delete has run on %d of %d data nodes; it runs on %s when they are back", ran, all, missed)
	}
	return nil
}

// run runs a delete here and on other nodes, at the same time.
func (d *Service) run(nodes []cluster.Node, r *rpc.Delete) results {
	here := func() error { return d.runOnce(r, false) } // finish may have brought it
	there := func(ctx context.Context, p peer) (string, error) {
		resp, err := p.run(ctx, &rpc.RunDeleteRequest{Delete: r})
		d.deps.HearMark(resp.GetMark())
		return resp.GetError(), err
	}
	return d.onAllNodes(nodes, here, there)
}

// onAllNodes does something here and on other nodes, at the same time. There returns the error of the other node's
// store.
func (d *Service) onAllNodes(
	nodes []cluster.Node, here func() error, there func(context.Context, peer) (string, error),
) (out results) {
	self := d.self()
	var own, other error // of the stores of this node and of another one
	failed := func(n cluster.Node, err error) {
		if err != nil && !neverRuns(err) {
			out.failed = append(out.failed, missedNode{n, err})
		}
	}
	ask := func(ctx context.Context, n cluster.Node) (failed, err error) {
		if n.ID == self.ID {
			return here(), nil
		}
		return d.onNode(ctx, n, there)
	}
	all := append(slices.Clone(nodes), self)
	for _, a := range rpc.AskAll(context.Background(), all, deleteTimeout, ask) {
		switch n, err := a.Node, a.Value; {
		case a.Err != nil:
			out.missed = append(out.missed, missedNode{n, a.Err})
		case n.ID == self.ID:
			own = err
			failed(n, err)
		default:
			out.reached = append(out.reached, n)
			failed(n, err)
			if err != nil && other == nil {
				other = fmt.Errorf("data node %s: %w", n.TCPAddr, err)
			}
		}
	}
	if own != nil && !neverRuns(own) {
		own = fmt.Errorf("data node %s: %w", self.TCPAddr, own)
	}
	out.err = inOneLine(own, other)
	return out
}

// onNode does something on one other node. It returns why that refuses the request, or the error of its store, in
// failed.
func (d *Service) onNode(
	ctx context.Context, n cluster.Node, there func(context.Context, peer) (string, error),
) (failed, err error) {
	p, err := d.peer(n)
	if err != nil {
		return nil, err
	}
	message, err := there(ctx, p)
	switch {
	case status.Code(err) == codes.InvalidArgument:
		return errors.New(rpc.Message(err)), nil
	case err != nil:
		return nil, errors.New(rpc.Message(err))
	case message != "":
		return errors.New(message), nil
	}
	return nil, nil
}

// ran reports whether a delete ran here.
func (d *Service) ran(id string) bool { return d.deps.Ran != nil && d.deps.Ran.Ran(id) }

// runOnce is runDelete, unless the delete ran here or runs: several nodes may bring the same one.
func (d *Service) runOnce(r *rpc.Delete, hinted bool) error {
	_, err, _ := d.running.Do(r.Id, func() (any, error) {
		if d.ran(r.Id) {
			return nil, nil
		}
		return nil, d.runDelete(r, hinted)
	})
	return err
}

// enter is called before a delete or a drop begins on this node's store. Close waits until leave is called.
func (d *Service) enter() (leave func(), err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if !d.opened {
		return nil, errors.New("this node is starting or shutting down")
	}
	d.wg.Add(1)
	return d.wg.Done, nil
}

// runDelete runs a delete on this node's store, and remembers it. Hinted is for one that waited in hinted handoff, and
// comes late.
func (d *Service) runDelete(r *rpc.Delete, hinted bool) (err error) {
	leave, err := d.enter()
	if err != nil {
		return err
	}
	defer leave()
	defer func() {
		if err != nil {
			d.deps.Failed(r.Database, err)
		}
	}()
	if err := d.deps.Ready(r.Database); err != nil {
		return err
	}
	if r.Version == 0 { // it is of a node without versions
		r.Version, r.Unversioned = uint64(d.deps.Clock.Next()), true
	}
	if r.Id == "" { // it is of a node without IDs
		r.Id = d.newID()
	}
	// While it runs a copy has the points in some files and not in others.
	defer d.deps.Memory.runs(r.Database, r.Id)()
	if hinted {
		defer d.beginForgotten(r)()
	}
	newer := d.beginRewrite(r)
	defer newer.end()
	d.deps.Memory.Add(r)
	if err := newer.before(hinted); err != nil {
		return err
	}
	if err := d.execute(r); err != nil {
		if neverRuns(err) {
			d.refuse(r)
		}
		return err
	}
	if err := newer.after(); err != nil {
		return err
	}
	return d.record(r)
}

// beginForgotten is called before a late delete runs, and ended after it. The journal may not know which points are
// newer than the delete: it was full, for example, or a copy was made anew since. The delete takes them, too, and a
// repair brings back those that other owners have. So this node's copies are not whole until they were compared. That
// is noted before the delete for queries, and after it for repairs that compare the copies in between.
func (d *Service) beginForgotten(r *rpc.Delete) (ended func()) {
	shards := d.shardsOf(r)
	if v := order.Version(r.Version); v > d.deps.Journal.Forgot() {
		shards = slices.DeleteFunc(shards, func(id uint64) bool { return d.deps.LastUnversioned(id) < v })
	}
	note := func() {
		for _, id := range shards {
			d.deps.Lacks(id, "a delete came so late that its node has forgotten which of the points are newer")
		}
	}
	note()
	return note
}

// shardsOf lists the shards here of which a delete may remove points.
func (d *Service) shardsOf(r *rpc.Delete) (ids []uint64) {
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if sh.Database() != r.Database {
			continue
		}
		c, err := newCovering(r, sh.RetentionPolicy())
		if err != nil || c.none() {
			continue
		}
		known, ok := d.deps.Meta.Shard(sh.ID())
		if !ok || c.min < max(known.End, known.GroupEnd) && c.max >= known.Start {
			ids = append(ids, sh.ID())
		}
	}
	return ids
}

// refuse notes durably that the engine refuses a delete. It is not to run later, when another node says that it ran
// there: the engine may take it by then, and what is newer is not known any more.
func (d *Service) refuse(r *rpc.Delete) {
	d.deps.Memory.removals.takeBack(r.Database, r.Id)
	if d.deps.Ran == nil {
		return
	}
	if err := d.deps.Ran.Record(&rpc.Delete{Database: r.Database, Id: r.Id}); err != nil {
		d.deps.Log.Warn("Cannot note a delete that the engine refuses: it may run here later", zap.Error(err))
	}
}

// record notes durably that a delete ran here. What nothing older follows any more moves to where only nodes that were
// rolled back ask for it.
func (d *Service) record(r *rpc.Delete) error {
	if d.deps.Ran == nil {
		d.deps.Memory.takeForgotten()
		return nil
	}
	d.deps.Memory.Forget(order.AtTime(time.Now().Add(-d.deps.Ran.keep.Versions)))
	return d.deps.Ran.Record(r, d.deps.Memory.takeForgotten()...)
}

// shardsClosed is how long a delete waits for shards that are closed. It fails then, and when the node stops. It runs
// again later.
const shardsClosed = 30 * time.Second

// execute runs a delete on this node's store while no shard of the database is closed, and no other delete of the same
// measurement runs.
func (d *Service) execute(r *rpc.Delete) error {
	ctx, cancel := context.WithTimeout(d.open, shardsClosed)
	defer cancel()
	end, err := d.deps.Store.BeginDelete(ctx, r.Database)
	if err != nil {
		return err
	}
	defer end()
	defer d.turn(r)() // now: BeginDelete has a time limit, which waiting for a turn must not use up
	// When an earlier run failed, points of the series that it lost may be in files by now. It may have failed before this
	// process was started.
	_, failed := d.failedRuns.LoadOrStore(r.Id, nil)
	failed = failed || order.Version(r.Version) <= d.deps.Clock.Opened()
	err = execute(d.deps.Store.Store, r, func(flushed map[*tsdb.Shard]bool) (lost int, err error) {
		return d.keepSeries(r, func(sh *tsdb.Shard) bool { return failed || flushed[sh] })
	})
	if err == nil || neverRuns(err) {
		d.failedRuns.Delete(r.Id)
	}
	return err
}

// execute runs a delete on a store. After each run of the engine, also one that failed, execute calls keep with the
// shards of which points may have gone from the cache to a file before. Keep returns how many series it made anew.
func execute(store *tsdb.Store, r *rpc.Delete, keep func(flushed map[*tsdb.Shard]bool) (lost int, err error)) error {
	run := func() error { return store.DeleteMeasurement(r.Database, r.Name) }
	if r.Kind != rpc.Delete_DROP_MEASUREMENT {
		sources, cond, err := parseDelete(r.Statement)
		if err != nil {
			return err
		}
		run = func() error { return store.DeleteSeries(r.Database, sources, influxql.CloneExpr(cond)) }
	}
	of, err := isAboutSeries(r)
	if err != nil {
		return err
	}
	return durably(store, r.Database, func() error {
		defer writecache.BeforeDelete(store, r.Database, of)()
		return run()
	}, keep)
}

// durably runs a delete of points so that nothing stays or comes back: neither points from a cache snapshot, nor series
// that the engine passed over, nor, after a crash, the types of fields in measurements that were dropped. Nor does it
// wait for a compaction of an index that waits for it. What is written meanwhile stays.
func durably(
	store *tsdb.Store, db string, run func() error, keep func(flushed map[*tsdb.Shard]bool) (lost int, err error),
) error {
	return fieldindex.AfterDelete(store, db, func() error {
		return betweenSnapshots(store, db, func(flushed map[*tsdb.Shard]bool) error {
			for range maxListings {
				err := betweenIndexCompactions(store, db, func() error { return overWholeLists(store, db, run) })
				lost, failed := keep(flushed) // also when it failed: it may have run in part
				if err != nil || failed != nil || lost == 0 {
					return inOneLine(err, failed)
				}
				// A series that is found now may have been lost before this delete. The engine did not see its points.
			}
			return nil
		})
	})
}
