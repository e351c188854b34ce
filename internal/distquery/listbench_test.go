package distquery

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/enginetest"
)

var listedSeries = flag.Int("listed", 100_000, "series that BenchmarkLists has, each with a tag value")

// BenchmarkLists lists many tag values, and a fifth as many measurements, of one owner through a node that owns
// nothing. A client reads them in chunks. first-ms is when the first rows leave. asking-MB and owner-MB are what the
// statement takes at most of max-query-memory on either node.
func BenchmarkLists(b *testing.B) {
	c := newTestCluster(b, testOptions{nodes: 1, idle: 1, replicas: 1})
	owner := c.nodes[0]
	owner.server.chunk, owner.server.beat = chunkSize, time.Second
	c.write(b, "m,host=a,dc=d v=1 1")
	shard := c.shardGroups(b)[0].Shards[0].ID
	var points []models.Point
	add := func(name string, tags map[string]string) {
		p, err := models.NewPoint(name, models.NewTags(tags), models.Fields{"v": 1.0}, time.Unix(0, 1))
		if err != nil {
			b.Fatal(err)
		}
		if points = append(points, p); len(points) == 10_000 {
			enginetest.WritePoints(b, owner.store, shard, points...)
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
	owner.server.budget = budget.New(8 << 30)
	requests := &budget.Requests{}
	n, asking := c.executing(b, c.nodes[1], newPool(b), 8<<30, requests)
	streamed := &budget.Request{Share: asking.Open(), Streamed: true}
	defer streamed.Close()
	opt := query.ExecutionOptions{Database: db, ChunkSize: 10_000, NodeID: requests.Add(streamed)}
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
			most := watch(asking, owner.server.budget)
			var first time.Duration
			rows := 0
			for b.Loop() {
				start := time.Now()
				rows = 0
				for r := range n.exec.ExecuteQuery(q, opt, nil) {
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
			used := most()
			b.ReportMetric(used[0], "asking-MB")
			b.ReportMetric(used[1], "owner-MB")
		})
	}
}

// watch returns a function that says how many MB were taken of budgets at most.
func watch(budgets ...*budget.Budget) (most func() []float64) {
	used := make([]float64, len(budgets))
	end := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				for i, b := range budgets {
					used[i] = max(used[i], float64(b.Used())/(1<<20))
				}
			}
		}
	})
	return func() []float64 {
		close(end)
		watching.Wait()
		return used
	}
}
