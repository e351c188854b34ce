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

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// deleteTimeout bounds a delete on one node: the engine rewrites indexes.
const deleteTimeout = 2 * time.Minute

// Deletes runs deletes and drops on every data node, in parallel. What a node
// that is away misses is the caller's to know: a delete says so, and is run
// again when the node is back. Drops of whole databases, policies and shards
// take the metadata along, so there a missed node is logged alone.
type Deletes struct {
	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
	log   *zap.Logger
}

// NewDeletes returns the deletes of a cluster as seen from one node.
func NewDeletes(meta Metadata, store *tsdb.Store, pool *rpc.Pool, log *zap.Logger) *Deletes {
	return &Deletes{meta: meta, store: store, pool: pool, log: log}
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

// everywhere runs a statement on all nodes. When strict, a node that was not
// reached is an error, after all others were.
func (d *Deletes) everywhere(r *rpc.ExecuteRequest, strict bool) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error    // a node's own error
		missed []string // nodes that were not reached
	)
	self := d.meta.NodeID()
	if self == 0 {
		return errNotJoined
	}
	for _, n := range d.meta.DataNodes() {
		if n.ID == self {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			reached, err := d.remote(n, r)
			mu.Lock()
			defer mu.Unlock()
			if !reached {
				missed = append(missed, n.TCPAddr+": "+err.Error())
			} else if err != nil && failed == nil {
				failed = fmt.Errorf("data node %s: %w", n.TCPAddr, err)
			}
		}()
	}
	err := execute(d.store, r)
	wg.Wait()
	slices.Sort(missed)
	if len(missed) > 0 {
		d.log.Warn("A delete did not reach every node", zap.Stringer("kind", r.Kind), zap.String("database", r.Database), zap.Strings("missed", missed))
		if strict && err == nil && failed == nil {
			err = fmt.Errorf("the delete did not reach %s; all other nodes have it: run it again when the node is back", strings.Join(missed, ", "))
		}
	}
	if err != nil && failed != nil {
		return fmt.Errorf("%w; %w", err, failed) // in one line
	}
	return cmp.Or(err, failed)
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
