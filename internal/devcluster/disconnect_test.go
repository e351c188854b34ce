package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// TestDisconnectEndsTheWorkOfOwners has a client ask one node for many series, of which another one has half, and go
// away while they come.
func TestDisconnectEndsTheWorkOfOwners(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.Data.Index = "tsi1" })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	// More than the buffers of all connections take, so that the owner waits for the client.
	const batches, series, size = 8, 250, 30_000
	at := yesterday().UnixNano()
	for b := range batches {
		var lines []byte
		for i := range series {
			lines = fmt.Appendf(lines, "m%d,tag=%d-%s v=1 %d\n", b, i, strings.Repeat("x", size), at)
		}
		if err := c.Client(0).Write(ctx, "db", "all", lines); err != nil {
			t.Fatal(err)
		}
	}
	const tries = 5 // a busy machine may be slow
	var took time.Duration
	for range tries {
		if took = disconnect(ctx, t, c, 0, 1); took < 5*time.Second {
			return
		}
	}
	t.Errorf("the owner works on for %v after the client has gone", took)
}

// disconnect begins to read an answer, and returns how long the owner works on after the client has gone away.
func disconnect(ctx context.Context, t *testing.T, c *devcluster.Cluster, asked, owner int) time.Duration {
	t.Helper()
	ctx, goAway := context.WithCancel(ctx)
	defer goAway()
	form := url.Values{"db": {"db"}, "q": {"SHOW SERIES"}, "chunked": {"true"}, "chunk_size": {"10"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.Data[asked].HTTPAddr()+"/query",
		strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if queryMemory(t, c, owner) == 0 {
		t.Fatal("the owner has sent all before the client has read it")
	}
	goAway()
	gone := time.Now()
	for queryMemory(t, c, owner) > 0 {
		if time.Since(gone) > 30*time.Second {
			t.Fatal("the owner works on for half a minute after the client has gone")
		}
	}
	return time.Since(gone)
}

// queryMemory is how many bytes the queries of a node hold.
func queryMemory(t *testing.T, c *devcluster.Cluster, node int) int64 {
	t.Helper()
	resp, err := http.Get("http://" + c.Data[node].HTTPAddr() + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all map[string]json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, raw := range all {
		var of struct {
			Name   string
			Values struct{ Bytes int64 }
		}
		if json.Unmarshal(raw, &of) == nil && of.Name == "queryMemory" {
			return of.Values.Bytes
		}
	}
	t.Fatal("the node does not tell the memory of its queries")
	return 0
}
