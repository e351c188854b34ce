package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/models"

	"concord/test/compare"
)

// step is a statement, and who sends it. It is a write when it begins with "write", and with "drop shards" it drops all
// shards of a database and policy that begin at a time. One that begins with "tsi1" is for that index: the index in
// memory keeps the series of policies that were dropped, on a cluster those of the shards that each node had.
type step struct {
	db, text string
	user     string // root when empty
}

const (
	everything = `SHOW DATABASES; SHOW RETENTION POLICIES ON d; SHOW CONTINUOUS QUERIES; SHOW SUBSCRIPTIONS; SHOW USERS`
	schema     = `SHOW MEASUREMENTS; SHOW SERIES; SHOW TAG KEYS; SHOW FIELD KEYS; SHOW TAG VALUES WITH KEY = host; ` +
		`SHOW SERIES EXACT CARDINALITY; SHOW MEASUREMENT EXACT CARDINALITY`
	cardinalities = `SHOW SERIES CARDINALITY; SHOW SERIES EXACT CARDINALITY; SHOW MEASUREMENT EXACT CARDINALITY; ` +
		`SHOW TAG KEY CARDINALITY; SHOW TAG KEY EXACT CARDINALITY; SHOW TAG VALUES CARDINALITY WITH KEY = host; ` +
		`SHOW TAG VALUES EXACT CARDINALITY WITH KEY IN (host, region); SHOW FIELD KEY CARDINALITY; ` +
		`SHOW FIELD KEY EXACT CARDINALITY; SHOW SERIES CARDINALITY FROM cpu WHERE host != 'h1'`
	shardLists = `SHOW SHARDS; SHOW SHARD GROUPS`
	processes  = `SHOW STATS FOR 'runtime'; SHOW STATS FOR 'queryExecutor'; SHOW DIAGNOSTICS FOR 'runtime'; ` +
		`SHOW DIAGNOSTICS FOR 'network'; SHOW DIAGNOSTICS FOR 'system'; SHOW DIAGNOSTICS FOR 'build'`
)

