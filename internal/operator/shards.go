package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// shards serves the commands that move and remove copies of shards.
type shards struct {
	nodes   *dataNodes
	copies  *copies
	losses  *losses
	execute func(cluster.Op) (any, error)
}

// Who may do what with shards. Rebalance is the permission for the documented way to rebalance a cluster: truncate
// shards, copy them, and remove them.
var (
	shardPermissions  = []cluster.Permissions{cluster.ManageShard, cluster.CopyShard, cluster.Rebalance}
	copyPermissions   = shardPermissions
	removePermissions = []cluster.Permissions{cluster.ManageShard, cluster.Rebalance}
)

func (s *shards) routes() []server.Route {
	return []server.Route{
		{Pattern: "POST /copy-shard", OnLeader: true, Handler: answer(s.copy), Needs: copyPermissions},
		{Pattern: "POST /kill-copy-shard", Handler: answer(s.killCopy), Needs: copyPermissions},
		{Pattern: "POST /remove-shard", OnLeader: true, Handler: answer(s.remove), Needs: removePermissions},
		{Pattern: "GET /copy-shard-status", Handler: answer(s.copying), Needs: shardPermissions},
	}
}

// copy makes a data node fetch a shard, and records it as an owner. Its answer comes when that is done.
func (s *shards) copy(r *http.Request) (any, error) {
	sh, err := s.nodes.shard(r)
	if err != nil {
		return nil, err
	}
	from, err := s.nodes.node(r.FormValue("src"))
	if err != nil {
		return nil, err
	}
	to, err := s.nodes.node(r.FormValue("dest"))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(sh.Owners, from.ID) {
		return nil, fmt.Errorf("data node %s is not an owner of shard %d", from.TCPAddr, sh.ID)
	} else if slices.Contains(sh.Owners, to.ID) {
		return nil, fmt.Errorf("data node %s is an owner of shard %d already", to.TCPAddr, sh.ID)
	} else if err := to.CheckMayOwn(); err != nil {
		return nil, err // before anything is copied
	}
	incomplete := false
	if v := r.FormValue("force"); v != "" {
		if incomplete, err = strconv.ParseBool(v); err != nil {
			return nil, errors.New("force: must be true or false")
		}
	}
	if !incomplete {
		if err := s.copies.checkSource(r.Context(), sh, from); err != nil {
			return nil, err
		}
	}
	// A client that goes away does not stop the copy; kill-copy-shard does.
	ctx := context.WithoutCancel(r.Context())
	if err := s.make(ctx, copyOrder{shard: sh, from: from, to: to, incomplete: incomplete}); err != nil {
		return nil, errors.New(rpc.Message(err))
	}
	return struct{}{}, nil
}

// copyOrder is a copy of a shard that is to be made.
type copyOrder struct {
	shard      cluster.Shard
	from, to   cluster.Node
	incomplete bool   // make it also when the source's copy is not whole
	maxRate    uint64 // bytes a second; 0 for no limit
}

// make makes a data node fetch a shard, and records it as an owner. It returns when that is done. An error of the data
// node has a code of gRPC.
func (s *shards) make(ctx context.Context, o copyOrder) error {
	c, err := s.nodes.client(o.to.TCPAddr)
	if err != nil {
		return err
	}
	if _, err := c.Copy(ctx, &rpc.CopyRequest{
		ShardId: o.shard.ID, Database: o.shard.Database, RetentionPolicy: o.shard.RetentionPolicy,
		Source: o.from.TCPAddr, Incomplete: o.incomplete, MaxRate: o.maxRate,
	}); err != nil {
		return err
	}
	if _, err := s.execute(cluster.AddShardOwner{ID: o.shard.ID, NodeID: o.to.ID}); err != nil {
		return fmt.Errorf("shard %d is on %s, but was not recorded: %w", o.shard.ID, o.to.TCPAddr, err)
	}
	return nil
}

