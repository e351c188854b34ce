//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

// TestQueriesOfOtherNodesAreKilled lists and ends a query at a node that does not run it, while another node hangs.
func TestQueriesOfOtherNodesAreKilled(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 3})
	one := p.Data[0].Client()
	if _, err := one.Query(ctx, "", `CREATE DATABASE db WITH REPLICATION 1`); err != nil {
		t.Fatal(err)
	}
	// More than the buffers of all connections take, so that the owners wait for the client.
	at := time.Now().Add(-24 * time.Hour).UnixNano()
	for b := range 12 {
		var lines []byte
		for i := range 250 {
			lines = fmt.Appendf(lines, "m%d,tag=%d-%s v=1 %d\n", b, i, strings.Repeat("x", 30_000), at)
		}
		if err := one.Write(ctx, "db", "one", lines); err != nil {
			t.Fatal(err)
		}
	}
	asked := p.Data[1]
	form := url.Values{"db": {"db"}, "q": {"SHOW SERIES"}, "chunked": {"true"}, "chunk_size": {"10"}}
	// The system would let the buffer of the client grow until it holds the whole answer.
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			}
			return conn, err
		},
	}}
	resp, err := client.PostForm("http://"+asked.HTTP+"/query", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !process.Poll(time.Minute, func() bool {
		return queryBytes(t, p.Data[0].HTTP) > 0 && queryBytes(t, p.Data[2].HTTP) > 0
	}) {
		t.Fatal("the owners do not wait for the client")
	}
	hung := p.Data[2]
	hung.Signal(syscall.SIGSTOP)
	var warnings []string
	id := ""
	// A process stops a moment after the signal, and on a busy machine another node may be late, too.
	process.Poll(time.Minute, func() bool {
		var rows [][]any
		began := time.Now()
		var err error
		if rows, warnings, err = one.Ask(ctx, "", "SHOW QUERIES"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("a node that hangs holds the answer up for %v", took)
		}
		for _, r := range rows {
			if len(r) == 8 && r[3] == "SHOW SERIES" && r[2] == asked.TCP {
				id = fmt.Sprint(r[0])
			}
		}
		return id != "" && len(warnings) == 1 && strings.Contains(warnings[0], hung.TCP)
	})
	if id == "" || len(warnings) != 1 || !strings.Contains(warnings[0], hung.TCP) {
		t.Fatalf("the query has the ID %q, and the warnings are %v", id, warnings)
	}
	hung.Signal(syscall.SIGCONT)
	process.Poll(time.Minute, func() bool { // a busy node may answer too late
		_, err = one.Query(ctx, "", `KILL QUERY `+id+` ON "`+asked.TCP+`"`)
		return err == nil || !strings.Contains(err.Error(), "does not answer")
	})
	if err != nil && !strings.Contains(err.Error(), "has ended, or never was") { // it arrived the first time
		t.Fatal(err)
	}
	for _, n := range p.Data {
		if !process.Poll(30*time.Second, func() bool { return queryBytes(t, n.HTTP) == 0 }) {
			t.Fatalf("%s works on after the query was killed", n.Name)
		}
	}
}

// statistic is a value of a statistic of a node, the sum of all that have the name.
func statistic(t *testing.T, addr, name, value string) (sum float64) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	vars := make(map[string]json.RawMessage)
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		t.Fatal(err)
	}
	for _, v := range vars {
		var stat struct {
			Name   string
			Values map[string]any
		}
		if json.Unmarshal(v, &stat) == nil && stat.Name == name {
			n, _ := stat.Values[value].(float64)
			sum += n
		}
	}
	return sum
}

// queryBytes is the memory that the queries of a node hold.
func queryBytes(t *testing.T, addr string) float64 { return statistic(t, addr, "queryMemory", "bytes") }
