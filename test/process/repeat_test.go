package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// counter is a data node that counts the calls of each shard.
type counter struct {
	rpc.UnimplementedReplicationServer
	rpc.UnimplementedEntropyServer
	rpc.UnimplementedReconcileServer

	mu    sync.Mutex
	calls []uint64 // shards in the order of their calls
	from  []string // metadata that came with them
}

func (c *counter) called(ctx context.Context, shard uint64) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, shard)
	c.from = append(c.from, md.Get("authorization")...)
}

// seen is the shards of the calls so far.
func (c *counter) seen() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]uint64(nil), c.calls...)
}

func (c *counter) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	c.called(ctx, r.ShardId)
	if r.Database == "none" {
		return nil, status.Error(codes.FailedPrecondition, "no such database")
	}
	return &rpc.WriteShardResponse{Error: fmt.Sprintf("of shard %d", r.ShardId)}, nil
}

func (c *counter) Fetch(r *rpc.FetchRequest, s rpc.Entropy_FetchServer) error {
	c.called(s.Context(), r.ShardId)
	for range 3 {
		if err := s.Send(&rpc.FetchChunk{Blocks: []*rpc.Block{{Data: []byte("b")}}}); err != nil {
			return err
		}
	}
	return nil
}

func (c *counter) Summarize(s rpc.Reconcile_SummarizeServer) error {
	for n := uint64(1); ; n++ {
		q, err := s.Recv()
		if err != nil {
			return nil
		}
		c.called(s.Context(), q.GetOpen().GetShardId())
		if err := s.Send(&rpc.SummaryAnswer{Elements: n}); err != nil {
			return err
		}
	}
}

// counted puts a link in front of a counter; this test's process is node "a".
func counted(t *testing.T) (l *Links, addr string, c *counter) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c = &counter{}
	s := rpc.NewServer()
	rpc.RegisterReplicationServer(s, c)
	rpc.RegisterEntropyServer(s, c)
	rpc.RegisterReconcileServer(s, c)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	l, addr = gateway(t, ln.Addr().String(), calls)
	return l, addr, c
}

func writeShard(t *testing.T, addr string, pool *rpc.Pool, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	t.Helper()
	conn, err := pool.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return rpc.NewReplicationClient(conn).WriteShard(ctx, r)
}

// await waits for the calls of a counter.
func (c *counter) await(t *testing.T, want ...uint64) {
	t.Helper()
	if !Poll(10*time.Second, func() bool { return len(c.seen()) >= len(want) }) {
		t.Fatalf("calls %v, want %v", c.seen(), want)
	}
	if d := cmp.Diff(want, c.seen()); d != "" {
		t.Fatal(d)
	}
}

func TestRepeatedCallArrivesTwiceAndIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	l, addr, c := counted(t)
	pool := &rpc.Pool{Secret: "s"}
	defer pool.Close()
	if _, err := writeShard(t, addr, pool, &rpc.WriteShardRequest{ShardId: 1}); err != nil {
		t.Fatal(err)
	}
	l.Set("a", "b", Link{Mode: Repeat}) // the connection from before is reset
	resp, err := retried(t, addr, pool, &rpc.WriteShardRequest{ShardId: 2})
	if err != nil || resp.Error != "of shard 2" {
		t.Fatalf("answer %v, %v", resp, err)
	}
	c.await(t, 1, 2, 2)
	_, err = writeShard(t, addr, pool, &rpc.WriteShardRequest{ShardId: 3, Database: "none"})
	if status.Code(err) != codes.FailedPrecondition || rpc.Message(err) != "no such database" {
		t.Errorf("error %v", err)
	}
	c.await(t, 1, 2, 2, 3, 3)
	if n := len(c.from); n != 5 {
		t.Errorf("%d of 5 calls came with their metadata", n)
	}
	l.Heal()
	if _, err := retried(t, addr, pool, &rpc.WriteShardRequest{ShardId: 4}); err != nil {
		t.Fatal(err)
	}
	// Another call after it: a second 4 would be there before.
	if _, err := writeShard(t, addr, pool, &rpc.WriteShardRequest{ShardId: 5}); err != nil {
		t.Fatal(err)
	}
	c.await(t, 1, 2, 2, 3, 3, 4, 5)
}

// retried makes a call on a connection that may have been reset under it, in
// which case no server has seen the call.
func retried(
	t *testing.T, addr string, pool *rpc.Pool, r *rpc.WriteShardRequest,
) (resp *rpc.WriteShardResponse, err error) {
	t.Helper()
	Poll(10*time.Second, func() bool {
		resp, err = writeShard(t, addr, pool, r)
		return status.Code(err) != codes.Unavailable
	})
	return resp, err
}

func TestLateRepeatsArriveBehindLaterCalls(t *testing.T) {
	t.Parallel()
	l, addr, c := counted(t)
	l.Set("a", "b", Link{Mode: Repeat, Late: 50 * time.Millisecond, Seed: 1})
	pool := &rpc.Pool{}
	defer pool.Close()
	const n = 40
	for i := range uint64(n) {
		if _, err := writeShard(t, addr, pool, &rpc.WriteShardRequest{ShardId: i}); err != nil {
			t.Fatal(err)
		}
	}
	if !Poll(10*time.Second, func() bool { return len(c.seen()) >= 2*n }) {
		t.Fatalf("%d calls of %d", len(c.seen()), 2*n)
	}
	behind := 0
	times := make(map[uint64]int)
	var newest uint64
	for _, shard := range c.seen() {
		if times[shard]++; shard < newest {
			behind++
		}
		newest = max(newest, shard)
	}
	for shard := range uint64(n) {
		if times[shard] != 2 {
			t.Errorf("call %d arrived %d times", shard, times[shard])
		}
	}
	if behind < n/8 {
		t.Errorf("%d calls of %d arrived behind a later one", behind, n)
	}
}

func TestRepeatingLinkPassesStreams(t *testing.T) {
	t.Parallel()
	l, addr, c := counted(t)
	l.Set("a", "b", Link{Mode: Repeat})
	pool := &rpc.Pool{}
	defer pool.Close()
	conn, err := pool.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	fetch, err := rpc.NewEntropyClient(conn).Fetch(ctx, &rpc.FetchRequest{ShardId: 7})
	if err != nil {
		t.Fatal(err)
	}
	chunks := 0
	for {
		if _, err := fetch.Recv(); err != nil {
			break
		}
		chunks++
	}
	if chunks != 3 {
		t.Errorf("%d chunks of 3", chunks)
	}
	c.await(t, 7, 7)
	talk, err := rpc.NewReconcileClient(conn).Summarize(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 2; n++ { // the second question is asked after the first answer
		err := talk.Send(&rpc.SummaryQuestion{Question: &rpc.SummaryQuestion_Open_{Open: &rpc.SummaryQuestion_Open{ShardId: 8}}})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := talk.Recv(); err != nil || a.Elements != n {
			t.Fatalf("answer %v, %v", a, err)
		}
	}
	talk.CloseSend()
	if _, err := talk.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	c.await(t, 7, 7, 8, 8)
}

func TestRepeatingConnectionEndsWithItsNode(t *testing.T) {
	t.Parallel()
	l, addr, _ := counted(t)
	l.Set("a", "b", Link{Mode: Repeat})
	conn := dial(t, addr)
	if !Poll(10*time.Second, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.conns) == 1 }) {
		t.Fatal("no connection")
	}
	l.down("b")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(conn); os.IsTimeout(err) {
		t.Error("the connection stays when the node is down")
	}
}
