package deletes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
)

// ranOn is what became of a statement.
type ranOn struct {
	reached []cluster.Node // others that answered
	missed  missedNodes    // others that did not
	failed  missedNodes    // those, this one too, whose store may do later what it could not do
	err     error          // of all stores
}

// run runs a statement here and on other nodes, at the same time.
func (d *Service) run(nodes []cluster.Node, r *rpc.ExecuteRequest) (out ranOn) {
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
	err := d.runDelete(r)
	wg.Wait()
	failed(cluster.Node{ID: d.deps.Meta.NodeID()}, err)
	if out.err = cmp.Or(err, other); err != nil && other != nil {
		out.err = fmt.Errorf("%w; %w", err, other) // in one line
	}
	return out
}

func (d *Service) remote(n cluster.Node, r *rpc.ExecuteRequest) (reached bool, err error) {
	conn, err := d.deps.Pool.Conn(n.TCPAddr)
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

// ran tells whether a delete ran here.
func (d *Service) ran(id string) bool { return d.deps.Ran != nil && d.deps.Ran.Ran(id) }

// runOnce is runDelete, unless the delete ran here or runs: several nodes may bring the same one.
func (d *Service) runOnce(r *rpc.ExecuteRequest) error {
	_, err, _ := d.running.Do(r.Id, func() (any, error) {
		if d.ran(r.Id) {
			return nil, nil
		}
		return nil, d.runDelete(r)
	})
	return err
}

// runDelete runs a delete or a drop on this node's store, and remembers a delete. Close waits for it.
func (d *Service) runDelete(r *rpc.ExecuteRequest) (err error) {
	d.mu.RLock()
	if !d.opened {
		d.mu.RUnlock()
		return errors.New("this node is starting or shutting down")
	}
	d.wg.Add(1)
	d.mu.RUnlock()
	defer d.wg.Done()
	if !isDelete(r.Kind) {
		return execute(d.deps.Store, r)
	}
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
	d.deps.Memory.removals.announce(r, time.Now())
	d.deps.Memory.Add(r)
	var newer []acceptedWrite
	if r.Hinted {
		if newer, err = d.newerInStore(r); err != nil {
			return err
		}
	}
	if err := execute(d.deps.Store, r); err != nil {
		return err
	}
	for _, n := range append(newer, d.deps.Memory.removals.newer(r)...) {
		if err := d.deps.Writes.WriteAgain(n.shard, r.Database, n.policy, n.version, n.points); err != nil {
			return fmt.Errorf("write again what is newer than the delete: %w", err)
		}
	}
	if d.deps.Ran == nil {
		return nil
	}
	return d.deps.Ran.Record(r)
}

func execute(store *tsdb.Store, r *rpc.ExecuteRequest) error {
	switch r.Kind {
	case rpc.ExecuteRequest_DELETE_SERIES:
		sources, cond, err := parseDelete(r.Statement)
		if err != nil {
			return err
		}
		return durably(store, r.Database, func() error {
			return store.DeleteSeries(r.Database, sources, influxql.CloneExpr(cond))
		})
	case rpc.ExecuteRequest_DROP_MEASUREMENT:
		return durably(store, r.Database, func() error {
			return store.DeleteMeasurement(r.Database, r.Name)
		})
	case rpc.ExecuteRequest_DROP_DATABASE:
		return store.DeleteDatabase(r.Database)
	case rpc.ExecuteRequest_DROP_RETENTION_POLICY:
		return store.DeleteRetentionPolicy(r.Database, r.Name)
	case rpc.ExecuteRequest_DROP_SHARD:
		// Not every node has every shard.
		if err := store.DeleteShard(r.ShardId); !errors.Is(err, tsdb.ErrShardNotFound) {
			return err
		}
		return nil
	}
	return fmt.Errorf("unknown statement %v", r.Kind)
}

// durably runs a delete of points so that nothing of it comes back: neither points from a cache snapshot, nor, after
// a crash, the types of fields of measurements that it dropped.
func durably(store *tsdb.Store, db string, run func() error) error {
	return fieldindex.AfterDelete(store, db, func() error { return betweenSnapshots(store, db, run) })
}
