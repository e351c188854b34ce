//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"concord/test/process"
)

// TestWarningAfterAPowerFailureSaysWhatItWaitsFor kills all nodes at once, while their copies differ. No copy is known
// to be whole then: answers say so, what they wait for and about how long, and no longer do so once a repair has run.
func TestWarningAfterAPowerFailureSaysWhatItWaitsFor(t *testing.T) {
	ctx := t.Context()
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"hinted-handoff": {"enabled": false}, // the third node misses a write for good
	}})
	one := p.Data[0].Client()
	if _, err := one.Query(ctx, "", `CREATE DATABASE "db" WITH DURATION INF REPLICATION 3`); err != nil {
		t.Fatal(err)
	}
	if err := one.Write(ctx, "db", "all", []byte("m v=1 1000000000")); err != nil {
		t.Fatal(err)
	}
	p.Ctl("entropy", "pause")
	p.Data[2].Stop(syscall.SIGKILL)
	if err := one.Write(ctx, "db", "quorum", []byte("m v=2 2000000000")); err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Data[:2] {
		n.Signal(syscall.SIGKILL)
	}
	for _, n := range p.Data[:2] {
		n.Reap()
	}
	for _, n := range p.Data {
		n.Start()
	}
	for _, n := range p.Data {
		n.AwaitUp()
	}
	ask := func() (count any, warnings string) {
		t.Helper()
		rows, said, err := one.Ask(ctx, "db", "SELECT count(v) FROM m")
		if err != nil || len(rows) != 1 {
			t.Fatalf("%v, %v", rows, err)
		}
		return rows[0][1], strings.Join(said, "\n")
	}
	const why = "it waits until a repair has compared it with the other copies, for seconds, " +
		"or about as long as [anti-entropy] settle"
	p.Await("the warning says what the copy waits for", func() bool {
		_, warnings := ask()
		return strings.Contains(warnings, p.Data[0].TCP+": its node went down while writes were on their way: "+why)
	})
	p.Ctl("entropy", "resume")
	p.Await("the warning ends", func() bool {
		_, warnings := ask()
		return warnings == ""
	})
	if count, _ := ask(); fmt.Sprint(count) != "2" {
		t.Errorf("%v points are counted, want 2", count)
	}
}

// TestNewestWriteOfANodeThatWasKilledStays kills a node right after it has acknowledged a write at level one that has
// not reached the other owner. The copy of that node counts as not whole afterwards, and the other one as whole. It
// overwrote a value of long ago, which no journal knows any more, or one of moments ago, which the other owner knows.
func TestNewestWriteOfANodeThatWasKilledStays(t *testing.T) {
	t.Parallel()
	for what, forgotten := range map[string]bool{"over an old value": true, "over a new value": false} {
		t.Run(what, func(t *testing.T) { t.Parallel(); testNewestWriteStays(t, forgotten) })
	}
}

func testNewestWriteStays(t *testing.T, forgotten bool) {
	t.Helper()
	ctx := t.Context()
	p := process.Start(t, process.Options{Meta: 1, Data: 2, Links: true, Settings: map[string]map[string]any{
		"anti-entropy": {"check-interval": "1s", "settle": "1s"},
	}})
	one, two := p.Data[0], p.Data[1]
	if _, err := one.Client().Query(ctx, "", `CREATE DATABASE "db" WITH DURATION INF REPLICATION 2`); err != nil {
		t.Fatal(err)
	}
	write := func(level string, value int) {
		t.Helper()
		if err := one.Client().Write(ctx, "db", level, fmt.Appendf(nil, "m v=%d 1000000000", value)); err != nil {
			t.Fatal(err)
		}
	}
	write("all", 1)
	p.Await("the journals have forgotten the first write", func() bool {
		if !forgotten {
			return true
		}
		for _, n := range p.Data {
			rows, err := n.Client().Query(ctx, "", "SHOW STATS FOR 'order'") // bytes on disk, and keys
			if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != "0" {
				return false
			}
		}
		return true
	})
	p.Links.Set(one.Name, two.Name, process.Link{Mode: process.Stall})
	write("one", 2)
	one.Stop(syscall.SIGKILL)
	p.Links.Set(one.Name, two.Name, process.Link{Mode: process.Refuse}) // what was on its way is lost
	p.Links.Heal()
	one.Start()
	one.AwaitUp()
	p.Await("all copies are whole", func() bool {
		for _, n := range p.Data {
			if held, err := n.Held(); err != nil || held.NotWhole > 0 {
				return false
			}
		}
		return true
	})
	for _, n := range p.Data {
		rows, err := n.Client().Query(ctx, "db", "SELECT v FROM m")
		if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != "2" {
			t.Errorf("%s has %v, want the value that was acknowledged last; %v", n.Name, rows, err)
		}
	}
}
