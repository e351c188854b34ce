package distquery

import (
	"fmt"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// fillForBench writes nine shards.
func (c *testCluster) fillForBench(b *testing.B) {
	b.Helper()
	for _, n := range c.nodes {
		n.server.chunk = chunkSize
	}
	for g := range groups {
		var s strings.Builder
		for h := range 100 {
			for i := range 200 {
				fmt.Fprintf(&s, "cpu,host=h%02d,region=r%d v=%d.5,i=%di %d\n", h, h%3, (h*i)%1000, h+i, int64(g)*day+int64(i)*10e9)
			}
		}
		c.write(b, s.String())
	}
}

// BenchmarkStatements runs statements over nine shards on three nodes, of which one is asked.
func BenchmarkStatements(b *testing.B) {
	c := newTestCluster(b, testOptions{nodes: 3, replicas: 1})
	c.fillForBench(b)
	for _, text := range []string{
		`SELECT v FROM cpu`,
		`SELECT v, i FROM cpu GROUP BY host`,
		`SELECT host, v FROM cpu`,
		`SELECT v FROM cpu LIMIT 100`,
		`SELECT count(v), sum(i), max(v) FROM cpu`,
		`SELECT sum(v), mean(v) FROM cpu GROUP BY host`,
		`SELECT max(v), host FROM cpu`,
		`SELECT mean(v) FROM cpu WHERE time >= 0 AND time < 3d GROUP BY time(1m), host`,
		`SELECT median(v) FROM cpu GROUP BY region`,
		`SHOW MEASUREMENTS WHERE host = 'h01'`,
	} {
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q, err := influxql.ParseQuery(text)
				if err != nil {
					b.Fatal(err)
				}
				rows := 0
				for r := range c.nodes[0].exec.ExecuteQuery(q, query.ExecutionOptions{Database: db, ChunkSize: 10000}, nil) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
					for _, s := range r.Series {
						rows += len(s.Values)
					}
				}
				if rows == 0 {
					b.Fatal("no rows")
				}
			}
		})
	}
}

// BenchmarkExecutor runs statements as a data node does: with the budget of its queries.
func BenchmarkExecutor(b *testing.B) {
	c := newTestCluster(b, testOptions{nodes: 3, replicas: 1})
	c.fillForBench(b)
	for _, n := range c.nodes {
		n.server.budget = budget.New(1 << 30)
	}
	n, _ := c.limited(b, newPool(b), 1<<30, &budget.Requests{})
	for _, text := range []string{
		`SELECT v FROM cpu`,
		`SELECT v, i FROM cpu ORDER BY time DESC LIMIT 100`,
		`SELECT count(v), sum(i), max(v) FROM cpu`,
		`SELECT mean(v) FROM cpu WHERE time >= 0 AND time < 3d GROUP BY time(1h), host`,
	} {
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n.results(b, text, query.ExecutionOptions{ChunkSize: 10_000}, func(r *query.Result) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
				})
			}
		})
	}
}
