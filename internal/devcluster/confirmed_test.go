package devcluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare"
	"concord/test/compare/plain"
)

// late is how far the metadata of the second node is behind, for what its long poll brings.
const late = time.Second

// mustStartLate returns a cluster of three data nodes with one that is late.
func mustStartLate(t *testing.T, config func(*datanode.Config)) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3,
		DataConfig: func(cfg *datanode.Config) {
			cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
			if config != nil {
				config(cfg)
			}
		},
		Late: func(ctx context.Context, node int) {
			if node != 1 {
				return
			}
			select {
			case <-time.After(late):
			case <-ctx.Done():
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return ctx, c
}

// step is a statement, or a write when it begins with "write", and who sends it.
type step struct {
	db, text string
	user     string // root when empty
}

const (
	everything = `SHOW DATABASES; SHOW RETENTION POLICIES ON d; SHOW CONTINUOUS QUERIES; SHOW SUBSCRIPTIONS; SHOW USERS`
	schema     = `SHOW MEASUREMENTS; SHOW SERIES; SHOW TAG KEYS; SHOW FIELD KEYS; SHOW TAG VALUES WITH KEY = host; ` +
		`SHOW SERIES EXACT CARDINALITY; SHOW MEASUREMENT EXACT CARDINALITY`
)

// corpus is what clients do with a server, one after the other: what the next one asks for is what the one before
// changed. SELECT INTO writes at the level one, so its target has one owner.
var corpus = []step{
	{"", `CREATE DATABASE d WITH REPLICATION 3 NAME autogen`, ""},
	{"d", `write cpu,host=a v=1 1700000000000000000`, ""},
	{"d", `SELECT * FROM cpu`, ""},
	{"d", schema, ""},
	{"", `DROP DATABASE d`, ""},
	{"d", `write cpu,host=a v=1 1700000000000000000`, ""},
	{"d", `SELECT * FROM cpu`, ""},
	{"", `CREATE DATABASE d WITH REPLICATION 2 NAME autogen`, ""},
	{"d", schema, ""},
	{"", everything, ""},
	{"d", "write cpu,host=a v=2 1700000000000000000\ncpu,host=b v=3 1700000000000000001", ""},
	{"d", `SELECT v, host FROM cpu`, ""},
	{"", `CREATE RETENTION POLICY rp ON d DURATION INF REPLICATION 1`, ""},
	{"d", `SELECT v INTO rp.copied FROM cpu GROUP BY *`, ""},
	{"d", `SELECT * FROM rp.copied`, ""},
	{"", `SHOW RETENTION POLICIES ON d`, ""},
	{"", `ALTER RETENTION POLICY rp ON d DURATION 520w REPLICATION 2 DEFAULT`, ""},
	{"d", `write cpu,host=c v=4 1700000000000000002`, ""},
	{"d", `SELECT * FROM cpu; SELECT * FROM autogen.cpu; SHOW RETENTION POLICIES`, ""},
	{"", `ALTER RETENTION POLICY autogen ON d DEFAULT`, ""},
	{"d", `SELECT * FROM cpu`, ""},
	{"", `DROP RETENTION POLICY rp ON d`, ""},
	{"d", `SELECT * FROM rp.copied`, ""},
	{"", `CREATE RETENTION POLICY rp ON d DURATION 1h REPLICATION 1 SHARD DURATION 1h`, ""},
	{"", `CREATE RETENTION POLICY rp ON d DURATION 2h REPLICATION 1`, ""},
	{"d", `SELECT * FROM rp.copied; SHOW RETENTION POLICIES`, ""},
	{"", `DROP RETENTION POLICY rp ON d`, ""},
	{"", `CREATE RETENTION POLICY rp ON d DURATION 2h REPLICATION 1`, ""},
	{"", `SHOW RETENTION POLICIES ON d`, ""},

	{"", `CREATE CONTINUOUS QUERY cq ON d BEGIN SELECT mean(v) INTO rp.means FROM cpu GROUP BY time(1h) END`, ""},
	{"", `SHOW CONTINUOUS QUERIES`, ""},
	{"", `CREATE CONTINUOUS QUERY cq ON d BEGIN SELECT max(v) INTO rp.means FROM cpu GROUP BY time(1h) END`, ""},
	{"", `DROP CONTINUOUS QUERY cq ON d`, ""},
	{"", `CREATE CONTINUOUS QUERY cq ON d BEGIN SELECT max(v) INTO rp.means FROM cpu GROUP BY time(1h) END`, ""},
	{"", `SHOW CONTINUOUS QUERIES`, ""},
	{"", `CREATE SUBSCRIPTION s ON d.autogen DESTINATIONS ALL 'udp://127.0.0.1:9'`, ""},
	{"", `SHOW SUBSCRIPTIONS`, ""},
	{"", `DROP SUBSCRIPTION s ON d.autogen`, ""},
	{"", `DROP SUBSCRIPTION s ON d.autogen`, ""},
	{"", everything, ""},

	{"", `CREATE USER ann WITH PASSWORD 'p1'`, ""},
	{"", `SHOW GRANTS FOR ann`, ""},
	{"d", `SELECT * FROM cpu`, "ann p1"},
	{"", `GRANT READ ON d TO ann`, ""},
	{"d", `SELECT * FROM cpu`, "ann p1"},
	{"d", `write cpu,host=ann v=1 1700000000000000003`, "ann p1"},
	{"", `GRANT WRITE ON d TO ann`, ""},
	{"d", `write cpu,host=ann v=1 1700000000000000003`, "ann p1"},
	{"", `GRANT ALL ON d TO ann`, ""},
	{"", `REVOKE READ ON d FROM ann`, ""},
	{"", `SHOW GRANTS FOR ann`, ""},
	{"d", `SELECT * FROM cpu`, "ann p1"},
	{"", `SET PASSWORD FOR ann = 'p2'`, ""},
	{"d", `write cpu,host=ann v=2 1700000000000000003`, "ann p1"},
	{"d", `write cpu,host=ann v=3 1700000000000000003`, "ann p2"},
	{"d", `SELECT * FROM cpu`, ""},
	{"", `GRANT ALL PRIVILEGES TO ann`, ""},
	{"", `CREATE DATABASE e WITH REPLICATION 1 NAME autogen`, "ann p2"},
	{"", `REVOKE ALL PRIVILEGES FROM ann`, ""},
	{"", `DROP DATABASE e`, "ann p2"},
	{"", `SHOW USERS; SHOW GRANTS FOR ann`, ""},
	{"", `DROP USER ann`, ""},
	{"", `SHOW DATABASES`, "ann p2"},
	{"", `CREATE USER ann WITH PASSWORD 'p3'`, ""},
	{"", `CREATE USER ann WITH PASSWORD 'p3'`, ""},
	{"", `CREATE USER ann WITH PASSWORD 'p4'`, ""},
	{"", `SHOW GRANTS FOR ann; SHOW GRANTS FOR bob`, ""},
	{"", `DROP USER ann`, ""},
	{"", `DROP USER ann`, ""},
	{"", everything, ""},

	// A new shard group, and what is deleted of it.
	{"d", "write mem,host=a free=1i 1600000000000000000\nmem,host=b free=2i 1600000000000000000", ""},
	{"d", `SELECT count(free), sum(free) FROM mem; SELECT * FROM mem GROUP BY host`, ""},
	{"d", `write mem,host=a free=3i 1500000000000000000`, ""},
	{"d", `SELECT * FROM mem ORDER BY time DESC`, ""},
	{"d", `DELETE FROM mem WHERE time < 1550000000000000000`, ""},
	{"d", `SELECT * FROM mem`, ""},
	{"d", `DROP SERIES FROM mem WHERE host = 'b'`, ""},
	{"d", schema, ""},
	{"d", `DROP MEASUREMENT mem`, ""},
	{"d", schema, ""},
	{"d", `write mem,host=a free="now a string" 1400000000000000000`, ""},
	{"d", `SHOW FIELD KEYS; SELECT * FROM mem`, ""},

	{"", `CREATE DATABASE e WITH REPLICATION 1 NAME autogen`, ""},
	{"e", `SELECT v INTO e.autogen.cpu FROM d.autogen.cpu GROUP BY *`, ""},
	{"e", `SELECT * FROM cpu; SHOW TAG VALUES ON d WITH KEY = host`, ""},
	{"", `SHOW MEASUREMENTS ON e; SHOW MEASUREMENTS ON f`, ""},
	{"", `DROP DATABASE d; DROP DATABASE e; DROP DATABASE f`, ""},
	{"", `SHOW DATABASES; SHOW RETENTION POLICIES ON d; SHOW CONTINUOUS QUERIES`, ""},
	{"", `CREATE DATABASE d; CREATE DATABASE e`, ""},
	{"", `SHOW DATABASES; SHOW MEASUREMENTS ON d; SHOW SERIES ON e`, ""},
	{"", `DROP DATABASE d; DROP DATABASE e`, ""},
}

// run sends the step to the server at addr and returns its answer.
func (s step) run(ctx context.Context, addr string) (string, error) {
	user, password, _ := strings.Cut(s.user, " ")
	if user == "" {
		user, password = "root", "secret"
	}
	form := compare.Form{}.As(user, password)
	lines, write := strings.CutPrefix(s.text, "write ")
	if !write {
		return compare.Ask(ctx, addr, s.db, s.text, form)
	}
	if err := compare.Write(ctx, addr, s.db, lines, form); err != nil {
		return strings.ReplaceAll(err.Error(), addr, "the server"), nil
	}
	return "written", nil
}

// What is done at one node is true at the next one at once, also at one that hears of changes a second late: the
// answers are those of a single server.
func TestNodesAnswerOneAfterTheOtherAsOneServer(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	ctx, c := mustStartLate(t, func(cfg *datanode.Config) {
		cfg.HTTPD.AuthEnabled = true
		cfg.Data.Index = tsdb.TSI1IndexName // the other index keeps series of policies that were dropped
		cfg.ContinuousQuery.Enabled = false // the single server runs none, either
	})
	single, err := plain.Start(plain.Options{Dir: t.TempDir(), Index: tsdb.TSI1IndexName, Auth: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { single.Close() })
	turn := 0
	both := func(s step) {
		t.Helper()
		node := turn % len(c.Data)
		turn++
		want, err := s.run(ctx, single.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.run(ctx, c.Data[node].HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		// The single server has no permissions but reading, writing, and all.
		want = strings.ReplaceAll(want, "'DROP DATABASE e', requires admin privilege",
			"'DROP DATABASE e', requires DropDatabase")
		if !compare.Same(want, got) {
			t.Errorf("node %d: %s: %q as %q:\n%s\nwant\n%s", node+1, s.db, s.text, s.user, got, want)
		}
	}
	both(step{text: `CREATE USER root WITH PASSWORD 'secret' WITH ALL PRIVILEGES`})
	// From each node once, so that each statement is sent to each of them.
	for start := range c.Data {
		turn = start
		for _, s := range corpus {
			both(s)
		}
	}
}

// A database that was dropped through one node takes no writes at another one, and is there when it is created again
// at once through a third.
func TestDatabaseIsCreatedRightAfterItWasDroppedElsewhere(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartLate(t, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	for i := range 30 {
		mustQuery(ctx, t, c, i%3, "", `DROP DATABASE db`)
		line := fmt.Appendf(nil, "m v=%d 1700000000000000000", i)
		err := c.Client((i+1)%3).Write(ctx, "db", "one", line)
		if err == nil || !strings.Contains(err.Error(), "database not found") {
			t.Fatalf("round %d: a write into the dropped database: %v", i, err)
		}
		mustQuery(ctx, t, c, (i+2)%3, "", `CREATE DATABASE db`)
		if err := c.Client(i%3).Write(ctx, "db", "all", line); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		rows := mustQuery(ctx, t, c, (i+1)%3, "db", `SELECT v FROM m`)
		if len(rows) != 1 || fmt.Sprint(rows[0][1]) != fmt.Sprint(i) {
			t.Fatalf("round %d: %v", i, rows)
		}
	}
}