// hours are points of seven hours, of two measurements.
func hours() string {
	var b strings.Builder
	for i := range 42 {
		at := 1_700_000_000 + int64(i)*600
		host, region := i%3, i%2
		fmt.Fprintf(&b, "cpu,host=h%d,region=r%d v=%d.5,n=%di,ok=%t,s=\"x%d\" %d000000000\n", host, region, i*i%17, i%5,
			i%4 == 0, i%3, at)
		fmt.Fprintf(&b, "mem,host=h%d free=%di %d000000000\n", host, i, at)
	}
	return b.String()
}

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
	{"d", "tsi1 " + schema, ""},
	{"d", `DROP MEASUREMENT mem`, ""},
	{"d", "tsi1 " + schema, ""},
	{"d", `write mem,host=a free="now a string" 1400000000000000000`, ""},
	{"d", `SHOW FIELD KEYS; SELECT * FROM mem`, ""},

	// What is read of a few hours, in the ways of upstream's tests.
	{"", `CREATE DATABASE r WITH REPLICATION 2 NAME autogen`, ""},
	{"r", "write " + hours(), ""},
	{"r", `SELECT count(v), sum(v), mean(v), min(v), max(v), first(v), last(v), spread(v), stddev(v), median(v) FROM cpu; ` +
		`SELECT mode(n), distinct(n), count(distinct(n)), integral(n), percentile(n, 90) FROM cpu; ` +
		`SELECT mean(v) FROM cpu GROUP BY host; SELECT top(v, 2), host FROM cpu; SELECT bottom(n, 3) FROM cpu GROUP BY region`, ""},
	{"r", `SELECT mean(v) FROM cpu WHERE time >= 1699992000s AND time < 1700028000s GROUP BY time(1h), region fill(previous); ` +
		`SELECT count(n) FROM cpu WHERE time >= 1699992000s AND time < 1700028000s GROUP BY time(3h) fill(0) ORDER BY time DESC; ` +
		`SELECT sum(n) FROM cpu WHERE time >= 1699992000s AND time < 1700028000s GROUP BY time(2h, 30m), host fill(linear)`, ""},
	{"r", `SELECT derivative(v, 1m), n FROM cpu WHERE host = 'h1'; SELECT difference(max(v)) FROM cpu ` +
		`WHERE time >= 1699992000s AND time < 1700028000s GROUP BY time(1h); SELECT moving_average(n, 3), cumulative_sum(n), elapsed(n) ` +
		`FROM cpu WHERE host = 'h2'; SELECT max(m) FROM (SELECT mean(v) AS m FROM cpu GROUP BY host)`, ""},
	{"r", `SELECT v * 2 + n FROM cpu WHERE ok = true AND host =~ /h[01]/ LIMIT 5 OFFSET 2; SELECT s, ok FROM cpu WHERE s != 'x0' ` +
		`ORDER BY time DESC LIMIT 4; SELECT * FROM /.*/ WHERE time < 1700000600s; SELECT *::tag, v FROM cpu GROUP BY region SLIMIT 1`, ""},
	{"r", `SHOW MEASUREMENTS WITH MEASUREMENT =~ /c.*/; SHOW MEASUREMENTS WHERE host = 'h1'; SHOW MEASUREMENTS LIMIT 1 OFFSET 1; ` +
		`SHOW SERIES FROM cpu WHERE region = 'r1' LIMIT 2 OFFSET 1; SHOW TAG KEYS FROM cpu; SHOW TAG KEYS WITH KEY = host; ` +
		`SHOW TAG VALUES FROM cpu WITH KEY IN (host, region) WHERE host != 'h0'; SHOW TAG VALUES WITH KEY =~ /re.*/; SHOW FIELD KEYS FROM cpu`, ""},
	{"r", cardinalities, ""},
	{"", shardLists, ""},
	{"r", processes, ""},
	{"r", `EXPLAIN SELECT mean(v) FROM cpu GROUP BY host; EXPLAIN ANALYZE SELECT v FROM cpu WHERE host = 'h1'`, ""},
	{"", `SHOW QUERIES`, ""},
	{"", `KILL QUERY 999999`, ""},
	{"r", `SHOW QUERIES; KILL QUERY 999999; SHOW QUERIES`, ""},

	// A shard is dropped, and written anew.
	{"r", `write cpu,host=h0 v=1 1600000000000000000`, ""},
	{"", shardLists, ""},
	{"r", `SELECT count(v) FROM cpu; SHOW SERIES`, ""},
	{"", `drop shards r autogen 2020-09-07T00:00:00Z`, ""},
	{"r", `SELECT count(v) FROM cpu; SELECT * FROM cpu WHERE time < 1650000000s`, ""},
	{"", shardLists, ""},
	{"r", `write cpu,host=new v=2 1600000000000000000`, ""},
	{"r", `SELECT * FROM cpu WHERE time < 1650000000s; SHOW TAG VALUES WITH KEY = host`, ""},
	{"", shardLists, ""},
	{"", `drop shards r autogen 2020-09-07T00:00:00Z`, ""},
	{"", `drop shards r autogen 2020-09-07T00:00:00Z`, ""},
	{"r", cardinalities, ""},
	{"", `DROP SHARD 99999999`, ""},
	{"r", `DELETE WHERE host = 'h0'`, ""},
	{"r", `SELECT count(v) FROM cpu; SELECT * FROM mem WHERE host = 'h0'; SHOW TAG VALUES WITH KEY = host`, ""},
	{"r", `DELETE FROM cpu WHERE time >= 1700003600s AND time < 1700010800s`, ""},
	{"r", `SELECT count(v), sum(n) FROM cpu GROUP BY host`, ""},
	{"r", `DROP SERIES WHERE region = 'r1'`, ""},
	{"r", cardinalities + "; " + schema, ""},
	{"r", `SELECT count(v), sum(n) FROM cpu GROUP BY *`, ""},
	{"", `DROP DATABASE r`, ""},
	{"", shardLists, ""},
	{"r", cardinalities, ""},

	{"", `CREATE DATABASE e WITH REPLICATION 1 NAME autogen`, ""},
	{"e", `SELECT v INTO e.autogen.cpu FROM d.autogen.cpu GROUP BY *`, ""},
	{"e", `SELECT * FROM cpu`, ""},
	{"e", `tsi1 SHOW TAG VALUES ON d WITH KEY = host`, ""},
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
	if which, drop := strings.CutPrefix(s.text, "drop shards "); drop {
		return dropShards(ctx, addr, which, form)
	}
	lines, write := strings.CutPrefix(s.text, "write ")
	if !write {
		answer, err := compare.Ask(ctx, addr, s.db, s.text, form)
		if err != nil {
			return "", err
		}
		return agreed(s.text, answer)
	}
	if err := compare.Write(ctx, addr, s.db, lines, form); err != nil {
		return strings.ReplaceAll(err.Error(), addr, "the server"), nil
	}
	return "written", nil
}

