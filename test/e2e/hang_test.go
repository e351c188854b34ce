//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

// TestHungOwnerIsNotReadAndIsCaughtUpAtOnce stops the process of an owner for longer than it takes to give it up,
// while others write. When it goes on it answers nothing from before; and nobody waits out a pause before it gets
// what it missed.
func TestHungOwnerIsNotReadAndIsCaughtUpAtOnce(t *testing.T) {
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"hinted-handoff": {"retry-interval": "60s", "retry-max-interval": "200s"}, // a pause would show
		"cluster":        {"write-timeout": "5s"},
	}})
	one := p.Data[0].Client()
	for _, q := range []string{`CREATE DATABASE two WITH REPLICATION 3`, `CREATE DATABASE alone WITH REPLICATION 1`} {
		if _, err := one.Query(ctx, "", q); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	write := func(db string, series, from, n int) error {
		var b []byte
		for i := from; i < from+n; i++ {
			b = fmt.Appendf(b, "m,s=%d v=%d %d\n", series, i, at.Add(time.Duration(i)*time.Millisecond).UnixNano())
		}
		level := "quorum"
		if db == "alone" {
			level = "one"
		}
		return one.Write(ctx, db, level, b)
	}
	// On a busy machine, owners that do not hang may be late, too. A client sends the same again then.
	mustWrite := func(db string, series, from, n int) {
		t.Helper()
		var err error
		if !process.Poll(time.Minute, func() bool { err = write(db, series, from, n); return err == nil }) {
			t.Fatal(err)
		}
	}
	// One of these series is on the node that hangs.
	for s := range 8 {
		mustWrite("alone", s, 0, 1)
	}
	mustWrite("two", 0, 0, 1000)
	count := func(i int) (n int64, warned bool, err error) {
		rows, warnings, err := p.Data[i].Client().Ask(ctx, "two", "SELECT count(v) FROM m")
		if err == nil && len(rows) > 0 {
			n, _ = rows[0][1].(json.Number).Int64()
		}
		return n, len(warnings) > 0, err
	}
	hung := p.Data[2]
	hung.Signal(syscall.SIGSTOP)
	const total = 21_000
	for i := 1000; i < total; i += 1000 {
		mustWrite("two", 0, i, 1000)
	}
	var failing sync.WaitGroup
	for s := range 8 {
		failing.Go(func() { _ = write("alone", s, 1, 1) }) // those on the hung node fail, and wait for it
	}
	failing.Wait()
	if !process.Poll(30*time.Second, func() bool { return hinted(t, p.Data[0].HTTP) > 0 }) {
		t.Fatal("nothing waits for the hung node")
	}
	hung.Signal(syscall.SIGCONT)
	went := time.Now()
	for time.Since(went) < 5*time.Second {
		for i := range p.Data {
			if n, warned, err := count(i); err == nil && !warned && n < total {
				t.Fatalf("%v after it went on, node %d answers %d of %d points and no warning", time.Since(went), i+1,
					n, total)
			}
		}
	}
	if !process.Poll(30*time.Second, func() bool { return hinted(t, p.Data[0].HTTP) == 0 }) {
		t.Errorf("after %v writes still wait for the node", time.Since(went))
	}
	for s := range 8 {
		var err error
		if !process.Poll(20*time.Second, func() bool { err = write("alone", s, 2, 1); return err == nil }) {
			t.Errorf("series %d, %v after the node went on: %v", s, time.Since(went), err)
		}
	}
}

// hinted is how many bytes a node keeps in hinted handoff.
func hinted(t *testing.T, addr string) float64 { return statistic(t, addr, "hh_node", "queueBytes") }
