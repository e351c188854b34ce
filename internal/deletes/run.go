package deletes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy/fieldindex"
	"concord/internal/order"
	"concord/internal/rpc"
)

// ranOn is what became of a statement.
type ranOn struct {
	reached []cluster.Node // others that answered
	missed  missedNodes    // others that did not
	failed  missedNodes    // those, this one too, whose store may do later what it could not do
	err     error          // of all stores
}

// outcome is what the client is told. Missed are nodes that were away before it ran, for which it is kept; kept is why
// it is not kept for those on which it did not run since.
func (o ranOn) outcome(missed missedNodes, kept error) error {
	switch {
	case kept != nil:
		return inOneLine(o.err, fmt.Errorf("the delete cannot be kept for %s (%w): run it again when they can run it",
			slices.Concat(o.missed, o.failed), kept))
	case len(o.failed) == 0:
		return o.err
	}
	if missed = slices.Concat(missed, o.missed); len(missed) > 0 {
		return fmt.Errorf("%w; it is run again there, and on %s when they are back", o.err, missed)
	}
	return fmt.Errorf("%w; it is run again there, and has run on all other nodes", o.err)
}

// run runs a delete here and on other nodes, at the same time.
func (d *Service) run(nodes []cluster.Node, r *rpc.Delete) ranOn {
	return d.on(nodes, func() error { return d.runDelete(r, false) }, func(ctx context.Context, p peer) (string, error) {
		resp, err := p.run(ctx, &rpc.RunDeleteRequest{Delete: r})
		return resp.GetError(), err
	})
}

// on does something here and on other nodes, at the same time. There returns the error of the other node's store.
func (d *Service) on(
	nodes []cluster.Node, here func() error, there func(context.Context, peer) (string, error),
) (out ranOn) {
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
			ok, err := d.remote(n, there)
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
	own := here()
	wg.Wait()
	self := d.self()
	failed(self, own)
	if own != nil && !neverRuns(own) {
		own = fmt.Errorf("data node %s: %w", self.TCPAddr, own)
	}
	out.err = inOneLine(own, other)
	return out
}

// remote does something on one other node. What the node says of the request, or its store, is an error of a node that
// was reached.
func (d *Service) remote(
	n cluster.Node, there func(context.Context, peer) (string, error),
) (reached bool, err error) {
	p, err := d.peer(n)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	failed, err := there(ctx, p)
	if err != nil {
		return status.Code(err) == codes.InvalidArgument, errors.New(rpc.Message(err))
	}
	if failed != "" {
		return true, errors.New(failed)
	}
	return true, nil
}

// ran tells whether a delete ran here.
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

// starting returns when a delete or a drop may begin on this node's store. Close waits until it ended.
func (d *Service) starting() (ended func(), err error) {
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
	ended, err := d.starting()
	if err != nil {
		return err
	}
	defer ended()
	defer func() {
		if err != nil {
			d.deps.Failed(r.Database, err)
		}
	}()
	// While it runs a copy has the points in some files and not in others.
	defer d.deps.Memory.runs(r.Database, fmt.Sprintf("run %x", d.numbers.Add(1)))()
	if r.Version == 0 { // of a node without versions
		r.Version = uint64(d.deps.Clock.Next())
	}
	newer := d.beginRewrite(r)
	defer newer.end()
	d.deps.Memory.Add(r)
	if err := newer.before(hinted); err != nil {
		return err
	}
	if err := execute(d.deps.Store, r); err != nil {
		return err
	}
	if err := newer.after(); err != nil {
		return err
	}
	return d.record(r)
}

// record notes durably that a delete ran here. What this node has forgotten of others goes from its disk, too.
func (d *Service) record(r *rpc.Delete) error {
	if d.deps.Ran == nil {
		d.deps.Memory.takeForgotten()
		return nil
	}
	d.deps.Memory.Forget(order.AtTime(time.Now().Add(-d.deps.Ran.keep.Versions)))
	return d.deps.Ran.Record(r, d.deps.Memory.takeForgotten()...)
}

func execute(store *tsdb.Store, r *rpc.Delete) error {
	if r.Kind == rpc.Delete_DROP_MEASUREMENT {
		return durably(store, r.Database, func() error {
			return store.DeleteMeasurement(r.Database, r.Name)
		})
	}
	sources, cond, err := parseDelete(r.Statement)
	if err != nil {
		return err
	}
	return durably(store, r.Database, func() error {
		return store.DeleteSeries(r.Database, sources, influxql.CloneExpr(cond))
	})
}

// durably runs a delete of points so that nothing of it comes back: neither points from a cache snapshot, nor, after
// a crash, the types of fields of measurements that it dropped.
func durably(store *tsdb.Store, db string, run func() error) error {
	return fieldindex.AfterDelete(store, db, func() error { return betweenSnapshots(store, db, run) })
}
