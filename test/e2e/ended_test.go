//go:build e2e && linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"concord/internal/meta/wire"
	"concord/test/process"
)

// TestQueryThatNeedsTooMuchMemoryEndsOneOwner gives the owners of a shard no more memory than they have. A query that
// needs more ends the first one that it is given to, and no other. The others answer.
func TestQueryThatNeedsTooMuchMemoryEndsOneOwner(t *testing.T) {
	ctx := t.Context()
	p := process.Start(t, process.Options{Meta: 1, Data: 4, Settings: map[string]map[string]any{
		// The first would end the query before it ends a process.
		"cluster": {"max-query-memory": -1, "vector-aggregates": false},
	}})
	if _, err := p.Data[0].Client().Query(ctx, "", `CREATE DATABASE db WITH REPLICATION 3`); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-24 * time.Hour).UnixNano()
	var lines []byte
	for i := range 3000 {
		lines = fmt.Appendf(lines, "m,s=%d v=1 %d\n", i, at)
	}
	if err := p.Data[0].Client().Write(ctx, "db", "all", lines); err != nil {
		t.Fatal(err)
	}
	var shards []wire.Shard
	if err := json.Unmarshal([]byte(p.Ctl("show-shards", "-json")), &shards); err != nil {
		t.Fatal(err)
	}
	outside, holders := p.Data[0], []*process.Node(nil)
	for _, n := range p.Data {
		owns := slices.ContainsFunc(shards[0].Owners, func(o wire.Owner) bool { return o.TCPAddr == n.TCP })
		if owns {
			holders = append(holders, n)
		} else {
			outside = n
		}
	}
	if len(shards) != 1 || len(holders) != 3 {
		t.Fatalf("the shards are %v", shards)
	}
	ask := func() (any, error) {
		rows, err := outside.Client().Query(ctx, "db", `SELECT count(v) FROM m WHERE s = '7'`)
		if err != nil || len(rows) != 1 {
			return nil, fmt.Errorf("%v, %w", rows, err)
		}
		return rows[0][1], nil
	}
	if n, err := ask(); err != nil || fmt.Sprint(n) != "1" {
		t.Fatal(n, err)
	}
	for _, n := range holders {
		limit := virtual(t, n.PID()) + 128<<20 // what it needs beside queries, with room to spare
		if err := unix.Prlimit(n.PID(), unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
			t.Skip("no limit of memory can be set: ", err)
		}
	}
	before := exchanges(t, outside.HTTP) // one a second with each, in which they tell how much memory they have
	p.Await("the nodes have told how much memory they have", func() bool {
		return exchanges(t, outside.HTTP) >= before+6
	})
	large := "SELECT first(v)" // each call opens an iterator for each series
	for i := range 60 {
		large += fmt.Sprintf(", percentile(v, %d)", i+1)
	}
	large += " FROM m GROUP BY *"
	began := time.Now()
	_, err := outside.Client().Query(ctx, "db", large)
	took := time.Since(began)
	ended := 0
	more := func(than int) func() bool {
		return func() bool {
			ended = 0
			for _, n := range holders {
				if !n.Running() {
					ended++
				}
			}
			return ended > than
		}
	}
	process.Poll(30*time.Second, more(0)) // a large process takes its time to end on a busy machine
	process.Poll(2*time.Second, more(1))
	for _, n := range holders {
		if i := strings.Index(n.Log(), "fatal error"); i >= 0 && ended > 1 {
			t.Logf("%s: %.3000s", n.Name, n.Log()[i:])
		}
	}
	if ended != 1 || err == nil || !strings.Contains(err.Error(), "may have ended because of it") {
		t.Errorf("after %v %d owners ended: %v", took, ended, err)
	}
	if n, err := ask(); err != nil || fmt.Sprint(n) != "1" {
		t.Error("a small query after it:", n, err)
	}
}

// exchanges is how many exchanges of what nodes know of their copies a node had.
func exchanges(t *testing.T, addr string) float64 { return statistic(t, addr, "copies", "exchanges") }

var vmSize = regexp.MustCompile(`VmSize:\s*(\d+) kB`)

// virtual is how many bytes a process has mapped.
func virtual(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := vmSize.FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmSize in %s", b)
	}
	n, err := strconv.ParseUint(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
