package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/rpc"
)

// losses finds out what only one data node has.
type losses struct {
	nodes  *dataNodes
	copies *copies
}

// list lists what would be lost with a data node, each in a phrase that names the shard: copies that no other
// node has in full, and writes that wait in its hinted handoff.
func (l *losses) list(ctx context.Context, n cluster.Node) ([]string, error) {
	all := l.nodes.state().Shards()
	held := l.heldAlone(ctx, all, n)
	var out []string
	for _, sh := range all {
		if why := held[sh.ID]; why != "" {
			out = append(out, fmt.Sprintf("shard %d of %s.%s (%s)", sh.ID, sh.Database, sh.RetentionPolicy, why))
		}
	}
	return out, ctx.Err()
}

// heldAlone is, by shard, why no other owner is known to have all that n has of it. A shard of which n has nothing,
// or another owner has everything, is not in it.
func (l *losses) heldAlone(ctx context.Context, of []cluster.Shard, n cluster.Node) map[uint64]string {
	ids := make([]uint64, 0, len(of))
	var owned []cluster.Shard
	for _, sh := range of {
		ids = append(ids, sh.ID)
		if slices.Contains(sh.Owners, n.ID) {
			owned = append(owned, sh)
		}
	}
	var described map[uint64][]Copy
	done := make(chan struct{})
	go func() { defer close(done); described = l.copies.describeCopies(ctx, owned, false) }()
	states := l.states(ctx, ids)
	<-done
	out := map[uint64]string{}
	for _, sh := range of {
		h := holder{node: n, shard: sh, states: states}
		for _, c := range described[sh.ID] {
			if c.Node != n.ID {
				h.others = append(h.others, c)
			}
		}
		if why := h.alone(l.nodes.addr); why != "" {
			out[sh.ID] = why
		}
	}
	return out
}

// states asks every data node for the states of shards, by node and shard. A node that does not answer is not in it.
func (l *losses) states(ctx context.Context, ids []uint64) map[uint64]map[uint64]*rpc.ShardState {
	out := map[uint64]map[uint64]*rpc.ShardState{}
	ask := func(ctx context.Context, n cluster.Node) (*rpc.ShardStatesResponse, error) {
		conn, err := l.nodes.pool.Conn(n.TCPAddr)
		if err != nil {
			return nil, err
		}
		return rpc.NewEntropyClient(conn).ShardStates(ctx, &rpc.ShardStatesRequest{ShardIds: ids})
	}
	for _, a := range rpc.AskAll(ctx, l.nodes.state().DataNodes, answerTimeout, ask) {
		if a.Err != nil || len(a.Value.States) != len(ids) { // it must have a state for each shard
			continue
		}
		said := make(map[uint64]*rpc.ShardState, len(ids))
		for _, st := range a.Value.States {
			said[st.ShardId] = st
		}
		out[a.Node.ID] = said
	}
	return out
}

// holder is a node that is about to give up what it has of a shard.
type holder struct {
	node   cluster.Node
	shard  cluster.Shard
	others []Copy                                // of the other owners, when node is one
	states map[uint64]map[uint64]*rpc.ShardState // by node and shard
}

// alone is why no other owner is known to have all that the node has; empty when one has, or the node has nothing.
func (h holder) alone(addr func(uint64) string) string {
	own := h.states[h.node.ID][h.shard.ID] // nil when the node does not answer
	if !slices.Contains(h.shard.Owners, h.node.ID) {
		return h.waiting(own, addr)
	}
	if own != nil && !own.Exists && own.Corrupt == "" {
		return h.waiting(own, addr)
	}
	if len(h.others) == 0 {
		return "the last copy"
	}
	var why []string
	for _, c := range h.others {
		p := h.lacks(own, c)
		if p == "" {
			return ""
		}
		why = append(why, p)
	}
	return strings.Join(why, "; ")
}

// waiting says for which owners writes to the shard wait in the node's hinted handoff.
func (h holder) waiting(own *rpc.ShardState, addr func(uint64) string) string {
	var waits []string
	for _, id := range own.GetHints() {
		if a := addr(id); a != "" && id != h.node.ID && slices.Contains(h.shard.Owners, id) {
			waits = append(waits, a)
		}
	}
	if len(waits) == 0 {
		return ""
	}
	return "writes for " + strings.Join(waits, " and ") + " wait in its hinted handoff"
}

// lacks is why another owner's copy is not known to have all that the node has.
func (h holder) lacks(own *rpc.ShardState, c Copy) string {
	if p := c.problem(); p != "" {
		return p
	}
	st := h.states[c.Node][h.shard.ID]
	began := copystate.Beginning(st.GetBegun())
	switch {
	case st == nil:
		return c.TCPAddr + " does not answer"
	case !c.readable() || !st.Exists:
		return c.TCPAddr + " lacks it"
	case st.Corrupt != "":
		return c.TCPAddr + " is damaged"
	case slices.Contains(own.GetHints(), c.Node):
		return "writes for " + c.TCPAddr + " wait in hinted handoff"
	case began.LaterThan(copystate.Beginning(own.GetBegun())) && (own != nil || began == copystate.FromFiles):
		return c.TCPAddr + " is still catching up"
	}
	return ""
}
