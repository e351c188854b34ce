package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/meta/wire"
)

// TestContinuousQueryRunsOnOneNode has a continuous query fill a measurement, and counts who ran it.
func TestContinuousQueryRunsOnOneNode(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		cfg.ContinuousQuery.RunInterval = itoml.Duration(100 * time.Millisecond)
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	mustQuery(ctx, t, c, 0, "",
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT count(v) INTO counted FROM m GROUP BY time(1s), * END`)
	n := 0
	if err := c.Wait(ctx, func() bool {
		line := fmt.Appendf(nil, "m,host=a v=%d %d", n, time.Now().UnixNano())
		if err := c.Client(n%3).Write(ctx, "db", "all", line); err != nil {
			t.Error(err)
		}
		n++
		rows, err := c.Client(n%3).Query(ctx, "db", "SELECT * FROM counted")
		return err == nil && len(rows) > 0
	}); err != nil {
		t.Fatal("the continuous query never ran")
	}
	var ran []int
	if err := c.Wait(ctx, func() bool { // it is counted when it has written
		ran = nil
		for i := range c.Data {
			var vars struct {
				CQ struct{ QueryOk int64 }
			}
			_, body := mustGet(ctx, t, c, i, "/debug/vars")
			if err := json.Unmarshal([]byte(body), &vars); err != nil {
				t.Fatal(err)
			}
			if vars.CQ.QueryOk > 0 {
				ran = append(ran, i+1)
			}
		}
		return len(ran) > 0
	}); err != nil || len(ran) != 1 {
		t.Errorf("nodes %v ran it, want one", ran)
	}
}

// When the node that runs continuous queries stops, another one computes all windows that were missed.
func TestNoWindowIsMissingWhenTheRunnerStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3, Lease: 3 * time.Second,
		DataConfig: func(cfg *datanode.Config) {
			cfg.ContinuousQuery.RunInterval = itoml.Duration(100 * time.Millisecond)
			cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	begin := time.Now().Truncate(time.Second)
	var b []byte
	for i := range 600 { // a point for each second of the test
		b = fmt.Appendf(b, "m v=%d %d\n", i, begin.Add(time.Duration(i)*time.Second).UnixNano())
	}
	if err := c.Client(0).Write(ctx, "db", "all", b); err != nil {
		t.Fatal(err)
	}
	mustQuery(ctx, t, c, 0, "",
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT sum(v) INTO sums FROM m GROUP BY time(1s) END`)
	ran := func(i int) bool {
		rows, err := c.Client(i).Query(ctx, "", "SHOW STATS FOR 'cq'")
		return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) != "0"
	}
	runner := -1
	if err := c.Wait(ctx, func() bool {
		runner = slices.IndexFunc([]int{0, 1, 2}, ran)
		return runner >= 0
	}); err != nil {
		t.Fatal("the continuous query never ran")
	}
	if err := c.StopData(runner); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	left := (runner + 1) % 3
	var rows [][]any
	if err := c.Wait(ctx, func() bool { // a window that began when the lease of the one that stopped had ended
		rows, err = c.Client(left).Query(ctx, "db", "SELECT sum FROM sums")
		return err == nil && len(rows) > 0 && at(rows[len(rows)-1]).After(stopped.Add(4*time.Second))
	}); err != nil {
		t.Fatal("no other node runs the continuous query")
	}
	for i := 1; i < len(rows); i++ {
		if step := at(rows[i]).Sub(at(rows[i-1])); step != time.Second {
			t.Errorf("no window between %s and %s: the node stopped at %s", at(rows[i-1]), at(rows[i]), stopped)
		}
	}
}

// at is the time of a row.
func at(row []any) time.Time {
	ns, _ := row[0].(json.Number).Int64()
	return time.Unix(0, ns)
}

// TestSubscriptionGetsEachWriteOnce writes through every node.
func TestSubscriptionGetsEachWriteOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, strings.TrimSpace(string(b)))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustQuery(ctx, t, c, 0, "", fmt.Sprintf(`CREATE SUBSCRIPTION s ON db.autogen DESTINATIONS ALL '%s'`, srv.URL))
	if err := c.Wait(ctx, func() bool {
		for _, n := range c.Data {
			d := n.Meta.Database("db")
			if d == nil || len(d.RetentionPolicies[0].Subscriptions) == 0 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	at := yesterday().UnixNano()
	// A subscription counts from when a node has opened it: the first writes may be too early.
	sent := 0
	for node := range c.Data {
		if err := c.Wait(ctx, func() bool {
			sent++
			line := fmt.Sprintf("m v=%d %d", sent, at)
			if err := c.Client(node).Write(ctx, "db", "all", []byte(line)); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(got, func(s string) bool {
				return strings.HasSuffix(s, fmt.Sprint(at)) &&
					len(got) > node
			})
		}); err != nil {
			t.Fatalf("nothing came from node %d", node+1)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got)
	if all := len(got); len(slices.Compact(got)) != all {
		t.Errorf("a write came twice: %v", got)
	}
}

func TestShardStatusTellsThisNodesCopies(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	id := c.Shards("db")[0].ID
	for node := range c.Data {
		var got wire.ShardStatus
		var body string
		// A check that found the owners between the parts of the write says that they differ, until the next one. On a
		// busy machine, a node may not know for a moment whether its copy is whole.
		if err := c.Wait(ctx, func() bool {
			_, body = mustGet(ctx, t, c, node, "/shard-status")
			got = wire.ShardStatus{}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(body, `"`+wire.Healthy+`"`)
		}); err != nil {
			t.Errorf("node %d: %v: %s", node+1, err, body)
		}
		if len(got.Databases) != 1 || len(got.Databases[0].Policies) != 1 {
			t.Fatalf("node %d: %s", node+1, body)
		}
		p, former := got.Databases[0].Policies[0], got.Databases[0].Former[0]
		if got.Databases[0].Name != "db" || p.Name != "autogen" || p.ReplicaN != 2 || len(p.Shards) != 1 ||
			p.Shards[0].ID != id || !p.Shards[0].IsHot || p.Shards[0].State != wire.Healthy {
			t.Errorf("node %d: %s", node+1, body)
		}
		if former.Name != "autogen" || former.ReplicaN != 2 || len(former.Shards) != 1 || former.Shards[0].ID != id ||
			!former.Shards[0].IsHot || former.Shards[0].State != "hot" {
			t.Errorf("node %d, as in earlier versions: %s", node+1, body)
		}
	}
}