// killCopy stops a copy that is being made.
func (s *shards) killCopy(r *http.Request) (any, error) {
	sh, err := s.nodes.shard(r)
	if err != nil {
		return nil, err
	}
	to, err := s.nodes.node(r.FormValue("dest"))
	if err != nil {
		return nil, err
	}
	c, err := s.nodes.client(to.TCPAddr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	if _, err := c.KillCopy(ctx, &rpc.KillCopyRequest{ShardId: sh.ID, Source: r.FormValue("src")}); err != nil {
		return nil, errors.New(rpc.Message(err))
	}
	return struct{}{}, nil
}

// remove makes a data node one that does not own the shard, and then removes its copy. Another owner must have all of
// the shard. One whose copy was just made may not: it lacks what was written meanwhile, until anti-entropy has brought
// it.
func (s *shards) remove(r *http.Request) (any, error) {
	sh, err := s.nodes.shard(r)
	if err != nil {
		return nil, err
	}
	n, err := s.nodes.node(r.FormValue("node"))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(sh.Owners, n.ID) {
		return nil, fmt.Errorf("data node %s is not an owner of shard %d", n.TCPAddr, sh.ID)
	} else if len(sh.Owners) == 1 {
		return nil, fmt.Errorf("data node %s has the last copy of shard %d: "+
			"copy it to another one first, or drop it with DROP SHARD", n.TCPAddr, sh.ID)
	}
	if why := s.nodes.behind(r.Context(), s.nodes.state().Index); why != "" {
		return nil, fmt.Errorf("%s: until then it may send writes of shard %d to %s alone. Run the command again when that "+
			"node answers and reaches the meta nodes, or stop that node", why, sh.ID, n.TCPAddr)
	}
	if why := s.losses.heldAlone(r.Context(), []cluster.Shard{sh}, n)[sh.ID]; why != "" {
		return nil, fmt.Errorf("the other owners do not have all of shard %d (%s): "+
			"wait for anti-entropy, which must be enabled, or copy it to another node", sh.ID, why)
	}
	return struct{}{}, s.giveUp(r.Context(), sh, n)
}

// filesLeftError is that a data node owns a shard no more, and still has its files.
type filesLeftError struct{ text string }

func (e filesLeftError) Error() string { return e.text }

// giveUp makes a data node no owner of a shard, and then removes its copy: in between nobody writes to it. It checks
// nothing, except that the node knows that it is no owner before its files are removed. An error is a filesLeftError
// when the node is no owner any more.
func (s *shards) giveUp(ctx context.Context, sh cluster.Shard, n cluster.Node) error {
	if _, err := s.execute(cluster.RemoveShardOwner{ID: sh.ID, NodeID: n.ID, Time: time.Now()}); err != nil {
		return err
	}
	c, err := s.nodes.client(n.TCPAddr)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err = s.nodes.catchUp(ctx, n, s.nodes.state().Index); err == nil {
			_, err = c.Remove(ctx, &rpc.RemoveRequest{ShardId: sh.ID})
		}
	}
	if err != nil {
		return filesLeftError{fmt.Sprintf("data node %s no longer owns shard %d, but its files are still there: %s",
			n.TCPAddr, sh.ID, rpc.Message(err))}
	}
	return nil
}

// copying lists the copies that are being made.
func (s *shards) copying(r *http.Request) (any, error) { return s.running(r.Context()), nil }

// running are the copies that are being made, by shard.
func (s *shards) running(ctx context.Context) []wire.CopyStatus {
	out := []wire.CopyStatus{}
	ask := func(ctx context.Context, n cluster.Node) (*rpc.CopiesResponse, error) {
		c, err := s.nodes.client(n.TCPAddr)
		if err != nil {
			return nil, err
		}
		return c.Copies(ctx, &rpc.CopiesRequest{})
	}
	for _, a := range rpc.AskAll(ctx, s.nodes.state().DataNodes, answerTimeout, ask) {
		for _, st := range a.Value.GetCopies() {
			out = append(out, wire.CopyStatus{
				Source: st.Source, Dest: a.Node.TCPAddr, Database: st.Database, Policy: st.RetentionPolicy,
				ShardID:   st.ShardId,
				TotalSize: st.Total, CurrentSize: st.Current, StartedAt: time.Unix(0, st.Started).UTC(),
			})
		}
	}
	slices.SortFunc(out, func(a, b wire.CopyStatus) int { return int(a.ShardID) - int(b.ShardID) })
	return out
}
