package operator

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
	"concord/internal/rpc"
)

// sizesTimeout bounds how long hot copies are written to files, so that their sizes can be compared.
const sizesTimeout = time.Minute

// mustBeFree is the part of a disk that a rebalance leaves free: 1/20, as repairs do.
const mustBeFree = 20

// layout is which copies there are, and where there is room for more.
type layout struct {
	state  *cluster.State
	shards map[uint64]cluster.Shard // those that have not expired
	copies map[uint64][]Copy        // by shard
	room   map[uint64]int64         // bytes, by node; nodes that do not answer are not in it
	failed map[uint64]string        // why, by shard: these stay where they are
}

// look asks all data nodes.
func (r *rebalances) look(ctx context.Context) layout {
	l := layout{state: r.nodes.state()}
	l.shards = l.state.Live(time.Now())
	l.room = r.room(ctx, l.state.ActiveDataNodes())
	var all, hot []cluster.Shard
	for _, sh := range l.shards {
		all = append(all, sh)
	}
	l.copies = r.copies.describeCopies(ctx, all, false)
	for id, copies := range l.copies {
		if slices.ContainsFunc(copies, func(c Copy) bool { return c.State == "hot" }) {
			hot = append(hot, l.shards[id])
		}
	}
	// What is not in files yet is larger than it will be.
	ctx, cancel := context.WithTimeout(ctx, sizesTimeout)
	defer cancel()
	for id, copies := range r.copies.describeCopies(ctx, hot, true) {
		for i, c := range copies {
			if c.readable() {
				l.copies[id][i].Size = c.Size
			}
		}
	}
	return l
}

// room asks data nodes how many bytes they can take.
func (r *rebalances) room(ctx context.Context, nodes []cluster.Node) map[uint64]int64 {
	ask := func(ctx context.Context, n cluster.Node) (*rpc.ReportResponse, error) {
		conn, err := r.nodes.pool.Conn(n.TCPAddr)
		if err != nil {
			return nil, err
		}
		return rpc.NewOverviewClient(conn).Report(ctx, &rpc.ReportRequest{})
	}
	room := make(map[uint64]int64)
	for _, a := range rpc.AskAll(ctx, nodes, answerTimeout, ask) {
		if a.Err != nil {
			continue
		}
		room[a.Node.ID] = math.MaxInt64
		if len(a.Value.Disks) > 0 { // the first one has the shards
			d := a.Value.Disks[0]
			room[a.Node.ID] = max(int64(d.Free)-int64(d.Total/mustBeFree), 0)
		}
	}
	return room
}

// nothingWritten reports whether all owners of a shard answer, and nothing was ever written to it.
func nothingWritten(copies []Copy) bool {
	return !slices.ContainsFunc(copies, func(c Copy) bool { return c.State != missing || c.NotWhole != "" })
}

// size is that of a shard: the largest of its copies.
func size(copies []Copy) (n int64) {
	for _, c := range copies {
		n = max(n, c.Size)
	}
	return n
}

// source is the copy that another one is made of: that of the node prefer if it is whole, or another one that is.
func source(copies []Copy, prefer uint64) (found Copy, ok bool) {
	for _, c := range copies {
		if c.problem() == "" && (!ok || c.Node == prefer) {
			found, ok = c, true
		}
	}
	return found, ok
}

// plan makes a plan.
func (l layout) plan() balance.Plan {
	var s balance.State
	for _, n := range l.state.ActiveDataNodes() {
		room, answers := l.room[n.ID]
		s.Nodes = append(s.Nodes, balance.Node{
			ID: n.ID, Zone: n.Zone(), Draining: n.Draining, Away: !answers, Room: room,
		})
	}
	for id, sh := range l.shards {
		copies := l.copies[id]
		_, failed := l.failed[id]
		s.Shards = append(s.Shards, balance.Shard{
			ID: id, Copies: sh.ReplicaN, Owners: sh.Owners, Bytes: size(copies),
			Pinned: failed || !nothingWritten(copies) && !slices.ContainsFunc(copies, Copy.readable),
		})
	}
	return balance.Make(s)
}

// show is a plan for people.
func (l layout) show(p balance.Plan) wire.RebalancePlan {
	out := wire.RebalancePlan{Steps: []wire.RebalanceStep{}, Bytes: p.Bytes()}
	for _, s := range p.Steps {
		out.Steps = append(out.Steps, l.step(s))
	}
	for _, load := range p.Loads {
		n, _ := l.state.DataNode(load.Node)
		out.Nodes = append(out.Nodes, wire.RebalanceNode{
			TCPAddr: n.TCPAddr, Draining: n.Draining, Before: load.Before, After: load.After,
		})
	}
	out.Problems = l.problems(p.Unplaced)
	return out
}

// problems says what a plan does not reach. Shards that failed are left out.
func (l layout) problems(unplaced []balance.Unplaced) (out []string) {
	for _, u := range unplaced {
		if _, failed := l.failed[u.Shard]; !failed {
			out = append(out, l.problem(u))
		}
	}
	if more := len(out) - maxProblems; more > 0 {
		out = append(out[:maxProblems], fmt.Sprintf("and %d more shards", more))
	}
	return out
}

// maxProblems bounds how many shards a plan names that have nowhere to go.
const maxProblems = 20

func (l layout) addr(node uint64) string {
	n, _ := l.state.DataNode(node)
	return n.TCPAddr
}

// step is a step of a plan for people.
func (l layout) step(s balance.Step) wire.RebalanceStep {
	sh := l.shards[s.Shard]
	out := wire.RebalanceStep{
		ShardID: sh.ID, Database: sh.Database, Policy: sh.RetentionPolicy, Kind: string(s.Kind),
		From: l.addr(s.From), To: l.addr(s.To), Bytes: s.Bytes, Reason: string(s.Reason),
	}
	if s.To != 0 {
		c, _ := source(l.copies[s.Shard], s.From)
		out.Source = c.TCPAddr
	}
	return out
}

// problem says what a plan does not reach.
func (l layout) problem(u balance.Unplaced) string {
	sh := l.shards[u.Shard]
	name := fmt.Sprintf("shard %d of %s.%s", sh.ID, sh.Database, sh.RetentionPolicy)
	copies := l.copies[u.Shard]
	switch {
	case len(u.Drained) > 0 && !nothingWritten(copies) && !slices.ContainsFunc(copies, Copy.readable):
		return fmt.Sprintf("%s stays on %s: no owner answers that has it", name, l.addr(u.Drained[0]))
	case len(u.Drained) > 0:
		return fmt.Sprintf("%s stays on %s: no other node that answers has room for it", name, l.addr(u.Drained[0]))
	}
	return fmt.Sprintf("%s has %d of %d copies: no other node that answers has room for one", name, u.Copies, u.Wanted)
}
