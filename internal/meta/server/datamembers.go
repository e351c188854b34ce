package server

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// dataNodeTimeout bounds each call to a data node, which may wait for its first state when it joins.
const dataNodeTimeout = wire.JoinTimeout + 5*time.Second

// DataMembersDeps is what DataMembers is made of.
type DataMembersDeps struct {
	Server *Server
	// Losses lists what the cluster would lose with a data node, a phrase for each shard.
	Losses func(ctx context.Context, n cluster.Node) ([]string, error)
}

// DataMembers adds, replaces and removes data nodes.
type DataMembers struct {
	server *Server
	losses func(context.Context, cluster.Node) ([]string, error)
}

// NewDataMembers returns the data nodes of a server's cluster.
func NewDataMembers(d DataMembersDeps) *DataMembers {
	return &DataMembers{server: d.Server, losses: d.Losses}
}

// AddData makes the data node at addr (host:8088) a member. Repeating it is harmless, and finishes what an earlier
// attempt left undone. A passive member stays passive: Activate changes that.
func (d *DataMembers) AddData(ctx context.Context, addr string) (cluster.Node, error) {
	return d.add(ctx, addr, false)
}

// AddPassiveData is AddData of a node that never owns a shard. A member that owns none becomes passive.
func (d *DataMembers) AddPassiveData(ctx context.Context, addr string) (cluster.Node, error) {
	return d.add(ctx, addr, true)
}

func (d *DataMembers) add(ctx context.Context, addr string, passive bool) (cluster.Node, error) {
	var none cluster.Node
	if err := checkTCPAddr(addr); err != nil {
		return none, err
	}
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	member, who, err := d.candidate(ctx, addr)
	if err != nil {
		return none, err
	}
	if n, ok := st.DataNode(who.NodeId); ok && n.TCPAddr != addr {
		return none, fmt.Errorf("data node %s is already a member as %s", addr, n.TCPAddr)
	}
	if n, ok := st.DataNodeByAddr(addr); ok && n.Awaited {
		return none, fmt.Errorf("data node %d at %s is awaited with its shards: run influxd-ctl adopt %s, "+
			"or update-data for a node with empty folders", n.ID, addr, addr)
	}
	if n, ok := st.DataNodeByAddr(addr); ok && who.NodeId != 0 && n.ID != who.NodeId {
		return none, fmt.Errorf("data node %s says its ID is %d, but the cluster knows this address as data node %d",
			addr, who.NodeId, n.ID)
	}
	if n, ok := st.DataNode(who.NodeId); ok && replaced(n, who) {
		return none, errReplaced(addr, n)
	}
	op := cluster.CreateDataNode{
		TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity, Passive: passive,
	}
	n, err := d.server.executeNode(op)
	if err != nil {
		return none, err
	}
	return n, d.join(ctx, member, n, "add-data")
}

// Activate lets the passive data node at addr own shards from now on.
func (d *DataMembers) Activate(addr string) (cluster.Node, error) {
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return cluster.Node{}, ErrNotInitialised
	}
	n, ok := st.DataNodeByAddr(addr)
	if !ok {
		return n, fmt.Errorf("data node %q does not exist", addr)
	} else if !n.Passive {
		return n, fmt.Errorf("data node %s is active already", addr)
	}
	return d.server.executeNode(cluster.ActivateDataNode{ID: n.ID})
}

// replaced reports whether the place of data node n in the cluster belongs to other folders than those of the node that
// answered.
func replaced(n cluster.Node, who *rpc.IdentifyResponse) bool {
	return n.Identity != "" && who.Identity != "" && n.Identity != who.Identity
}

func errReplaced(addr string, n cluster.Node) error {
	return fmt.Errorf("data node %s was data node %d, whose place another one has now: "+
		"start it with empty folders to use it again", addr, n.ID)
}

func checkTCPAddr(addr string) error {
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return fmt.Errorf("%q is not the address of a data node: give host:8088", addr)
	}
	return nil
}

// join tells a data node who it is and which meta nodes to follow. again is the command that tries once more.
func (d *DataMembers) join(ctx context.Context, member rpc.MembershipClient, n cluster.Node, again string) error {
	return d.tell(ctx, member, n, again, func(*rpc.JoinRequest) {})
}

// tell is join with a request that change completes.
func (d *DataMembers) tell(
	ctx context.Context, member rpc.MembershipClient, n cluster.Node, again string, change func(*rpc.JoinRequest),
) error {
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	st := d.server.State()
	req := &rpc.JoinRequest{NodeId: n.ID, ClusterId: st.Data.ClusterID, Identity: n.Identity}
	for _, m := range st.MetaNodes {
		req.MetaServers = append(req.MetaServers, m.HTTPAddr)
	}
	change(req)
	err := untilHeard(ctx, func() error {
		_, err := member.Join(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("data node %s is recorded as %d but did not join, run %s again: %s",
			n.TCPAddr, n.ID, again, status.Convert(err).Message())
	}
	return nil
}

// UpdateData gives the ID and the shards of the data node at old to the one at addr, which may be the same address with
// an empty node behind it. What the node lacks comes from the other owners, by anti-entropy.
func (d *DataMembers) UpdateData(ctx context.Context, old, addr string) (cluster.Node, error) {
	var none cluster.Node
	if err := checkTCPAddr(addr); err != nil {
		return none, err
	}
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	n, ok := st.DataNodeByAddr(old)
	if !ok {
		return none, fmt.Errorf("data node %q does not exist", old)
	}
	if other, ok := st.DataNodeByAddr(addr); ok && other.ID != n.ID {
		return none, fmt.Errorf("%s is data node %d of this cluster already", addr, other.ID)
	}
	member, who, err := d.candidate(ctx, addr)
	if err != nil {
		return none, err
	}
	switch {
	case who.NodeId != 0 && who.NodeId != n.ID:
		return none, fmt.Errorf("data node %s says its ID is %d: only a node without a cluster can take over data node %d",
			addr, who.NodeId, n.ID)
	case who.NodeId == n.ID && replaced(n, who):
		return none, errReplaced(addr, n)
	}
	op := cluster.UpdateDataNode{
		ID: n.ID, TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity,
	}
	if n, err = d.server.executeNode(op); err != nil {
		return none, err
	}
	return n, d.join(ctx, member, n, "update-data")
}

// candidate asks the data node at addr who it is, and refuses one that cannot join this cluster.
func (d *DataMembers) candidate(ctx context.Context, addr string) (rpc.MembershipClient, *rpc.IdentifyResponse, error) {
	own := d.server.State().Data.ClusterID
	member, who, err := d.identify(ctx, addr, own)
	switch {
	case err != nil:
	case who.ClusterId != 0 && who.ClusterId != own:
		err = fmt.Errorf("data node %s belongs to another cluster", addr)
	case who.Unfit != "":
		err = fmt.Errorf("data node %s cannot join: %s", addr, who.Unfit)
	}
	return member, who, err
}

// identify asks the data node at addr who it is. join is the ID of the cluster that it is to join, 0 for none: the node
// then says whether it can.
func (d *DataMembers) identify(
	ctx context.Context, addr string, join uint64,
) (rpc.MembershipClient, *rpc.IdentifyResponse, error) {
	conn, err := d.server.pool.Conn(addr)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	rpc.Now(ctx, conn)
	member := rpc.NewMembershipClient(conn)
	who, err := member.Identify(ctx, &rpc.IdentifyRequest{JoinCluster: join})
	if err != nil {
		return nil, nil, fmt.Errorf("data node %s is unreachable: %s", addr, status.Convert(err).Message())
	}
	return member, who, nil
}
