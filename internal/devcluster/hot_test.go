package devcluster_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/entropy/api"
)

var hotFor = flag.Duration("hot", 6*time.Second, "for how long TestHotShardIsNeverListed writes")

// Under heavy writes, out of order and over each other, nothing is reported that is not entropy; what is, is found and
// repaired under the same writes.
func TestHotShardIsNeverListed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), *hotFor+4*time.Minute)
	defer cancel()
	config := func(cfg *datanode.Config) {
		// Settle is longer than a write is on its way, also on a machine that runs all other tests beside this one.
		cfg.AntiEntropy.Settle = itoml.Duration(4 * time.Second)
		cfg.AntiEntropy.CheckInterval = itoml.Duration(500 * time.Millisecond)
		cfg.HintedHandoff.Enabled = false
		cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
	}
	c, err := devcluster.Start(ctx, devcluster.Options{Dir: t.TempDir(), DataNodes: 3, DataConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH DURATION INF REPLICATION 3 SHARD DURATION 1h NAME autogen`)
	from := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)
	if time.Since(from) < 65*time.Minute {
		from = from.Add(-time.Hour) // all of it is settled
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); writers.Wait() })
	defer end()
	var written atomic.Int64
	n, points, pause, least := 2, 500, time.Nanosecond, int64(10_000)
	switch {
	case *hotFor > time.Minute:
		n = 4 // the machine is for this test alone
	case testing.Short():
		// While clients are served all the time, a repair gets a twentieth of the machine: minutes with the race
		// detector.
		points, pause, least = 100, 100*time.Millisecond, 2000
	}
	for w := range n {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			var b []byte
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				b = b[:0]
				for range points {
					// One writer, and so one coordinator, has each series.
					at := from.Add(time.Duration(rng.IntN(3600)) * time.Second)
					b = fmt.Appendf(b, "m,w=%d,s=%d v=%d,x=%g %d\n", w, rng.IntN(5), rng.IntN(1e6), rng.Float64(),
						at.UnixNano())
				}
				if err := c.Client(w%3).Write(ctx, "db", "all", b); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				written.Add(int64(points))
			}
		})
	}
	status := func() api.Status {
		s, _, err := c.Client(0).EntropyStatus(ctx)
		if err != nil {
			t.Error(err)
		}
		return s
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	looks := 0
	for begun := time.Now(); time.Since(begun) < *hotFor || written.Load() < least; looks++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d points are no heavy writes", written.Load())
		}
		if s := status(); len(s.Shards) > 0 {
			t.Fatalf("after %d points: %+v", written.Load(), s)
		}
	}
	// A point that one owner alone has is found, and brought to the others, while the writes go on.
	id := c.Shards("db")[0].ID
	lost, err := models.ParsePointsString(fmt.Sprintf("m,w=lost v=1 %d", from.UnixNano()))
	if err == nil {
		err = c.Data[1].Store.WriteToShard(tsdb.WriteContext{}, id, lost)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return len(status().Shards) == 1 }); err != nil {
		t.Fatal("the difference is not found:", err)
	}
	if err := c.Client(0).Repair(ctx, fmt.Sprint(id)); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return status().Clean() }); err != nil {
		t.Fatal("the repair does not end:", err)
	}
	end()
	t.Logf("%d points, %d looks", written.Load(), looks)
	for i := range 3 {
		if n := c.Data[i].Store.Shard(id).SeriesN(); n < 11 {
			t.Errorf("node %d has %d series", i+1, n)
		}
	}
}
