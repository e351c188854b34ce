package distquery

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

var (
	listedSeries = flag.Int("listed", 100_000, "series that BenchmarkLists has, each with a tag value, and a fifth as many measurements")
	listedPeak   = flag.Bool("peak", false, "BenchmarkLists measures memory, and no time")
)

// BenchmarkLists lists many tag values and measurements of one owner, through a node that owns nothing. A client reads
// them in chunks. first-ms is when the first rows leave. peak-MB is what both nodes, which are one process here, hold
// besides the index: with -peak, which makes all slower.
func BenchmarkLists(b *testing.B) {
	c := newTestCluster(b, testOptions{nodes: 1, idle: 1, replicas: 1})
	owner := c.nodes[0]
	owner.server.Chunk, owner.server.Beat = chunkSize, time.Second
	c.write(b, "m,host=a,dc=d v=1 1")
	shard := c.shardGroups(b)[0].Shards[0].ID
	var points []models.Point
	add := func(name string, tags map[string]string) {
		p, err := models.NewPoint(name, models.NewTags(tags), models.Fields{"v": 1.0}, time.Unix(0, 1))
		if err != nil {
			b.Fatal(err)
		}
		if points = append(points, p); len(points) == 10_000 {
			if err := owner.store.WriteToShard(tsdb.WriteContext{}, shard, points); err != nil {
				b.Fatal(err)
			}
			points = nil
		}
	}
	for i := range *listedSeries {
		add("m", map[string]string{"host": fmt.Sprintf("host-%07d.example", i), "dc": fmt.Sprint("d", i%3)})
	}
	for i := range *listedSeries / 5 {
		add(fmt.Sprintf("measurement-%07d", i), map[string]string{"dc": fmt.Sprint("d", i%3)})
	}
	index, err := owner.store.Shard(shard).Index()
	if err != nil {
		b.Fatal(err)
	}
	index.(*tsi1.Index).Wait() // for its compactions
	n, _ := c.executing(b, c.nodes[1], newPool(b), 8<<30, &budget.Requests{})
	for _, text := range []string{
		`SHOW TAG VALUES WITH KEY = host`, `SHOW TAG VALUES FROM m WITH KEY = host WHERE dc =~ /d[12]/`,
		`SHOW TAG VALUES FROM m WITH KEY = host LIMIT 10`, `SHOW MEASUREMENTS`, `SHOW MEASUREMENTS WHERE dc != 'd1'`,
		`SHOW MEASUREMENTS LIMIT 10`,
	} {
		q, err := influxql.ParseQuery(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			measured := func() float64 { return 0 }
			if *listedPeak {
				measured = watchHeap()
			}
			var first time.Duration
			rows := 0
			for b.Loop() {
				start := time.Now()
				rows = 0
				for r := range n.exec.ExecuteQuery(q, query.ExecutionOptions{Database: db, ChunkSize: 10_000}, nil) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
					if rows == 0 {
						first = time.Since(start)
					}
					for _, s := range r.Series {
						rows += len(s.Values)
					}
				}
			}
			b.ReportMetric(float64(rows), "rows")
			b.ReportMetric(float64(first.Microseconds())/1e3, "first-ms")
			b.ReportMetric(measured(), "peak-MB")
		})
	}
}

// watchHeap returns a function that says by how many MB what is in use grew at most. It looks again and again, which
// takes time.
func watchHeap() (peak func() float64) {
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	most := before
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
				most = max(most, live())
			}
		}
	})
	return func() float64 {
		close(end)
		wg.Wait()
		return float64(most-before) / (1 << 20)
	}
}
