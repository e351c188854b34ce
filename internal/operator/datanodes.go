package operator

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/rpc"
)

const (
	answerTimeout = 10 * time.Second // for what a data node answers from memory
	behind        = 2 * time.Second  // by which a follower's state may be behind the leader's
)

// dataNodes finds the shard and the data nodes that a request names, and calls data nodes.
type dataNodes struct {
	state func() *cluster.State
	pool  *rpc.Pool
}

func (d *dataNodes) client(addr string) (rpc.ShardsClient, error) {
	conn, err := d.pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	return rpc.NewShardsClient(conn), nil
}

// shard finds the shard of a request.
func (d *dataNodes) shard(r *http.Request) (cluster.Shard, error) {
	id, err := strconv.ParseUint(r.FormValue("shard"), 10, 64)
	if err != nil {
		return cluster.Shard{}, fmt.Errorf("shard: must be a number, and not %q", r.FormValue("shard"))
	}
	// A follower may be a heartbeat behind the leader that has just made the shard, as in a restore.
	late := time.After(behind)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if sh, ok := d.state().Shard(id); ok {
			return sh, nil
		}
		select {
		case <-tick.C:
		case <-late:
			return cluster.Shard{}, fmt.Errorf("shard %d does not exist", id)
		case <-r.Context().Done():
			return cluster.Shard{}, r.Context().Err()
		}
	}
}

// node finds the data node with a TCP address.
func (d *dataNodes) node(addr string) (cluster.Node, error) {
	n, ok := d.state().DataNodeByAddr(addr)
	if !ok {
		return n, fmt.Errorf("data node %q does not exist", addr)
	}
	return n, nil
}

// behind says which data node may not have the metadata of an index yet; empty when all have it that can serve clients.
// Such a node may send its writes to those who owned a shard before. A node that nobody reaches, neither this meta node
// nor the other data nodes, is taken for one that is down. If it is up after all, the owners refuse its writes.
func (d *dataNodes) behind(ctx context.Context, index uint64) string {
	nodes := d.state().DataNodes
	var reached, unreached []cluster.Node
	var others []uint64
	tell := func(ctx context.Context, n cluster.Node) error { return d.catchUp(ctx, n, index) }
	for _, a := range rpc.TellAll(ctx, nodes, answerTimeout, tell) {
		switch {
		case rpc.IsBehind(a.Err):
			return notTold(a.Node, rpc.Message(a.Err))
		case a.Err != nil:
			unreached, others = append(unreached, a.Node), append(others, a.Node.ID)
		default:
			reached = append(reached, a.Node)
		}
	}
	if len(unreached) == 0 {
		return ""
	}
	// They may be cut off from the meta nodes alone.
	ask := func(ctx context.Context, n cluster.Node) ([]uint64, error) {
		resp, err := d.tell(ctx, n, index, others)
		return resp.GetBehind(), err
	}
	for _, a := range rpc.AskAll(ctx, reached, answerTimeout, ask) {
		if rpc.IsBehind(a.Err) { // it may reach one of them
			return notTold(unreached[0], fmt.Sprintf("this meta node does not reach it, and %s did not say whether it does: %s",
				a.Node.TCPAddr, rpc.Message(a.Err)))
		}
		for _, n := range unreached {
			if slices.Contains(a.Value, n.ID) {
				return notTold(n, "this meta node does not reach it, and "+a.Node.TCPAddr+" does")
			}
		}
	}
	return ""
}

// notTold is what behind returns of a node.
func notTold(n cluster.Node, why string) string {
	return fmt.Sprintf("data node %s has not said that it knows who owns which shards (%s)", n.TCPAddr, why)
}

// catchUp returns when a data node has the metadata of an index. rpc.IsBehind is false for the error of a node that
// cannot be reached.
func (d *dataNodes) catchUp(ctx context.Context, n cluster.Node, index uint64) error {
	_, err := d.tell(ctx, n, index, nil)
	return err
}

// tell is catchUp, and has the node tell others.
func (d *dataNodes) tell(ctx context.Context, n cluster.Node, index uint64, others []uint64) (
	*rpc.CatchUpResponse, error,
) {
	conn, err := d.pool.Conn(n.TCPAddr)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return rpc.NewMembershipClient(conn).CatchUp(ctx, &rpc.CatchUpRequest{
		ClusterId: d.state().Data.ClusterID, Index: index, Others: others,
	})
}

// addr is the TCP address of a data node, empty for one that is not in the cluster.
func (d *dataNodes) addr(node uint64) string {
	n, _ := d.state().DataNode(node)
	return n.TCPAddr
}

// answer is a handler that answers with what fn returns.
func answer(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		server.Reply(w, v, err)
	}
}
