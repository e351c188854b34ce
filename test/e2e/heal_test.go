//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/entropy/api"
	"concord/test/process"
)

const healQuery = "SELECT count(v), mean(v), first(v), last(v), count(n), sum(n) FROM m"

func TestMain(m *testing.M) { process.Main(m) }

// TestKilledReplicaIsHealed is the story that the product exists for: a node
// is killed, misses writes, comes back, is found to differ, is repaired, and
// then answers alone as the others did. Then its disk is wiped and comes back automatically.
// Repairs are paused until the difference was seen: a copy that is known to miss writes is repaired at once.
func TestKilledReplicaIsHealed(t *testing.T) {
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"hinted-handoff": {"enabled": false}, // what a node misses is left to anti-entropy
	}})
	one := p.Data[0].Client()
	if _, err := one.Query(ctx, "",
		`CREATE DATABASE "e2e" WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`); err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3)

	write := func(from, n int, consistency string) {
		t.Helper()
		const batch, series = 10000, 200
		for at := from; at < from+n; at += batch {
			var lines []byte
			for i := at; i < at+batch; i++ {
				// A prime step spreads the points over two days, so over two shards.
				ts := begin.Add(time.Duration(i/series*7919%(2*86400)) * time.Second).Add(time.Duration(i))
				lines = fmt.Appendf(lines, "m,s=s%03d v=%d.25,n=%di %d\n", i%series, i%1000, i, ts.UnixNano())
			}
			if err := one.Write(ctx, "e2e", consistency, lines); err != nil {
				t.Fatalf("write %d: %v", at, err)
			}
		}
	}
	answer := func(i int) [][]any {
		t.Helper()
		rows, err := p.Data[i].Client().Query(ctx, "e2e", healQuery)
		if err != nil {
			t.Fatalf("query node %d: %v", i+1, err)
		}
		return rows
	}

	write(0, 1_000_000, "all")
	p.Ctl("entropy", "pause")
	p.Data[2].Stop(syscall.SIGKILL)
	write(1_000_000, 100_000, "one")
	want := answer(0)
	if got := fmt.Sprint(want[0][1]); got != "1100000" {
		t.Fatalf("node 1 counts %s of 1100000 points", got)
	}
	p.Data[2].Start()
	p.Data[2].AwaitUp()

	var s api.Status
	p.Await("both shards have the status diff", func() bool {
		var err error
		s, _, err = one.EntropyStatus(ctx)
		return err == nil && len(s.Shards) == 2 && s.Shards[0].Status == "diff" && s.Shards[1].Status == "diff"
	})
	t.Logf("entropy show:\n%s", p.Ctl("entropy", "show"))
	for _, sh := range s.Shards {
		if got, want := p.Ctl("entropy", "repair", sh.ID), "Repair Shard "+sh.ID+" queued\n"; got != want {
			t.Errorf("entropy repair printed %q, want %q", got, want)
		}
	}
	p.Ctl("entropy", "resume")
	clean := func() bool {
		s, _, err := one.EntropyStatus(ctx)
		return err == nil && s.Clean()
	}
	p.Await("the repair ends", clean)

	p.Data[0].Stop(syscall.SIGTERM)
	p.Data[1].Stop(syscall.SIGTERM)
	if d := cmp.Diff(want, answer(2)); d != "" {
		t.Fatalf("node 3 alone answers otherwise:\n%s", d)
	}

	// A wiped data folder: all shards come back automatically.
	p.Data[0].Start()
	p.Data[0].AwaitUp()
	p.Data[1].Start()
	p.Data[1].AwaitUp()
	p.Data[2].Stop(syscall.SIGTERM)
	p.Data[2].Wipe("data", "wal")
	p.Data[2].Start()
	p.Data[2].AwaitUp()
	p.Await("the wiped shards are seen or already back", func() bool {
		out := p.Ctl("entropy", "show")
		return strings.Contains(out, "missing") || strings.Contains(out, "Queued Shards: [1")
	})
	p.Await("the wiped shards are back", clean)
	p.Data[0].Stop(syscall.SIGTERM)
	p.Data[1].Stop(syscall.SIGTERM)
	if d := cmp.Diff(want, answer(2)); d != "" {
		t.Fatalf("after the wipe node 3 alone answers otherwise:\n%s", d)
	}
}
