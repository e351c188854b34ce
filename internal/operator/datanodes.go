package operator

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

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
