package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// killer ends every query, and hangs when it is asked for a report.
type killer struct {
	UnimplementedOverviewServer
	hung chan struct{} // gets one for each report that hangs
}

func (killer) KillQuery(context.Context, *KillQueryRequest) (*KillQueryResponse, error) {
	return &KillQueryResponse{}, nil
}

func (k killer) Report(ctx context.Context, _ *ReportRequest) (*ReportResponse, error) {
	k.hung <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestThePoolCountsItsCallsAndConnections(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k, s, done := killer{hung: make(chan struct{}, 1)}, NewServer(), make(chan struct{})
	RegisterOverviewServer(s, k)
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	pool := &Pool{}
	t.Cleanup(func() { pool.Close() })
	values := func() map[string]any { return pool.Statistics(nil)[0].Values }
	// await compares counters without the numbers of bytes, which must be there or not.
	await := func(what string, want map[string]int64) {
		t.Helper()
		var diff string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			got := make(map[string]int64)
			for name, v := range values() {
				if n := v.(int64); n != 0 && name != "rpcReadBytes" && name != "rpcWriteBytes" {
					got[name] = n
				}
			}
			if diff = cmp.Diff(want, got); diff == "" {
				return
			}
		}
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
	ctx := context.Background()
	conn, err := pool.Conn(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := NewOverviewClient(conn)
	for range 3 {
		if _, err := client.KillQuery(ctx, &KillQueryRequest{Id: 1}); err != nil {
			t.Fatal(err)
		}
	}
	await("three calls", map[string]int64{
		"rpcCalls": 3, "totalStreams": 3, "liveConnections": 1, "totalConnections": 1,
	})
	if v := values(); v["rpcReadBytes"].(int64) == 0 || v["rpcWriteBytes"].(int64) == 0 {
		t.Errorf("%v bytes read and %v written", v["rpcReadBytes"], v["rpcWriteBytes"])
	}
	if _, err := NewQueryClient(conn).TagKeys(ctx, &SchemaRequest{}); err == nil {
		t.Fatal("a service that is not there answers")
	}
	ending, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); client.Report(ending, &ReportRequest{}) }()
	<-k.hung
	await("a call that runs", map[string]int64{
		"rpcCalls": 5, "totalStreams": 5, "liveStreams": 1, "rpcFailures": 1, "liveConnections": 1,
		"totalConnections": 1,
	})
	end()
	<-ended
	own, err := pool.Own(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewOverviewClient(own).KillQuery(ctx, &KillQueryRequest{Id: 1}); err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{
		"rpcCalls": 6, "totalStreams": 6, "rpcFailures": 1, "liveConnections": 1, "totalConnections": 1,
		"singleUse": 1, "singleUseOpen": 1,
	}
	await("a call that was ended and one of an own connection", all)
	own.Close()
	delete(all, "singleUseOpen")
	await("the own connection is closed", all)
}
