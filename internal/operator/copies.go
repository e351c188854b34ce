package operator

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// flushTimeout bounds how long a data node writes the caches of the asked shards to files.
const flushTimeout = 10 * time.Minute

// The states of a Copy besides hot, cold and shardcopy.Unreadable, which data nodes say.
const (
	missing     = "missing"
	unreachable = "unreachable"
)

// Copy is one owner's copy of a shard, as GET /shard-copies tells it.
type Copy wire.Copy

// readable reports whether the node answers and has the shard.
func (c Copy) readable() bool {
	return c.State != missing && c.State != unreachable && c.State != shardcopy.Unreadable
}

// problem is why the copy is not a whole one, in a clause that names the node; empty when it is.
func (c Copy) problem() string {
	switch {
	case c.State == unreachable:
		return c.TCPAddr + " does not answer"
	case c.NotWhole != "":
		return c.TCPAddr + ": " + c.NotWhole
	case c.State == missing:
		return c.TCPAddr + " lacks it"
	}
	return ""
}

// state is the copy as GET /show-shards tells it.
func (c Copy) state() wire.CopyState {
	why := c.NotWhole
	switch {
	case c.State == unreachable:
		why = "does not answer"
	case why == "" && c.State == missing:
		why = "not found"
	}
	return wire.CopyState{State: c.State, LastModified: c.LastModified, Size: c.Size, Err: why}
}

// problems joins those of copies.
func problems(copies []Copy) string {
	var out []string
	for _, c := range copies {
		if p := c.problem(); p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "; ")
}

// copies knows what data nodes say about their copies of shards.
type copies struct{ nodes *dataNodes }

func (c *copies) routes() []server.Route {
	return []server.Route{{Pattern: "GET /shard-copies", Handler: answer(c.describe), Needs: shardPermissions}}
}

// describe lists all copies of all shards, and with unlisted=true also those that the metadata does not have.
func (c *copies) describe(r *http.Request) (any, error) {
	var unlisted map[uint64][]Copy
	if r.FormValue("unlisted") == "true" {
		unlisted = c.unlisted(r.Context()) // first: what is dropped meanwhile is in neither
	}
	out := c.describeCopies(r.Context(), c.nodes.state().Shards(), false)
	for id, more := range unlisted {
		out[id] = append(out[id], more...)
	}
	return out, nil
}

// unlisted are the copies on the disks of data nodes that the metadata does not have, by shard. Those of deleted shard
// groups are not among them: the nodes will remove these.
func (c *copies) unlisted(ctx context.Context) map[uint64][]Copy {
	ask := func(ctx context.Context, n cluster.Node) (*rpc.DescribeResponse, error) {
		client, err := c.nodes.client(n.TCPAddr)
		if err != nil {
			return nil, err
		}
		return client.Describe(ctx, &rpc.DescribeRequest{Disk: true})
	}
	answers := rpc.AskAll(ctx, c.nodes.state().DataNodes, answerTimeout, ask)
	st := c.nodes.state()
	known, out := st.ShardIDs(), map[uint64][]Copy{}
	for _, a := range answers {
		for _, d := range a.Value.GetShards() {
			db, rp := string(d.Database), string(d.RetentionPolicy)
			sh, ok := st.Shard(d.ShardId)
			deleted := !ok && known[d.ShardId]
			if deleted || ok && sh.Database == db && sh.RetentionPolicy == rp && sh.Owned(a.Node.ID) {
				continue
			}
			found := newCopy(a.Node.ID, a.Node.TCPAddr, d)
			found.Unlisted, found.Database, found.RetentionPolicy = true, db, rp
			out[d.ShardId] = append(out[d.ShardId], found)
		}
	}
	return out
}

// describeCopies asks the owners of shards about their copies; with flush they write their caches to files first.
// The answer has a Copy for each owner of each shard.
func (c *copies) describeCopies(ctx context.Context, of []cluster.Shard, flush bool) map[uint64][]Copy {
	ids := map[uint64][]uint64{}
	timeout := answerTimeout
	if flush {
		timeout = flushTimeout
	}
	for _, sh := range of {
		for _, o := range sh.Owners {
			ids[o] = append(ids[o], sh.ID)
		}
	}
	answers := map[uint64]map[uint64]*rpc.ShardDescription{} // by node and shard
	ask := func(ctx context.Context, n cluster.Node) (*rpc.DescribeResponse, error) {
		client, err := c.nodes.client(n.TCPAddr)
		if err != nil || len(ids[n.ID]) == 0 {
			return nil, err
		}
		return client.Describe(ctx, &rpc.DescribeRequest{ShardIds: ids[n.ID], Flush: flush})
	}
	for _, a := range rpc.AskAll(ctx, c.nodes.state().DataNodes, timeout, ask) {
		said := make(map[uint64]*rpc.ShardDescription)
		for _, d := range a.Value.GetShards() {
			said[d.ShardId] = d
		}
		answers[a.Node.ID] = said
	}
	out := make(map[uint64][]Copy, len(of))
	for _, sh := range of {
		for _, o := range sh.Owners {
			n, _ := c.nodes.state().DataNode(o)
			out[sh.ID] = append(out[sh.ID], newCopy(o, n.TCPAddr, answers[o][sh.ID]))
		}
		slices.SortFunc(out[sh.ID], func(a, b Copy) int { return cmp.Compare(a.Node, b.Node) })
	}
	return out
}

// maxClause bounds in bytes what a node says of a copy: it stands in tables and errors.
const maxClause = 300

// newCopy is what a node said of its copy; nil for no answer.
func newCopy(node uint64, addr string, d *rpc.ShardDescription) Copy {
	c := Copy{Node: node, TCPAddr: addr, State: missing}
	if d == nil {
		c.State = unreachable
		return c
	}
	if d.Exists {
		c.State, c.LastModified, c.Size = d.State, time.Unix(0, d.LastModified).UTC(), d.Size
	}
	c.NotWhole = strings.Join(strings.Fields(d.NotWhole), " ")
	if len(c.NotWhole) > maxClause {
		c.NotWhole = strings.ToValidUTF8(c.NotWhole[:maxClause], "") + "..."
	}
	return c
}

// checkSource refuses to copy a shard from a node whose copy is not whole, and names one whose copy is.
func (c *copies) checkSource(ctx context.Context, sh cluster.Shard, from cluster.Node) error {
	all := c.describeCopies(ctx, []cluster.Shard{sh}, false)[sh.ID]
	why, whole := "", []string{}
	for _, o := range all {
		switch p := o.problem(); {
		case o.Node == from.ID && p != "":
			why = p
		case p == "":
			whole = append(whole, o.TCPAddr)
		}
	}
	if why == "" {
		return nil
	}
	if len(whole) > 0 {
		return fmt.Errorf("data node %s does not have all of shard %d (%s): copy it from %s, which has",
			from.TCPAddr, sh.ID, why, strings.Join(whole, " or "))
	}
	return fmt.Errorf("no owner is known to have all of shard %d (%s): "+
		"wait for anti-entropy, or copy what there is with -force", sh.ID, problems(all))
}
