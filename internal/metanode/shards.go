package metanode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// answerTimeout bounds what a data node answers from memory.
const answerTimeout = 10 * time.Second

// shards serves the commands that move and remove copies of shards.
type shards struct{ *meta.Server }

func (s shards) routes() {
	s.HandleAdmin("POST /copy-shard", true, s.serve(s.copy))
	s.HandleAdmin("POST /kill-copy-shard", false, s.serve(s.killCopy))
	s.HandleAdmin("POST /remove-shard", true, s.serve(s.remove))
	s.HandleAdmin("GET /copy-shard-status", false, s.serve(s.copies))
	s.HandleAdmin("GET /shard-copies", false, s.serve(s.describe))
}

func (s shards) serve(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		meta.Reply(w, v, err)
	}
}

func (s shards) client(addr string) (rpc.ShardsClient, error) {
	conn, err := s.Pool().Conn(addr)
	if err != nil {
		return nil, err
	}
	return rpc.NewShardsClient(conn), nil
}

// shard finds the shard of a request, and node the data node with an address.
func (s shards) shard(r *http.Request) (cluster.Shard, error) {
	id, err := strconv.ParseUint(r.FormValue("shard"), 10, 64)
	if err != nil {
		return cluster.Shard{}, errors.New("shard: must be a number")
	}
	// A follower may be a heartbeat behind the leader that has just made the shard, as in a restore.
	late := time.After(behind)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if sh, ok := s.State().Shard(id); ok {
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

// behind is how far a follower's state may be behind the leader's.
const behind = 2 * time.Second

func (s shards) node(addr string) (cluster.Node, error) {
	n, ok := s.State().DataNodeByAddr(addr)
	if !ok {
		return n, fmt.Errorf("data node %q does not exist", addr)
	}
	return n, nil
}

// copy makes a data node fetch a shard, and records it as an owner. Its answer comes when that is done.
func (s shards) copy(r *http.Request) (any, error) {
	sh, err := s.shard(r)
	if err != nil {
		return nil, err
	}
	from, err := s.node(r.FormValue("src"))
	if err != nil {
		return nil, err
	}
	to, err := s.node(r.FormValue("dest"))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(sh.Owners, from.ID) {
		return nil, fmt.Errorf("data node %s is no owner of shard %d", from.TCPAddr, sh.ID)
	} else if slices.Contains(sh.Owners, to.ID) {
		return nil, fmt.Errorf("data node %s is an owner of shard %d already", to.TCPAddr, sh.ID)
	}
	incomplete := false
	if v := r.FormValue("force"); v != "" {
		if incomplete, err = strconv.ParseBool(v); err != nil {
			return nil, errors.New("force: must be true or false")
		}
	}
	if !incomplete {
		if err := s.checkSource(r.Context(), sh, from); err != nil {
			return nil, err
		}
	}
	c, err := s.client(to.TCPAddr)
	if err != nil {
		return nil, err
	}
	// A client that goes away does not stop the copy; kill-copy-shard does.
	ctx := context.WithoutCancel(r.Context())
	if _, err := c.Copy(ctx, &rpc.CopyRequest{
		ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, Source: from.TCPAddr, Incomplete: incomplete,
	}); err != nil {
		return nil, errors.New(rpc.Message(err))
	}
	if _, err := s.Execute(cluster.AddShardOwner{ID: sh.ID, NodeID: to.ID}); err != nil {
		return nil, fmt.Errorf("shard %d is on %s, but was not recorded: %w", sh.ID, to.TCPAddr, err)
	}
	return struct{}{}, nil
}

func (s shards) killCopy(r *http.Request) (any, error) {
	sh, err := s.shard(r)
	if err != nil {
		return nil, err
	}
	to, err := s.node(r.FormValue("dest"))
	if err != nil {
		return nil, err
	}
	c, err := s.client(to.TCPAddr)
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

// remove takes an ownership away, then the copy: in between nobody writes to it.
// Another owner must have all of the shard: a copy lacks what was written while
// it was made until anti-entropy has brought it.
func (s shards) remove(r *http.Request) (any, error) {
	sh, err := s.shard(r)
	if err != nil {
		return nil, err
	}
	n, err := s.node(r.FormValue("node"))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(sh.Owners, n.ID) {
		return nil, fmt.Errorf("data node %s is no owner of shard %d", n.TCPAddr, sh.ID)
	} else if len(sh.Owners) == 1 {
		return nil, fmt.Errorf("data node %s has the last copy of shard %d: copy it to another one first, or drop it with DROP SHARD", n.TCPAddr, sh.ID)
	}
	if why := s.heldAlone(r.Context(), []cluster.Shard{sh}, n)[sh.ID]; why != "" {
		return nil, fmt.Errorf("the other owners do not have all of shard %d (%s): wait for anti-entropy, which must be enabled, or copy it to another node", sh.ID, why)
	}
	if _, err := s.Execute(cluster.RemoveShardOwner{ID: sh.ID, NodeID: n.ID, Time: time.Now()}); err != nil {
		return nil, err
	}
	c, err := s.client(n.TCPAddr)
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		_, err = c.Remove(ctx, &rpc.RemoveRequest{ShardId: sh.ID})
	}
	if err != nil {
		return nil, fmt.Errorf("data node %s no longer owns shard %d, but its files are still there: %s", n.TCPAddr, sh.ID, rpc.Message(err))
	}
	return struct{}{}, nil
}

func (s shards) copies(r *http.Request) (any, error) {
	out := []wire.CopyStatus{}
	ask := func(ctx context.Context, n cluster.Node) (*rpc.CopiesResponse, error) {
		c, err := s.client(n.TCPAddr)
		if err != nil {
			return nil, err
		}
		return c.Copies(ctx, &rpc.CopiesRequest{})
	}
	for _, a := range rpc.AskAll(r.Context(), s.State().DataNodes, answerTimeout, ask) {
		for _, st := range a.Value.GetCopies() {
			out = append(out, wire.CopyStatus{
				Source: st.Source, Dest: a.Node.TCPAddr, Database: st.Database, Policy: st.RetentionPolicy, ShardID: st.ShardId,
				TotalSize: st.Total, CurrentSize: st.Current, StartedAt: time.Unix(0, st.Started).UTC(),
			})
		}
	}
	slices.SortFunc(out, func(a, b wire.CopyStatus) int { return int(a.ShardID) - int(b.ShardID) })
	return out, nil
}
