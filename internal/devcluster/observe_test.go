package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

func mustGet(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, path string) (http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Data[node].HTTPAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s: %s %v %s", path, resp.Status, err, b)
	}
	return resp.Header, string(b)
}

// statistics are those of the contract, with their fields.
var statistics = map[string][]string{
	"ae": {
		"bytesRx", "bytesTx", "checks", "conflicts", "errors", "jobs", "jobsActive", "pointsRepaired", "queueDepth",
		"repairsInConflict",
	},
	"agreement": {
		"checkedSec", "conflict", "corrupt", "diff", "equal", "failedQueued", "missing", "oldestSec", "paused",
		"shards",
		"unknown",
	},
	"cluster": {
		"copyShardReq", "createIteratorReq", "expandSourcesReq", "fieldDimensionsReq", "iteratorCostReq",
		"openConnections",
		"removeShardReq", "writeShardFail", "writeShardPointsReq", "writeShardReq",
	},
	"disk": {"freeBytes", "totalBytes"},
	"hh":   {"writeShardReq", "writeShardReqPoints"},
	"hh_database": {
		"bytesRead", "bytesWritten", "queueBytes", "queueDepth", "writeBlocked", "writeDropped", "writeNodeReq",
		"writeNodeReqFail", "writeNodeReqPoints", "writeShardReq", "writeShardReqPoints",
	},
	"hh_node": {
		"bytesRead", "bytesWritten", "oldestDeleteSec", "oldestSec", "queueBytes", "queueDepth", "queueTotalSize",
		"writeBlocked",
		"writeDropped", "writeNodeReq", "writeNodeReqFail", "writeNodeReqPoints",
	},
	"hh_processor": {
		"bytesRead", "bytesWritten", "oldestDeleteSec", "oldestSec", "queueBytes", "queueDepth", "writeBlocked",
		"writeDropped",
		"writeNodeReq", "writeNodeReqFail", "writeNodeReqPoints", "writeShardReq", "writeShardReqPoints",
	},
	"node": {"away", "awaySec"},
	"rpc": {
		"idleStreams", "liveConnections", "liveStreams", "rpcCalls", "rpcFailures", "rpcReadBytes", "rpcRetries",
		"rpcWriteBytes", "singleUse", "singleUseOpen", "totalConnections", "totalStreams",
	},
	"write": {
		"pointReq", "pointReqHH", "pointReqLocal", "pointReqRemote", "pointsWrittenOK", "req", "subWriteDrop",
		"subWriteOk",
		"valuesWrittenOK", "writeDrop", "writeError", "writeOk", "writePartial", "writeTimeout",
	},
}

