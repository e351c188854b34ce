package datanode

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/protocol"
	"concord/internal/rpc"
	"concord/internal/whois"
)

// membership answers meta nodes and other data nodes about places in the cluster.
type membership struct {
	rpc.UnimplementedMembershipServer
	node *Node
	idle bool // the parts of the node do not run
}

// Identify tells who this node is.
func (m *membership) Identify(_ context.Context, r *rpc.IdentifyRequest) (*rpc.IdentifyResponse, error) {
	unfit := ""
	if r.JoinCluster != 0 {
		if err := m.node.folder().check(r.JoinCluster); err != nil {
			unfit = err.Error()
		}
	}
	return &rpc.IdentifyResponse{
		NodeId: m.node.Meta.NodeID(), ClusterId: m.node.Meta.ClusterID(),
		HttpAddr: m.node.httpAddr, Version: m.node.version, Clock: m.node.now().UnixNano(),
		Identity: m.node.Meta.Identity(), Process: m.node.place.process, Unfit: unfit,
		HttpScheme: m.node.cfg.httpScheme(),
		Protocol:   protocol.Own.Current,
	}, nil
}

// WhoIs tells what this node knows of another one's place.
func (m *membership) WhoIs(ctx context.Context, r *rpc.WhoIsRequest) (*rpc.WhoIsResponse, error) {
	if r.ClusterId != m.node.Meta.ClusterID() {
		return nil, status.Error(codes.FailedPrecondition, "this data node is not in that cluster")
	}
	w := whois.Recorded(m.node.Meta.State(), r.NodeId)
	w.Look(ctx, m.node.pool)
	return &rpc.WhoIsResponse{
		Index: w.Index, Member: w.Member, Identity: w.Identity, TcpAddr: w.Addr, Process: w.Process, Refused: w.Refused,
	}, nil
}

// Join stores this node's ID and the meta nodes that it follows from now on.
func (m *membership) Join(_ context.Context, r *rpc.JoinRequest) (*rpc.JoinResponse, error) {
	if r.NodeId == 0 || r.ClusterId == 0 || len(r.MetaServers) == 0 {
		return nil, status.Error(codes.InvalidArgument, "join needs a node id, a cluster id and meta servers")
	}
	if r.Identity != "" && r.Identity != m.node.Meta.Identity() {
		return nil, status.Error(codes.FailedPrecondition, "another process answered at this address a moment ago")
	}
	join := m.node.folder().join
	if r.Adopt {
		join = m.node.folder().commitAdoption
	}
	if err := join(r.ClusterId); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	// Before the new ID is on disk: a crash in between leaves a node that was removed, and that does not serve.
	if former := m.node.Meta.NodeID(); former != 0 && former != r.NodeId && m.node.Meta.ClusterID() == r.ClusterId {
		if err := m.node.endFormer(former); err != nil {
			return nil, err
		}
	}
	if err := m.node.Meta.Join(r.NodeId, r.ClusterId, r.MetaServers); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if m.idle {
		m.node.CheckPlace()
	} else {
		m.node.tagCluster()
	}
	return &rpc.JoinResponse{}, nil
}

// Leave makes this node forget its cluster; its data stays on disk.
func (m *membership) Leave(context.Context, *rpc.LeaveRequest) (*rpc.LeaveResponse, error) {
	n := m.node
	if !m.idle {
		n.life.Lock() // the parts that are to forget the cluster stay open
	} else if !n.life.TryLock() {
		return nil, errPartsChange
	}
	defer n.life.Unlock()
	idle := !n.partsOpen()
	if former := n.Meta.NodeID(); idle && former != 0 { // now, as a crash may come before the parts run again
		if err := n.setFormerAside(former); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	// The parts of a node that has noticed its removal before it was told to leave forget the cluster when they run
	// again.
	n.place.left.Store(idle)
	if err := n.Meta.Leave(); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if idle {
		n.CheckPlace()
		return &rpc.LeaveResponse{}, nil
	}
	if err := n.forgetCluster(); err != nil {
		return nil, status.Errorf(codes.Internal, "left the cluster, but %v", err)
	}
	return &rpc.LeaveResponse{}, nil
}

// forgetCluster forgets what this node knows of the copies and the deletes of the cluster that it left, and what it
// keeps for its nodes: another cluster may have the same numbers.
func (n *Node) forgetCluster() error {
	if err := n.copies.Forget(); err != nil {
		return fmt.Errorf("what copies lack is still noted: %w", err)
	}
	if n.handoff != nil {
		if err := n.handoff.Forget(); err != nil {
			return fmt.Errorf("hinted handoff keeps some of its queues: %w", err)
		}
	}
	if n.ran != nil {
		return n.ran.Forget()
	}
	return nil
}

// tellTimeout is longer than a node asks the meta nodes (two seconds), so that one that is behind says so itself. The
// sender waits ten seconds, in which this node catches up as well.
const tellTimeout = 4 * time.Second

// CatchUp returns when this node's copy of the metadata has a change that is about to be confirmed to a client, or that
// has to be known before a copy is removed. Then it tells those data nodes which the sender cannot reach: they may be
// cut off from the meta nodes, and go on to send their writes here.
func (m *membership) CatchUp(ctx context.Context, r *rpc.CatchUpRequest) (*rpc.CatchUpResponse, error) {
	if id := m.node.Meta.ClusterID(); id == 0 || id != r.ClusterId {
		return nil, status.Error(codes.FailedPrecondition, "this data node is not in that cluster")
	}
	if err := m.node.Meta.CatchUp(ctx, r.Index, r.Leader); err != nil {
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	var others []cluster.Node
	for _, id := range r.Others {
		if n, ok := m.node.Meta.DataNode(id); ok && id != m.node.Meta.NodeID() {
			others = append(others, n)
		}
	}
	resp := &rpc.CatchUpResponse{}
	tell := func(ctx context.Context, n cluster.Node) error {
		conn, err := m.node.pool.Conn(n.TCPAddr)
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		_, err = rpc.NewMembershipClient(conn).CatchUp(ctx, &rpc.CatchUpRequest{
			ClusterId: r.ClusterId, Index: r.Index, Leader: r.Leader,
		})
		return err
	}
	for _, a := range rpc.TellAll(ctx, others, tellTimeout, tell) {
		if rpc.IsBehind(a.Err) {
			resp.Behind = append(resp.Behind, a.Node.ID)
		}
	}
	return resp, nil
}
