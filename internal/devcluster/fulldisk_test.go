package devcluster_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// A node's disk is full, and its copy misses the newest value of a point. The shard is written to all the time, so the
// copies are never equal at one moment. When the copy counts as whole again, it has the value.
func TestCopyIsNotWholeBeforeItHasWhatFailedOnAFullDisk(t *testing.T) {
	t.Parallel()
	var full atomic.Pointer[string] // the folder of the node whose disk is full
	ctx, c := mustStartOptions(t, devcluster.Options{
		DataNodes: 3,
		DataConfig: func(cfg *datanode.Config) {
			cfg.HintedHandoff.Enabled = false
			cfg.AntiEntropy.Settle = itoml.Duration(time.Second)
			cfg.AntiEntropy.CheckInterval = itoml.Duration(500 * time.Millisecond)
		},
		Free: func(dir string) (free, total uint64, err error) {
			if node := full.Load(); node != nil && strings.HasPrefix(dir, *node) {
				return 0, 2 << 40, nil
			}
			return 1 << 40, 2 << 40, nil
		},
	})
	mustQuery(ctx, t, c, 0, "", "CREATE DATABASE d WITH REPLICATION 3")
	at := yesterday()
	write := func(level string, i, value int) {
		t.Helper()
		line := fmt.Appendf(nil, "m v=%d %d\n", value, at.Add(time.Duration(i)*time.Second).UnixNano())
		if err := c.Client(0).Write(ctx, "d", level, line); err != nil {
			t.Error(err)
		}
	}
	write("all", 0, 1)
	id := c.Shards("d")[0].ID
	pause := 20 * time.Millisecond
	if testing.Short() { // beside clients a repair gets a small part of the machine: minutes with the race detector
		pause = 100 * time.Millisecond
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(stop)
	writer.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := 1; ; i = i%100 + 1 {
			select {
			case <-stop:
				return
			case <-tick.C:
				write("quorum", i, i)
			}
		}
	})
	dir := c.DataDir(1)
	full.Store(&dir)
	write("quorum", 0, 2)
	unfit := func() string { return c.Data[1].Unfit(ctx, id) }
	if err := c.Wait(ctx, func() bool { return unfit() != "" }); err != nil {
		t.Fatal("the copy counts as whole:", err)
	}
	full.Store(nil)
	if err := c.Wait(ctx, func() bool { return unfit() == "" }); err != nil {
		t.Fatalf("the copy is not whole: %s: %v", unfit(), err)
	}
	if got := storedValues(t, c, 1, id); len(got) == 0 || got[0] != 2 {
		t.Errorf("the copy that counts as whole has %v, want 2 first", got)
	}
}
