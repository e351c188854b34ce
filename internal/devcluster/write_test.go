package devcluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// TestConsistencyLevelDecidesTheAnswer writes with 0, 1 and 2 of three owners cut off.
func TestConsistencyLevelDecidesTheAnswer(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday()
	// The shard group exists before links are cut.
	if err := c.Client(0).Write(ctx, "db", "all", lines(1, at, time.Second)); err != nil {
		t.Fatal(err)
	}
	for away := range 3 {
		if away > 0 {
			c.Cut(3 - away)
		}
		for level, want := range map[string]bool{"any": true, "one": true, "quorum": away < 2, "all": away == 0} {
			err := c.Client(0).Write(ctx, "db", level, lines(10, at, time.Second))
			if (err == nil) != want {
				t.Errorf("%d owners away, %s: %v", away, level, err)
			}
			if err != nil && !strings.Contains(err.Error(), "owners have it, the level needs") {
				t.Errorf("%d owners away, %s: %v, want how many have it", away, level, err)
			}
		}
	}
}

func TestPartialWriteAnswersAsInfluxDBDoes(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH DURATION 2d REPLICATION 3`)
	now := time.Now()
	write := func(node int, line string, at time.Time) error {
		return c.Client(node).Write(ctx, "db", "all", fmt.Appendf(nil, "%s %d", line, at.UnixNano()))
	}
	if err := write(0, "m v=1", now); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		at   time.Time
		want string
	}{
		{`m v="text"`, now, "400 Bad Request"},
		{
			`m v="text"`, now,
			`partial write: field type conflict: input field \"v\" on measurement \"m\" is type string, already exists as type float dropped=1`,
		},
		{`m v=1`, now.Add(-72 * time.Hour), "partial write: dropped 1 points outside retention policy"},
		{`m v=`, now, "unable to parse"},
	} {
		for node := range c.Data {
			if err := write(node, tt.line, tt.at); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("node %d: %s: %v, want %s", node+1, tt.line, err, tt.want)
			}
		}
	}
}

// TestQueriesFailOver asks a node for shards that others have while one of their owners is away.
func TestQueriesFailOver(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2 SHARD DURATION 1h`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(600, yesterday(), time.Minute)); err != nil {
		t.Fatal(err)
	}
	const q = "SELECT count(f), sum(i), first(s), last(b) FROM m"
	want := fmt.Sprint(mustQuery(ctx, t, c, 0, "db", q))
	for away := range c.Data {
		c.Cut(away)
		for node := range c.Data {
			if node == away {
				if _, err := c.Client(node).Query(ctx, "db", q); err == nil ||
					!strings.Contains(err.Error(), "can answer: ") {
					t.Errorf("node %d, cut off: %v, want a clear error", node+1, err)
				}
				continue
			}
			if got := fmt.Sprint(mustQuery(ctx, t, c, node, "db", q)); got != want {
				t.Errorf("node %d without node %d: %s, want %s", node+1, away+1, got, want)
			}
		}
		c.Heal(away)
	}
}

// TestQueriesAgreeWithOneNode compares a cluster whose shards are spread over
// three nodes with one whose only node has all.
func TestQueriesAgreeWithOneNode(t *testing.T) {
	t.Parallel()
	ctx, many := mustStart(t, 3)
	_, one := mustStart(t, 1)
	for _, c := range []*devcluster.Cluster{many, one} {
		mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1 SHARD DURATION 1h`)
		if err := c.Client(0).Write(ctx, "db", "all", lines(900, yesterday(), 47*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	in := fmt.Sprintf("time >= %d AND time < %d", yesterday().UnixNano(), yesterday().Add(12*time.Hour).UnixNano())
	for _, q := range []string{
		"SELECT * FROM m LIMIT 7",
		"SELECT * FROM m ORDER BY time DESC LIMIT 7 OFFSET 3",
		"SELECT f, host FROM m WHERE host =~ /h[12]/ LIMIT 9",
		"SELECT mean(f), median(f), stddev(f), spread(f) FROM m",
		"SELECT min(i), max(i) FROM m GROUP BY host",
		"SELECT percentile(f, 90), mode(i) FROM m GROUP BY host",
		"SELECT top(f, host, 3) FROM m",
		"SELECT bottom(i, 2) FROM m",
		"SELECT count(distinct(s)) FROM m",
		"SELECT distinct(s) FROM m",
		"SELECT count(f) FROM m WHERE " + in + " GROUP BY time(2h) FILL(0)",
		"SELECT sum(i) FROM m WHERE " + in + " GROUP BY time(3h), host FILL(previous) LIMIT 3",
		"SELECT derivative(mean(f), 1m) FROM m WHERE " + in + " GROUP BY time(1h)",
		"SELECT moving_average(f, 5) FROM m LIMIT 5",
		"SELECT mean(x) FROM (SELECT max(f) AS x FROM m WHERE " + in + " GROUP BY time(1h), host)",
		"SELECT count(f) FROM /.*/",
		"SELECT last(b), first(s) FROM m GROUP BY * ",
		"SELECT f + i, f * 2 FROM m WHERE i > 890",
		"SELECT count(f) FROM nothing",
		"SELECT mean(f) FROM m WHERE " + in + " GROUP BY time(6h) TZ('Europe/Oslo')",
		"SELECT integral(f), elapsed(i, 1s) FROM m WHERE i < 10",
		"SHOW SERIES", "SHOW TAG KEYS", "SHOW FIELD KEYS", "SHOW MEASUREMENTS",
		"SHOW TAG VALUES WITH KEY = host", "SHOW SERIES EXACT CARDINALITY", "SHOW MEASUREMENT CARDINALITY",
	} {
		a, errA := one.Client(0).Query(ctx, "db", q)
		want := fmt.Sprint(a, errA)
		for i := range many.Data {
			b, errB := many.Client(i).Query(ctx, "db", q)
			if got := fmt.Sprint(b, errB); got != want {
				t.Errorf("node %d: %s:\n got %.300s\nwant %.300s", i+1, q, got, want)
			}
		}
	}
}

func TestNodeStartsWithTheMetaNodeDown(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 1)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := c.StopData(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Meta.Close(); err != nil {
		t.Fatal(err)
	}
	c.Meta = nil
	if err := c.StartData(0); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(mustQuery(ctx, t, c, 0, "db", "SELECT count(f) FROM m")); got != "[[0 10]]" {
		t.Errorf("without its meta node the data node answers %s", got)
	}
}

func TestSwitchedOffAntiEntropyNamesTheSetting(t *testing.T) {
	t.Parallel()
	c, err := devcluster.Start(t.Context(), devcluster.Options{Dir: t.TempDir(), DataNodes: 1, DataConfig: func(cfg *datanode.Config) {
		cfg.AntiEntropy.Enabled = false
		cfg.AntiEntropy.CheckInterval = itoml.Duration(time.Second)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_, _, err = c.Client(0).EntropyStatus(t.Context())
	if err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "[anti-entropy] enabled") {
		t.Errorf("status of a switched off service: %v", err)
	}
}
