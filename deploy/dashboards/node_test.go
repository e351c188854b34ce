package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// TestRunningNodesHaveWhatIsAskedFor compares all names in dashboards and alerts with what nodes say.
func TestRunningNodesHaveWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t)
	have := make(map[string]map[string]bool) // labels by metric
	sample := regexp.MustCompile(`(?m)^(influxdb_\w+)\{(.*)\} `)
	for _, addr := range []string{c.Data[0].HTTPAddr(), c.Meta.HTTPAddr()} {
		for _, m := range sample.FindAllStringSubmatch(mustGet(ctx, t, "http://"+addr+"/metrics"), -1) {
			if have[m[1]] == nil {
				have[m[1]] = make(map[string]bool)
			}
			for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
				have[m[1]][l[1]] = true
			}
		}
	}
	rules, err := os.ReadFile(filepath.Join(alerts, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`expr: (>-\n(?:\s{10,}.*\n)+|.*)`).FindAllString(string(rules), -1)
	for _, q := range targets(mustRead(t, "prometheus.json")) {
		asked = append(asked, q.Expr)
	}
	found := 0
	for _, expr := range asked {
		for _, metric := range regexp.MustCompile(`influxdb_\w+`).FindAllString(expr, -1) {
			found++
			if have[metric] == nil {
				t.Errorf("no node has %s, which is asked for by %s", metric, expr)
				continue
			}
			for _, by := range regexp.MustCompile(`(?:by|on) \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
				for label := range strings.SplitSeq(by[1], ", ") {
					if !have[metric][label] {
						t.Errorf("%s has no label %s, which is asked for by %s", metric, label, expr)
					}
				}
			}
		}
	}
	if found < len(asked) {
		t.Errorf("%d metrics in %d queries", found, len(asked))
	}
}

// TestTheDatabaseAnswersEveryPanel asks _internal what the dashboard asks it.
func TestTheDatabaseAnswersEveryPanel(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t)
	fill := strings.NewReplacer("$node", ".*", "$timeFilter", "time > now() - 5m", "$__interval", "2s")
	asked := targets(mustRead(t, "internal.json"))
	for _, q := range asked {
		var err error
		var rows [][]any
		query := fill.Replace(q.Query)
		if c.Wait(ctx, func() bool {
			rows, err = c.Client(1).Query(ctx, "_internal", query)
			early := err != nil && strings.Contains(err.Error(), "database not found") // the first second
			return err != nil && !early || len(rows) > 0
		}) != nil || err != nil {
			t.Errorf("no answer to %s: %v", query, err)
		}
		// A legend names tags that the answer has.
		for _, m := range regexp.MustCompile(`\$tag_(\w+)`).FindAllStringSubmatch(q.Alias, -1) {
			if !strings.Contains(q.Query[strings.LastIndex(q.Query, "GROUP BY"):], fmt.Sprintf("%q", m[1])) {
				t.Errorf("the legend %s has a tag by which %s does not group", q.Alias, q.Query)
			}
		}
	}
	if len(asked) == 0 {
		t.Error("nothing was asked")
	}
}

// mustStart starts a cluster that has used everything that has statistics: data, queries, and a queue for a node.
func mustStart(t *testing.T) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3, DataConfig: func(cfg *datanode.Config) {
			cfg.Monitor.StoreEnabled, cfg.Monitor.StoreInterval = true, itoml.Duration(time.Second)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
	query := func(db, q string) {
		t.Helper()
		if _, err := c.Client(0).Query(ctx, db, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	query("", "CREATE DATABASE db WITH REPLICATION 3")
	write := func(consistency string) {
		t.Helper()
		if err := c.Client(0).Write(ctx, "db", consistency, []byte("m v=1 1000000000")); err != nil {
			t.Fatal(err)
		}
	}
	write("all")
	c.Cut(1)
	write("any")
	if c.Wait(ctx, func() bool {
		return strings.Contains(mustGet(ctx, t, "http://"+c.Data[0].HTTPAddr()+"/debug/vars"), `"hh_node"`)
	}) != nil {
		t.Fatal("nothing is in hinted handoff")
	}
	c.Heal(1)
	query("db", "SELECT v FROM m")
	return ctx, c
}

func mustGet(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %s", url, resp.Status, err, b)
	}
	return string(b)
}
