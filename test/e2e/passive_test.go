//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

// TestPassiveNodeCoordinates writes and queries through a data node that owns nothing, and keeps there what an owner
// misses. Then the node becomes an active one.
func TestPassiveNodeCoordinates(t *testing.T) {
	t.Parallel()
	c := process.Start(t, process.Options{Meta: 1, Data: 2})
	passive := c.AddNode()
	if out := c.Ctl("add-data", "-p", passive.TCP); !strings.Contains(out, "which is passive") {
		t.Fatalf("add-data -p printed %q", out)
	}
	if out := c.Ctl("show"); strings.Count(out, "true") != 1 {
		t.Errorf("show:\n%s", out)
	}
	ask := func(n *process.Node, q string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		rows, err := n.Client().Query(ctx, "ops", q)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(rows)
	}
	write := func(level, lines string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := passive.Client().Write(ctx, "ops", level, []byte(lines)); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(passive, "CREATE DATABASE ops"); got != "[]" {
		t.Fatal(got)
	}
	write("all", "m v=1 1000000000")
	if out := c.Ctl("show-shards"); strings.Contains(out, passive.TCP) || !strings.Contains(out, c.Data[1].TCP) {
		t.Errorf("the passive node owns a shard:\n%s", out)
	}
	// An owner is away: the passive node keeps what it misses.
	owner := c.Data[0]
	owner.Stop(syscall.SIGKILL)
	write("one", "m v=2 2000000000")
	const sum = "SELECT sum(v) FROM m"
	want := ask(passive, sum)
	if !strings.Contains(want, "3") {
		t.Errorf("while an owner is away: %s", want)
	}
	owner.Start()
	owner.AwaitUp()
	// The other owner is gone: the answer is of what the passive node brought.
	c.Await("hints of the passive node reach the owner", func() bool {
		return !strings.Contains(c.Ctl("show-shards", "-v"), "not whole")
	})
	c.Data[1].Stop(syscall.SIGKILL)
	c.Await("the owner answers with both points", func() bool { return ask(owner, sum) == want })
	c.Data[1].Start()
	c.Data[1].AwaitUp()
	// A delete through it, and nothing is copied to it.
	if got := ask(passive, "DELETE FROM m WHERE time < 1500000000"); got != "[]" {
		t.Error(got)
	}
	if got := ask(owner, sum); !strings.Contains(got, "2") || strings.Contains(got, "3") {
		t.Errorf("after the delete: %s", got)
	}
	if _, err := c.TryCtl("copy-shard", owner.TCP, passive.TCP, "1"); err == nil ||
		!strings.Contains(err.Error(), "is passive") {
		t.Errorf("copy-shard to it: %v", err)
	}
	if out := c.Ctl("activate-data", passive.TCP); !strings.Contains(out, "is active") {
		t.Errorf("activate-data printed %q", out)
	}
	c.Ctl("copy-shard", owner.TCP, passive.TCP, "1")
	if out := c.Ctl("show-shards"); !strings.Contains(out, passive.TCP) {
		t.Errorf("it owns nothing:\n%s", out)
	}
}
