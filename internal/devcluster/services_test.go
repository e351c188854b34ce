package devcluster_test

import (
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
)

// TestContinuousQueryRunsOnOneNode has a continuous query fill a measurement, and counts who ran it.
func TestContinuousQueryRunsOnOneNode(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		cfg.ContinuousQuery.RunInterval = itoml.Duration(100 * time.Millisecond)
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	mustQuery(ctx, t, c, 0, "", `CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT count(v) INTO counted FROM m GROUP BY time(1s), * END`)
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
	if len(ran) != 1 {
		t.Errorf("nodes %v ran it, want one", ran)
	}
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
			return slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, fmt.Sprint(at)) && len(got) > node })
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
	id := fmt.Sprint(c.Shards("db")[0].ID)
	var got struct {
		Databases []struct {
			Name     string
			Policies []struct {
				Name     string
				ReplicaN int `json:"replication-factor"`
				Shards   []struct {
					ID, Size, State string
					IsHot           bool `json:"is_hot"`
				}
			} `json:"retention-policies"`
		}
	}
	for node := range c.Data {
		_, body := mustGet(ctx, t, c, node, "/shard-status")
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Databases) != 1 || len(got.Databases[0].Policies) != 1 {
			t.Fatalf("node %d: %s", node+1, body)
		}
		p := got.Databases[0].Policies[0]
		if got.Databases[0].Name != "db" || p.Name != "autogen" || p.ReplicaN != 2 || len(p.Shards) != 1 || p.Shards[0].ID != id || !p.Shards[0].IsHot || p.Shards[0].State != "hot" {
			t.Errorf("node %d: %s", node+1, body)
		}
	}
}
