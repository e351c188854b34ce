package operator

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// follower is a data node that catches up, or fails to.
type follower struct {
	rpc.UnimplementedMembershipServer
	err    error
	behind []uint64 // of the nodes that it is asked to tell
}

func (f follower) CatchUp(_ context.Context, r *rpc.CatchUpRequest) (*rpc.CatchUpResponse, error) {
	resp := &rpc.CatchUpResponse{}
	if len(r.Others) > 0 {
		resp.Behind = f.behind
	}
	return resp, f.err
}

func mustServeFollower(t *testing.T, f follower) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer()
	rpc.RegisterMembershipServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// Before a copy is removed, each data node that may serve clients has to know the new owner. A node that is down does
// not count. One that is cut off from the meta nodes does, also when only other data nodes reach it.
func TestBehindNamesTheDataNodeThatMaySendItsWritesToTheOldOwner(t *testing.T) {
	t.Parallel()
	const down = "127.0.0.1:1"
	for name, tt := range map[string]struct {
		first  follower
		second string // its address; empty for one that is served
		err    error  // of the second
		want   string
	}{
		"all know":             {},
		"one is down":          {second: down},
		"one is in no cluster": {err: status.Error(codes.FailedPrecondition, "not in that cluster")},
		"one is cut off from the meta nodes": {
			err:  status.Error(codes.DeadlineExceeded, "this node's metadata is behind"),
			want: "has not said that it knows who owns which shards (this node's metadata is behind)",
		},
		"one is cut off, also from this meta node": {
			first: follower{behind: []uint64{2}}, second: down,
			want: "data node 127.0.0.1:1 has not said that it knows who owns which shards (this meta node does not reach it, and ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := cluster.NewState()
			second := tt.second
			if second == "" {
				second = mustServeFollower(t, follower{err: tt.err})
			}
			st.DataNodes = []cluster.Node{{ID: 1, TCPAddr: mustServeFollower(t, tt.first)}, {ID: 2, TCPAddr: second}}
			pool := &rpc.Pool{}
			defer pool.Close()
			d := &dataNodes{state: func() *cluster.State { return st }, pool: pool}
			got := d.behind(t.Context(), 7)
			if !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
