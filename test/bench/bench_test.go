//go:build bench

package bench

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare/plain"
)

var rounds = flag.Int("rounds", 5, "times that each system is measured, one after the other; the median counts")

const (
	batch   = 5000 // points in a write
	writers = 4    // clients at the same time
	hosts   = 500  // series
)

var start = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)

// system is what is measured: the clients spread their requests over its nodes.
type system struct {
	name  string
	nodes []devcluster.Client
	db    string
	level string
	pids  []int // of the nodes; none when they run in this process
}

// both starts a plain node and a cluster.
func both(t *testing.T) (ctx context.Context, single devcluster.Client, nodes []devcluster.Client) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = writers
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	p, err := plain.Start(plain.Options{Dir: t.TempDir(), Index: "inmem"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := devcluster.Start(ctx, devcluster.Options{Dir: t.TempDir(), DataNodes: 3, DataConfig: func(cfg *datanode.Config) {
		cfg.AntiEntropy.CheckInterval, cfg.AntiEntropy.Settle = itoml.Duration(5*time.Minute), itoml.Duration(time.Minute)
		cfg.Data.QueryLogEnabled = false
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for i := range c.Data {
		nodes = append(nodes, c.Client(i))
	}
	return ctx, devcluster.Client{Base: "http://" + p.HTTPAddr()}, nodes
}

func create(ctx context.Context, t *testing.T, s system, replicas int) {
	t.Helper()
	q := "CREATE DATABASE " + s.db
	if replicas > 0 {
		q = fmt.Sprintf("%s WITH REPLICATION %d", q, replicas)
	}
	if _, err := s.nodes[0].Query(ctx, "", q); err != nil {
		t.Fatal(err)
	}
}

// lines are the n-th batch: every host at one second after the other.
func lines(n int) []byte {
	b := make([]byte, 0, batch*90)
	for i := range batch {
		k := n*batch + i
		b = fmt.Appendf(b, "cpu,host=host-%d,region=eu-%d,service=s%d usage=%d.%d,load=%d.5 %d\n",
			k%hosts, k%hosts%7, k%hosts%20, k%100, k%10, k%13, start.Add(time.Duration(k/hosts)*time.Second).UnixNano())
	}
	return b
}

// write sends the batches and returns points a second.
func (s system) write(ctx context.Context, t *testing.T, bodies [][]byte) float64 {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				if err := s.nodes[i%len(s.nodes)].Write(ctx, s.db, s.level, bodies[i]); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	return float64(len(bodies)*batch) / time.Since(begin).Seconds()
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func TestWriteThroughput(t *testing.T) {
	ctx, single, nodes := both(t)
	systems := []system{
		{name: "one plain node", nodes: []devcluster.Client{single}, db: "w", level: "one"},
		{name: "3 nodes, 2 replicas, all", nodes: nodes, db: "rf2", level: "all"},
		{name: "3 nodes, 3 replicas, all", nodes: nodes, db: "rf3", level: "all"},
		{name: "3 nodes, 3 replicas, one", nodes: nodes, db: "rf3one", level: "one"},
	}
	for i, s := range systems {
		create(ctx, t, s, []int{0, 2, 3, 3}[i])
	}
	const batches = 40
	figures := make([][]float64, len(systems))
	for r := range *rounds + 1 {
		var bodies [][]byte
		for i := range batches {
			bodies = append(bodies, lines(r*batches+i))
		}
		for i, s := range systems {
			if f := s.write(ctx, t, bodies); r > 0 { // the first warms up
				figures[i] = append(figures[i], f)
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "writes of %d points, %d clients\tpoints/s\tof the plain node\tper copy\t\n", batch, writers)
	base := median(figures[0])
	for i, s := range systems {
		f := median(figures[i])
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t\n", s.name, f, f/base, f/base*float64([]int{1, 2, 3, 3}[i]))
	}
	w.Flush()
}

func TestQueryLatency(t *testing.T) {
	ctx, single, nodes := both(t)
	systems := []system{
		{name: "one plain node", nodes: []devcluster.Client{single}, db: "q", level: "one"},
		{name: "3 replicas", nodes: nodes, db: "rf3", level: "all"}, // every node has all shards
		{name: "1 replica", nodes: nodes, db: "rf1", level: "all"},  // every node has a third
	}
	var bodies [][]byte
	for i := range 50 { // 500 points of each host
		bodies = append(bodies, lines(i))
	}
	for i, s := range systems {
		create(ctx, t, s, []int{0, 3, 1}[i])
		s.write(ctx, t, bodies)
	}
	at := start.Format(time.RFC3339)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "median latency of a query, ms\tplain\tlocal shards\tratio\tremote shards\tratio\t\n")
	for _, q := range []struct{ name, text string }{
		{"one series, 500 points", fmt.Sprintf(`SELECT usage FROM cpu WHERE host = 'host-7' AND time >= '%s'`, at)},
		{"mean of one series", fmt.Sprintf(`SELECT mean(usage) FROM cpu WHERE host = 'host-7' AND time >= '%s'`, at)},
		{"mean of 500 series, by host", fmt.Sprintf(`SELECT mean(usage) FROM cpu WHERE time >= '%s' GROUP BY host`, at)},
		{"mean by minute and service", fmt.Sprintf(
			`SELECT mean(usage) FROM cpu WHERE time >= '%s' AND time < '%s' + 500s GROUP BY time(1m), service`, at, at,
		)},
		{"count of all fields", fmt.Sprintf(`SELECT count(*) FROM cpu WHERE time >= '%s'`, at)},
		{
			"50,000 points of 100 series", fmt.Sprintf(`SELECT usage FROM cpu WHERE service =~ /^s[0-3]$/ AND time >= '%s'`, at),
		},
	} {
		figures := make([][]float64, len(systems))
		for r := range *rounds * 6 {
			for i, s := range systems {
				begin := time.Now()
				rows, err := s.nodes[r%len(s.nodes)].Query(ctx, s.db, q.text)
				if err != nil || len(rows) == 0 {
					t.Fatalf("%s: %s: %d rows, %v", s.name, q.text, len(rows), err)
				}
				figures[i] = append(figures[i], time.Since(begin).Seconds()*1000)
			}
		}
		base, local, remote := median(figures[0]), median(figures[1]), median(figures[2])
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", q.name, base, local, local/base, remote, remote/base)
	}
	w.Flush()
}

// TestQueryOfManyShards asks for one day of a database that has 200: 600 shards.
func TestQueryOfManyShards(t *testing.T) {
	ctx, single, nodes := both(t)
	systems := []system{
		{name: "one plain node", nodes: []devcluster.Client{single}, db: "many", level: "one"},
		{name: "3 nodes, 1 replica", nodes: nodes, db: "many", level: "all"},
	}
	var body []byte
	for day := range 200 {
		for h := range 50 {
			body = fmt.Appendf(body, "cpu,host=host-%d usage=1 %d\n", h, start.AddDate(0, 0, -day).UnixNano())
		}
	}
	for _, s := range systems {
		if _, err := s.nodes[0].Query(ctx, "",
			"CREATE DATABASE many WITH DURATION INF REPLICATION 1 SHARD DURATION 1d"); err != nil {
			t.Fatal(err)
		}
		if err := s.nodes[0].Write(ctx, s.db, s.level, body); err != nil {
			t.Fatal(err)
		}
	}
	q := fmt.Sprintf(`SELECT usage FROM cpu WHERE host = 'host-3' AND time >= '%s'`, start.Format(time.RFC3339))
	figures := make([][]float64, len(systems))
	for r := range *rounds * 20 {
		for i, s := range systems {
			begin := time.Now()
			if rows, err := s.nodes[r%len(s.nodes)].Query(ctx, s.db, q); err != nil || len(rows) != 1 {
				t.Fatalf("%s: %d rows, %v", s.name, len(rows), err)
			}
			figures[i] = append(figures[i], time.Since(begin).Seconds()*1000)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	plain, clustered := median(figures[0]), median(figures[1])
	fmt.Fprintf(w, "one series of one day of 200, ms\t%s %.2f\t%s %.2f\tratio %.2f\t\n",
		systems[0].name, plain, systems[1].name, clustered, clustered/plain)
	w.Flush()
}