// dropShards drops the shards of "database policy start", each with a statement, and returns the last answer.
func dropShards(ctx context.Context, addr, which string, form compare.Form) (string, error) {
	answer, err := compare.Ask(ctx, addr, "", `SHOW SHARDS`, form)
	if err != nil {
		return "", err
	}
	status, list, err := read(answer)
	if err != nil {
		return "", err
	}
	last := status + " no shard"
	for _, row := range list.rows(0) {
		if fmt.Sprintf("%v %v %v", row[1], row[2], row[4]) != which {
			continue
		}
		if last, err = compare.Ask(ctx, addr, "", fmt.Sprintf(`DROP SHARD %v`, row[0]), form); err != nil {
			return "", err
		}
	}
	return last, nil
}

// results is the answer to some statements.
type results struct {
	Results []*struct {
		ID       int           `json:"statement_id"`
		Series   []*models.Row `json:"series,omitempty"`
		Messages []any         `json:"messages,omitempty"`
		Error    string        `json:"error,omitempty"`
	} `json:"results"`
}

// rows are those of a statement.
func (r *results) rows(statement int) (all [][]any) {
	if statement < len(r.Results) {
		for _, s := range r.Results[statement].Series {
			all = append(all, s.Values...)
		}
	}
	return all
}

// read splits an answer of compare.Ask.
func read(answer string) (status string, r *results, err error) {
	status, body, _ := strings.Cut(answer, "\n")
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	r = &results{}
	if err := dec.Decode(r); err != nil {
		return "", nil, fmt.Errorf("%s: %w", answer, err)
	}
	return status, r, nil
}

// agreed is the part of an answer that a cluster and a single server must agree on: shards and queries have other IDs
// and owners, a cluster has more columns and may have several shards for the same time, and figures are those of one
// process.
func agreed(text, answer string) (string, error) {
	keep := make(map[int]func(*models.Row))
	for i, statement := range strings.Split(text, "; ") {
		for _, d := range differing {
			if strings.HasPrefix(statement, d.prefix) {
				keep[i] = d.keep
			}
		}
	}
	if len(keep) == 0 || !strings.HasPrefix(answer, "200 ") {
		return answer, nil
	}
	status, r, err := read(answer)
	if err != nil {
		return "", err
	}
	for i, of := range r.Results {
		if keep[i] == nil {
			continue
		}
		for _, row := range of.Series {
			keep[i](row)
		}
	}
	b, err := json.Marshal(r)
	return status + "\n" + string(b), err
}

var differing = []struct {
	prefix string
	keep   func(*models.Row)
}{
	{`SHOW SHARDS`, columns("database", "retention_policy", "start_time", "end_time", "expiry_time")},
	{`SHOW SHARD GROUPS`, columns("database", "retention_policy", "start_time", "end_time", "expiry_time")},
	{`SHOW QUERIES`, columns("query", "database", "status")},
	{`SHOW STATS`, columns()},
	{`SHOW DIAGNOSTICS`, columns()},
	{`EXPLAIN ANALYZE`, func(r *models.Row) { r.Values = nil }},
	{`EXPLAIN`, plan},
}

// columns keeps columns, and each row once; without any, the names of all and no values.
func columns(names ...string) func(*models.Row) {
	return func(r *models.Row) {
		var rows [][]any
		for _, row := range r.Values {
			var kept []any
			for i, name := range r.Columns {
				if slices.Contains(names, name) {
					kept = append(kept, row[i])
				}
			}
			if !slices.ContainsFunc(rows, func(other []any) bool { return fmt.Sprint(other) == fmt.Sprint(kept) }) {
				rows = append(rows, kept)
			}
		}
		if len(names) == 0 {
			r.Values, r.Tags = nil, nil
			slices.Sort(r.Columns)
			return
		}
		r.Columns, r.Values = names, rows
	}
}

// plan keeps what does not depend on files.
func plan(r *models.Row) {
	r.Values = slices.DeleteFunc(r.Values, func(row []any) bool {
		line := fmt.Sprint(row[0])
		return !slices.ContainsFunc([]string{"EXPRESSION: ", "AUXILIARY ", "NUMBER OF SHARDS", "NUMBER OF SERIES"},
			func(kept string) bool { return strings.HasPrefix(line, kept) })
	})
}
