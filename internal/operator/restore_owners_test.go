package operator_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	emeta "github.com/influxdata/influxdb/services/meta"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/backup"
	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/rpc"
)

// owner is a data node that takes restored shards, and can note that others did not.
type owner struct {
	rpc.UnimplementedShardsServer
	note  error // what noting ends with
	noted []*rpc.NoteLackingRequest
}

func (o *owner) Import(stream grpc.ClientStreamingServer[rpc.ImportChunk, rpc.ImportResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.Last {
			return stream.SendAndClose(&rpc.ImportResponse{})
		}
	}
}

func (o *owner) NoteLacking(_ context.Context, r *rpc.NoteLackingRequest) (*rpc.NoteLackingResponse, error) {
	o.noted = append(o.noted, &rpc.NoteLackingRequest{ShardId: r.ShardId, Nodes: r.Nodes})
	return &rpc.NoteLackingResponse{}, o.note
}

// mustServe returns the address at which an owner is served.
func mustServe(t *testing.T, o *owner) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	metatest.OK(t, err)
	s := rpc.NewServer()
	rpc.RegisterShardsServer(s, o)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// A restore is done when an owner that has the shard remembers which owners do not have it, and is an error else.
func TestRestoreIsDoneWhenItIsNotedWhoLacksIt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		note error
		want string // of the error
	}{
		"noted": {},
		"not noted": {status.Error(codes.Internal, "the disk is full"),
			"some owners did not take shard 1 (127.0.0.1:1: "},
		"by a former build": {status.Error(codes.Unimplemented, "unknown method"),
			"unknown method): they would answer as if it were empty. Drop what was restored, and restore it again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &owner{note: tt.note}
			up := mustServe(t, o)
			m := metatest.New(t, true)
			m.AddNode(t, up)
			down := m.AddNode(t, "127.0.0.1:1")
			two := 2
			for _, op := range []cluster.Op{
				cluster.CreateDatabase{Name: "db", Spec: &emeta.RetentionPolicySpec{ReplicaN: &two}},
				cluster.CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Now()},
			} {
				_, err := m.Execute(op)
				metatest.OK(t, err)
			}
			code, body := metatest.Post(t, m.URL("/restore/shard?shard=1"), "files")
			if diff := cmp.Diff([]*rpc.NoteLackingRequest{{ShardId: 1, Nodes: []uint64{down.ID}}}, o.noted,
				cmp.Comparer(func(a, b *rpc.NoteLackingRequest) bool { return a.String() == b.String() })); diff != "" {
				t.Errorf("the owner that took the shard was told: %s", diff)
			}
			if tt.want != "" {
				if code != http.StatusBadRequest || !strings.Contains(body, tt.want) {
					t.Errorf("%d %s, want an error with %q", code, body, tt.want)
				}
				return
			}
			var got backup.Restored
			metatest.OK(t, json.Unmarshal([]byte(body), &got))
			want := backup.Restored{Owners: []string{up}, Failed: []string{down.TCPAddr}}
			if diff := cmp.Diff(want, got); diff != "" || code != http.StatusOK {
				t.Errorf("%d: %s", code, diff)
			}
		})
	}
}
