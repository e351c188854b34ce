package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// Removed is a data node that was removed, and what the cluster lost with it.
type Removed struct {
	cluster.Node
	Lost  []string // a phrase for each shard; its files are still on the node
	Short int      // how many of its shards have fewer copies now than their policies ask for
}

// answer is the answer of /remove-data.
func (r Removed) answer() wire.Removed {
	return wire.Removed{Node: wire.Node(r.Node), Lost: r.Lost, Short: r.Short}
}

// maxNamed bounds how many shards an error names.
const maxNamed = 20

// RemoveData removes the data node at addr as a member and as an owner, and tells it. Its files stay on its disk.
// Without force a node that cannot be told stays, and so does one that holds what no other node has.
func (d *DataMembers) RemoveData(ctx context.Context, addr string, force bool) (Removed, error) {
	r, member, err := d.removableData(ctx, addr, force)
	if err != nil {
		return Removed{}, err
	}
	owned := d.server.State().Shards()
	if _, err := d.server.Execute(cluster.DeleteDataNode{ID: r.ID, Time: time.Now(), Adopt: true}); err != nil {
		return Removed{}, err
	}
	r.Short = short(d.server.State(), owned, r.ID)
	if member != nil {
		ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
		defer cancel()
		err := untilHeard(ctx, func() error {
			_, err := member.Leave(ctx, &rpc.LeaveRequest{})
			return err
		})
		if err != nil && !force {
			return Removed{}, fmt.Errorf("data node %d at %s is removed, but did not forget the cluster: %s",
				r.ID, addr, status.Convert(err).Message())
		}
	}
	return r, nil
}

// short counts the shards with fewer copies than their policies ask for, of those that a node owned.
func short(now *cluster.State, before []cluster.Shard, node uint64) (n int) {
	active := len(now.ActiveDataNodes())
	for _, sh := range before {
		if left, ok := now.Shard(sh.ID); ok && sh.Owned(node) && len(left.Owners) < min(left.ReplicaN, active) {
			n++
		}
	}
	return n
}

// untilHeard makes a call to a data node until the node answers or ctx ends. A node that finds out itself that it was
// removed, or may serve again, breaks calls off while it stops what it does, or begins to serve. The call may reach the
// node more than once.
func untilHeard(ctx context.Context, call func() error) error {
	for {
		err := call()
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(callAgain):
		}
	}
}

// callAgain is how soon a data node that broke a call off is called again.
const callAgain = 100 * time.Millisecond

// removableData finds the data node at addr, with what would be lost with it, and refuses what RemoveData refuses.
// It returns no client when nobody is to be told: the node does not answer, or another one does at its address.
func (d *DataMembers) removableData(
	ctx context.Context, addr string, force bool,
) (r Removed, _ rpc.MembershipClient, err error) {
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return r, nil, ErrNotInitialised
	}
	n, ok := st.DataNodeByAddr(addr)
	if !ok {
		return r, nil, fmt.Errorf("data node %q does not exist", addr)
	}
	member, who, err := d.identify(ctx, addr, 0)
	if err != nil && !force {
		return r, nil, fmt.Errorf("%w; -force removes it all the same", err)
	}
	// Another node may answer at a dead node's address: it must not leave.
	if err != nil || who.ClusterId != st.Data.ClusterID || who.NodeId != n.ID || replaced(n, who) {
		member = nil
	}
	r.Node = n
	if r.Lost, err = d.losses(ctx, n); err != nil {
		return r, nil, fmt.Errorf("find out what would be lost with data node %s: %w", addr, err)
	}
	if len(r.Lost) > 0 && !force {
		return r, nil, fmt.Errorf("data node %s holds what no other node has: %s; "+
			"give each shard another owner with influxd-ctl rebalance -drain %s, "+
			"or wait until anti-entropy has completed the other copies, "+
			"or lose it with influxd-ctl remove-data -force %s", addr, named(r.Lost), addr, addr)
	}
	return r, member, nil
}

// named joins what would be lost, the first of many.
func named(lost []string) string {
	if more := len(lost) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more shards", strings.Join(lost[:maxNamed], ", "), more)
	}
	return strings.Join(lost, ", ")
}
