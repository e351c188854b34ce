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
