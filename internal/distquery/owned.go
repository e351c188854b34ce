package distquery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// askTimeout bounds a question that is not a stream.
const askTimeout = 30 * time.Second

// owned are shards that other nodes have, and who can be asked for them. A
// node that failed once is not asked again by the same statement.
type owned struct {
	self   uint64
	state  *cluster.State
	pool   *rpc.Pool
	owners map[uint64][]uint64 // shard: nodes

	mu   sync.Mutex
	down map[uint64]error // nodes that failed
}

func newOwned(meta Metadata, pool *rpc.Pool) *owned {
	return &owned{
		self: meta.NodeID(), state: meta.State(), pool: pool,
		owners: make(map[uint64][]uint64), down: make(map[uint64]error),
	}
}

// add takes a shard, or returns true when this node itself has it: it is an
// owner, and its copy exists or is the only one there can be.
func (o *owned) add(sh emeta.ShardInfo, store *tsdb.Store) (local bool) {
	var others []uint64
	mine := false
	for _, ow := range sh.Owners {
		if ow.NodeID == o.self {
			mine = true
		} else {
			others = append(others, ow.NodeID)
		}
	}
	if mine && (len(others) == 0 || store.Shard(sh.ID) != nil) {
		return true
	}
	o.owners[sh.ID] = others
	return false
}

// assign gives each shard to one owner that is up: the one that has most to do
// already, so that few nodes are asked.
func (o *owned) assign(ids []uint64) (map[uint64][]uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make(map[uint64][]uint64)
	for _, id := range ids {
		var best uint64
		var why []string
		for _, n := range o.owners[id] {
			if err := o.down[n]; err != nil {
				why = append(why, err.Error())
			} else if best == 0 || len(out[n]) > len(out[best]) {
				best = n
			}
		}
		if best == 0 {
			return nil, fmt.Errorf("shard %d is on no reachable node: %s", id, strings.Join(why, "; "))
		}
		out[best] = append(out[best], id)
	}
	return out, nil
}

// open calls fn for each node with the shards that it is asked for, in
// parallel. Where a node cannot answer, its shards go to their other owners;
// an answer that the query itself is wrong is final.
func (o *owned) open(ctx context.Context, fn func(c rpc.QueryClient, ids []uint64) error) error {
	if o == nil {
		return nil
	}
	todo := make([]uint64, 0, len(o.owners))
	for id := range o.owners {
		todo = append(todo, id)
	}
	for len(todo) > 0 {
		nodes, err := o.assign(todo)
		if err != nil {
			return err
		}
		todo = nil
		var (
			wg    sync.WaitGroup
			mu    sync.Mutex
			final error
		)
		for node, ids := range nodes {
			wg.Add(1)
			go func() {
				defer wg.Done()
				err := o.ask(node, ids, fn)
				if err == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if !retryable(err) || ctx.Err() != nil {
					final = errors.New(rpc.Message(err))
					return
				}
				todo = append(todo, ids...)
			}()
		}
		wg.Wait()
		if final != nil {
			return final
		}
	}
	return nil
}

// each is open for questions with one answer.
func (o *owned) each(ctx context.Context, fn func(ctx context.Context, c rpc.QueryClient, ids []uint64) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return o.open(ctx, func(c rpc.QueryClient, ids []uint64) error { return fn(ctx, c, ids) })
}

func (o *owned) ask(node uint64, ids []uint64, fn func(c rpc.QueryClient, ids []uint64) error) error {
	n, ok := o.state.DataNode(node)
	if !ok {
		n.TCPAddr = fmt.Sprintf("node %d, which left the cluster", node)
	}
	conn, err := o.pool.Conn(n.TCPAddr)
	if err == nil {
		if err = fn(rpc.NewQueryClient(conn), ids); err == nil {
			return nil
		}
	}
	if retryable(err) {
		o.mu.Lock()
		o.down[node] = fmt.Errorf("%s: %s", n.TCPAddr, rpc.Message(err))
		o.mu.Unlock()
	}
	return err
}

// retryable tells whether another owner may answer what this one did not.
func retryable(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return true // no connection
	}
	switch s.Code() {
	case codes.InvalidArgument, codes.Canceled, codes.FailedPrecondition:
		return false
	}
	return true
}