func startObserved(t *testing.T) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		cfg.Monitor.StoreEnabled, cfg.Monitor.StoreInterval = true, itoml.Duration(time.Second)
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(100, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	// What misses a node makes the statistics of its queue.
	c.Cut(1)
	if err := c.Client(0).Write(ctx, "db", "any", lines(100, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	// The answer does not wait for the owner that is cut off.
	if err := c.Wait(ctx, func() bool {
		_, body := mustGet(ctx, t, c, 0, "/debug/vars")
		return strings.Contains(body, `"hh_processor"`)
	}); err != nil {
		t.Fatal("nothing is in hinted handoff")
	}
	c.Heal(1)
	return ctx, c
}

func TestStatisticsHaveTheSameNamesEverywhere(t *testing.T) {
	t.Parallel()
	ctx, c := startObserved(t)

	_, body := mustGet(ctx, t, c, 0, "/debug/vars")
	var vars map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &vars); err != nil {
		t.Fatalf("/debug/vars: %v", err)
	}
	got := make(map[string][]string)
	for _, raw := range vars {
		var s struct {
			Name   string
			Values map[string]any
		}
		if json.Unmarshal(raw, &s) != nil || statistics[s.Name] == nil {
			continue
		}
		if s.Name == "cluster" && got["cluster"] != nil {
			t.Error("the statistic cluster is there twice")
		}
		got[s.Name] = nil
		for field := range s.Values {
			got[s.Name] = append(got[s.Name], field)
		}
		slices.Sort(got[s.Name])
	}
	if d := cmp.Diff(statistics, got); d != "" {
		t.Errorf("/debug/vars:\n%s", d)
	}
	for _, engine := range []string{"queryExecutor", "httpd", "subscriber", "runtime", "shard", "tsm1_engine"} {
		if !strings.Contains(body, `"name":"`+engine+`"`) {
			t.Errorf("/debug/vars has no %s", engine)
		}
	}

	_, body = mustGet(ctx, t, c, 0, "/metrics")
	for name, fields := range statistics {
		for _, field := range fields {
			re := regexp.MustCompile(fmt.Sprintf(`(?m)^influxdb_%s_%s{.*nodeID="%s"`, name, field, c.Data[0].TCPAddr()))
			if !re.MatchString(body) {
				t.Errorf("/metrics has no influxdb_%s_%s of this node", name, field)
			}
			if strings.Contains(body, fmt.Sprintf("# TYPE influxdb_%s_%s untyped", name, field)) {
				t.Errorf("/metrics does not say what influxdb_%s_%s is", name, field)
			}
		}
	}

	if untyped := regexp.MustCompile(`(?m)^# TYPE influxdb_.* untyped$`).FindAllString(body, -1); len(untyped) > 0 {
		t.Errorf("/metrics does not say what these are: %s", strings.Join(untyped, "\n"))
	}

	for name, fields := range statistics {
		if err := c.Wait(ctx, func() bool {
			rows, err := c.Client(2).Query(ctx, "_internal",
				fmt.Sprintf(`SHOW TAG VALUES FROM %q WITH KEY = "nodeID"`, name))
			// only a queue that was used
			return err == nil && (len(rows) == 3 || len(rows) > 0 && strings.HasPrefix(name, "hh_"))
		}); err != nil {
			t.Fatalf("_internal never had %s of all nodes", name)
		}
		rows := mustQuery(ctx, t, c, 2, "_internal", fmt.Sprintf(`SHOW FIELD KEYS FROM %q`, name))
		var got []string
		for _, r := range rows {
			got = append(got, fmt.Sprint(r[0]))
		}
		if d := cmp.Diff(fields, got); d != "" {
			t.Errorf("_internal, %s:\n%s", name, d)
		}
	}
}

func TestStatisticsCountWhatOtherNodesAsk(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(100, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	owners := c.Shards("db")[0].Owners
	other := slices.IndexFunc(c.Data, func(n *datanode.Node) bool { return !slices.Contains(owners, n.Meta.NodeID()) })
	mustQuery(ctx, t, c, other, "db", `SELECT f FROM m`)
	mustQuery(ctx, t, c, other, "db", `EXPLAIN SELECT f FROM m`)
	mustQuery(ctx, t, c, other, "db", `SHOW MEASUREMENTS WITH MEASUREMENT =~ /m/`)

	owner := slices.IndexFunc(c.Data, func(n *datanode.Node) bool { return n.Meta.NodeID() == owners[0] })
	from, to, id := c.Data[owner].TCPAddr(), c.Data[other].TCPAddr(), fmt.Sprint(c.Shards("db")[0].ID)
	for _, args := range [][]string{{"copy-shard", from, to, id}, {"remove-shard", to, id}} {
		// A check that found the owners between the parts of the write has the copy repaired, for a moment.
		mustWait(ctx, t, c, args[0], func() bool { _, err := runCtl(ctx, c, args...); return err == nil })
	}

	sum := make(map[string]int64)
	for i := range c.Data {
		_, body := mustGet(ctx, t, c, i, "/debug/vars")
		var vars struct {
			Cluster struct{ Values map[string]int64 }
		}
		if err := json.Unmarshal([]byte(body), &vars); err != nil {
			t.Fatal(err)
		}
		for k, v := range vars.Cluster.Values {
			sum[k] += v
		}
	}
	for _, field := range []string{
		"createIteratorReq", "fieldDimensionsReq", "iteratorCostReq", "expandSourcesReq", "openConnections",
		"writeShardReq",
		"copyShardReq", "removeShardReq",
	} {
		if sum[field] == 0 {
			t.Errorf("%s is 0 on all nodes", field)
		}
	}
	// Node 1 writes its own copy itself.
	want := int64(200)
	if slices.Contains(owners, c.Data[0].Meta.NodeID()) {
		want = 100
	}
	if sum["writeShardPointsReq"] != want || sum["writeShardFail"] != 0 {
		t.Errorf("%d points and %d failures, want %d and 0", sum["writeShardPointsReq"], sum["writeShardFail"], want)
	}
}

func TestShowStatsAndDiagnostics(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 1)
	show := func(q string) (names []string) {
		_, body := mustGet(ctx, t, c, 0, "/query?"+url.Values{"q": {q}}.Encode())
		var out struct {
			Results []struct {
				Error  string
				Series []struct{ Name string }
			}
		}
		if err := json.Unmarshal([]byte(body), &out); err != nil || out.Results[0].Error != "" {
			t.Fatalf("%s: %v %s", q, err, body)
		}
		for _, s := range out.Results[0].Series {
			names = append(names, s.Name)
		}
		return names
	}
	stats, diags := show("SHOW STATS"), show("SHOW DIAGNOSTICS")
	for _, want := range []string{"ae", "cluster", "write", "queryExecutor", "httpd"} {
		if !slices.Contains(stats, want) {
			t.Errorf("SHOW STATS has no %s: %v", want, stats)
		}
	}
	for _, want := range []string{
		"build", "cluster", "config-cluster", "config-data", "config-httpd", "network", "runtime", "system",
	} {
		if !slices.Contains(diags, want) {
			t.Errorf("SHOW DIAGNOSTICS has no %s: %v", want, diags)
		}
	}
	if names := show("SHOW STATS FOR 'cluster'"); len(names) != 1 {
		t.Errorf("SHOW STATS FOR 'cluster': %v", names)
	}
	h, _ := mustGet(ctx, t, c, 0, "/ping")
	if h.Get("X-Influxdb-Build") == "" || h.Get("X-Influxdb-Version") == "" {
		t.Errorf("/ping: %v", h)
	}
}

func TestStatisticsCountTheFieldsThatClientsWrite(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 1)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	if err := c.Client(0).Write(ctx, "db", "all", []byte("m a=1,b=2,c=3\nm,t=1 a=1\n")); err != nil {
		t.Fatal(err)
	}
	_, body := mustGet(ctx, t, c, 0, "/metrics")
	for _, line := range []string{
		`(?m)^influxdb_httpd_valuesWrittenOK{.*} 4$`, `(?m)^influxdb_write_valuesWrittenOK{.*} 4$`,
		`(?m)^influxdb_write_pointsWrittenOK{.*} 2$`, `(?m)^# TYPE influxdb_httpd_valuesWrittenOK counter$`,
	} {
		if !regexp.MustCompile(line).MatchString(body) {
			t.Errorf("/metrics has no line like %s", line)
		}
	}
}
