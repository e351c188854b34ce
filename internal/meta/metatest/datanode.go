package metatest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/client"
	"concord/internal/rpc"
)

// DataNode is a data node with a real copy of the metadata, and no shards.
type DataNode struct {
	rpc.UnimplementedMembershipServer
	*client.Client
	Addr, Dir string
}

// OpenClient opens a client, and closes it with the test.
func OpenClient(t *testing.T, d client.Deps) *client.Client {
	t.Helper()
	c, err := client.Open(d)
	OK(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// NewData starts a data node that is in no cluster.
func NewData(t *testing.T, change ...func(*client.Deps)) *DataNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	OK(t, err)
	d := client.Deps{Dir: t.TempDir()}
	for _, fn := range change {
		fn(&d)
	}
	n := &DataNode{Client: OpenClient(t, d), Addr: ln.Addr().String(), Dir: d.Dir}
	s := rpc.NewServer()
	rpc.RegisterMembershipServer(s, n)
	rpc.RegisterEntropyServer(s, noShards{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return n
}

// Joined starts a data node in the cluster of a meta node.
func Joined(t *testing.T, m *Meta) *DataNode {
	t.Helper()
	d := NewData(t)
	n, err := m.AddData(Context(t), d.Addr)
	OK(t, err)
	if d.NodeID() != n.ID || n.ID == 0 {
		t.Fatalf("node %d joined as %d", n.ID, d.NodeID())
	}
	return d
}

// AwaitCopy waits until a data node's copy of the state fulfils ok.
func AwaitCopy(t *testing.T, c *client.Client, ok func(*cluster.State) bool) {
	t.Helper()
	ctx := Context(t)
	for {
		changed := c.Changed()
		if ok(c.State()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the data node's copy of the metadata does not become what is awaited")
		}
	}
}

// Identify tells who this node is.
func (d *DataNode) Identify(context.Context, *rpc.IdentifyRequest) (*rpc.IdentifyResponse, error) {
	return &rpc.IdentifyResponse{NodeId: d.NodeID(), ClusterId: d.ClusterID(), HttpAddr: "http:1", Version: "v"}, nil
}

// Join makes this node a member.
func (d *DataNode) Join(_ context.Context, r *rpc.JoinRequest) (*rpc.JoinResponse, error) {
	if err := d.Client.Join(r.NodeId, r.ClusterId, r.MetaServers); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &rpc.JoinResponse{}, nil
}

// Leave makes this node forget its cluster.
func (d *DataNode) Leave(context.Context, *rpc.LeaveRequest) (*rpc.LeaveResponse, error) {
	return &rpc.LeaveResponse{}, d.Client.Leave()
}

// CatchUp makes the copy as new as the caller relies on.
func (d *DataNode) CatchUp(ctx context.Context, r *rpc.CatchUpRequest) (*rpc.CatchUpResponse, error) {
	if d.ClusterID() != r.ClusterId {
		return nil, status.Error(codes.FailedPrecondition, "another cluster")
	}
	if err := d.Client.CatchUp(ctx, r.Index, r.Leader); err != nil {
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	return &rpc.CatchUpResponse{}, nil
}

// noShards answers for a node without copies of shards.
type noShards struct{ rpc.UnimplementedEntropyServer }

func (noShards) ShardStates(_ context.Context, r *rpc.ShardStatesRequest) (*rpc.ShardStatesResponse, error) {
	out := &rpc.ShardStatesResponse{}
	for _, id := range r.ShardIds {
		out.States = append(out.States, &rpc.ShardState{ShardId: id})
	}
	return out, nil
}

// MustHang returns the address of a node that takes connections and says nothing.
func MustHang(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	OK(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String()
}
