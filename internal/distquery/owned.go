package distquery

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// askTimeout bounds one question to one node, and the silence of a stream.
const askTimeout = 30 * time.Second

// owned are shards that other nodes have, and who can be asked for them. A
// node that failed once is not asked again by the same statement. A node that
// answers but does not have a shard is passed over for it; a shard that no
// owner has was never written to.
type owned struct {
	self   uint64
	state  *cluster.State
	pool   *rpc.Pool
	owners map[uint64][]uint64 // shard: nodes

	mu    sync.Mutex
	down  map[uint64]error // nodes that failed
	lacks map[placed]bool  // shards that are not where they should be
}

type placed struct{ node, shard uint64 }

// peer is another node.
type peer struct {
	rpc.QueryClient
	id   uint64
	addr string
}

// question asks a node for shards and tells those that it does not have.
type question func(ctx context.Context, p peer, ids []uint64) (missing []uint64, err error)

func newOwned(meta Metadata, pool *rpc.Pool) *owned {
	return &owned{
		self: meta.NodeID(), state: meta.State(), pool: pool,
		owners: make(map[uint64][]uint64), down: make(map[uint64]error), lacks: make(map[placed]bool),
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
		if len(o.owners[id]) == 0 {
			return nil, fmt.Errorf("shard %d is on no data node: all its owners left the cluster; DROP SHARD %d gives it up", id, id)
		}
		var best uint64
		var why []string
		for _, n := range o.owners[id] {
			if err := o.down[n]; err != nil {
				why = append(why, err.Error())
			} else if !o.lacks[placed{n, id}] && (best == 0 || len(out[n]) > len(out[best])) {
				best = n
			}
		}
		if best != 0 {
			out[best] = append(out[best], id)
		} else if len(why) > 0 {
			return nil, fmt.Errorf("no owner of shard %d can answer: %s", id, strings.Join(why, "; "))
		}
	}
	return out, nil
}

// open asks for shards, each of one node, in parallel. Where a node cannot
// answer, its shards go to their other owners; an answer that the query itself
// is wrong is final. The question's context ends with open when open fails.
func (o *owned) open(ctx context.Context, ids []uint64, ask question) error {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	for todo := ids; len(todo) > 0; {
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
				missing, err := o.ask(asking, node, ids, ask)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					todo = append(todo, o.lack(node, ids, missing)...)
				case ctx.Err() != nil:
					final = ctx.Err()
				case retryable(err):
					o.fail(node, err)
					todo = append(todo, ids...)
				case final == nil:
					final = errors.New(rpc.Message(err))
					cancel()
				}
			}()
		}
		wg.Wait()
		if final != nil {
			return final
		}
		slices.Sort(todo)
	}
	return nil
}

// each is open for questions with one answer.
func (o *owned) each(ctx context.Context, ids []uint64, ask question) error {
	return o.open(ctx, ids, func(ctx context.Context, p peer, ids []uint64) ([]uint64, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return ask(ctx, p, ids)
	})
}

func (o *owned) ask(ctx context.Context, node uint64, ids []uint64, ask question) ([]uint64, error) {
	n, ok := o.state.DataNode(node)
	if !ok {
		return nil, errors.New("it left the cluster")
	}
	conn, err := o.pool.Conn(n.TCPAddr)
	if err != nil {
		return nil, err
	}
	return ask(ctx, peer{QueryClient: rpc.NewQueryClient(conn), id: node, addr: n.TCPAddr}, ids)
}

// fail passes a node over from now on.
func (o *owned) fail(node uint64, err error) {
	name := fmt.Sprintf("node %d", node)
	if n, ok := o.state.DataNode(node); ok {
		name = n.TCPAddr
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down[node] = fmt.Errorf("%s: %s", name, rpc.Message(err))
}

// lack notes what a node does not have and returns what others must be asked for.
func (o *owned) lack(node uint64, asked, missing []uint64) []uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	var todo []uint64
	for _, id := range missing {
		if slices.Contains(asked, id) {
			o.lacks[placed{node, id}] = true
			todo = append(todo, id)
		}
	}
	return todo
}

// retryable tells whether another owner may answer what this one did not.
func retryable(err error) bool {
	s, ok := status.FromError(err)
	return !ok || s.Code() != codes.InvalidArgument
}
