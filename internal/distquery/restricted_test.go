package distquery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/restrict"
)

// randomRules are rules over what spread and lines have.
func randomRules(rng *rand.Rand, n int) (list []restrict.Rule) {
	pick := func(values ...string) string { return values[rng.IntN(len(values))] }
	for range n {
		r := restrict.Rule{
			Database:    &restrict.Match{Match: restrict.Prefix, Value: "db"},
			Permissions: []string{restrict.Read, restrict.Write},
		}
		if rng.IntN(3) > 0 {
			r.Measurement = &restrict.Match{Match: restrict.Exact,
				Value: pick("m0", "m1", "m2", "m3", "cpu", "bare", "lone")}
			if rng.IntN(3) == 0 {
				r.Measurement = &restrict.Match{Match: restrict.Prefix, Value: pick("m", "c", "l")}
			}
		}
		for range rng.IntN(3) {
			r.Tags = append(r.Tags, restrict.TagMatch{
				Match: pick(restrict.Exact, restrict.Prefix), Key: pick("host", "region", "zone", "role"),
				Value: pick("h1", "h2", "h04", "r0", "r1", "h", "z", "db"),
			})
		}
		list = append(list, r)
	}
	return list
}

var restrictedStatements = []string{
	`SELECT * FROM m0, m1, m2, m3`, `SELECT * FROM /m.*/`, `SELECT v FROM cpu`, `SELECT * FROM cpu`,
	`SELECT count(v), sum(i), max(v) FROM cpu`, `SELECT mean(v) FROM cpu GROUP BY host`, `SELECT count(*) FROM /.*/`,
	`SELECT sum(v) FROM cpu WHERE time >= 0 AND time < 3d GROUP BY time(12h), region fill(none)`,
	`SELECT v FROM cpu GROUP BY * SLIMIT 2`, `SELECT sum(v) FROM cpu WHERE s != 's1' GROUP BY host`,
	`SELECT max(x) FROM (SELECT sum(v) AS x FROM cpu GROUP BY host)`, `SELECT top(v, 3) FROM cpu`,
	`SELECT distinct(s) FROM cpu`, `SELECT note FROM /m.*/`, `SELECT percentile(v, 50) FROM cpu GROUP BY region`,
	`SELECT v FROM cpu WHERE host = 'h01' OR region = 'r2'`,
	`SHOW SERIES`, `SHOW SERIES FROM m0, m1`, `SHOW SERIES WHERE host = 'h1'`, `SHOW MEASUREMENTS`,
	`SHOW MEASUREMENTS WITH MEASUREMENT =~ /m[0-3]/`, `SHOW MEASUREMENTS WHERE host = 'h1'`,
	`SHOW MEASUREMENTS WHERE host != 'h1'`, `SHOW TAG KEYS`, `SHOW TAG KEYS FROM m3`, `SHOW FIELD KEYS`,
	`SHOW FIELD KEYS FROM m1, m2`, `SHOW TAG VALUES WITH KEY IN (host, region, zone, role)`,
	`SHOW TAG VALUES FROM m1 WITH KEY = host WHERE region = 'r1'`,
	`SHOW SERIES CARDINALITY`, `SHOW SERIES EXACT CARDINALITY`, `SHOW MEASUREMENT CARDINALITY`,
	`SHOW MEASUREMENT EXACT CARDINALITY`, `SHOW TAG KEY EXACT CARDINALITY`, `SHOW FIELD KEY EXACT CARDINALITY`,
	`SHOW TAG VALUES EXACT CARDINALITY WITH KEY = host`,
}

// Each answer is that of a node which has the allowed series alone.
func TestRestrictedUserSeesAllowedSeriesAlone(t *testing.T) {
	t.Parallel()
	for _, o := range []testOptions{
		{nodes: 3, replicas: 1}, {nodes: 3, replicas: 2}, {nodes: 2, replicas: 1, index: "inmem"},
	} {
		for seed := range 3 {
			if testing.Short() && (seed > 0 || o.index == "inmem") {
				break
			}
			t.Run(fmt.Sprintf("%d nodes, %d replicas %s, seed %d", o.nodes, o.replicas, o.index, seed),
				func(t *testing.T) {
					t.Parallel()
					rng := rand.New(rand.NewPCG(uint64(seed), uint64(o.nodes)))
					o := o
					o.user = &restrict.User{Restrictions: randomRules(rng, 5), Grants: randomRules(rng, 2)}
					c := newTestCluster(t, o)
					c.write(t, spread())
					c.write(t, lines(7))
					for _, q := range restrictedStatements {
						c.compare(t, q)
					}
				})
		}
	}
}

func TestNodeWithoutRestrictionsDoesNotAnswer(t *testing.T) {
	t.Parallel()
	user := &restrict.User{Restrictions: []restrict.Rule{{
		Database: &restrict.Match{Match: restrict.Exact, Value: db}, Permissions: []string{restrict.Read},
		Tags: []restrict.TagMatch{{Match: restrict.Exact, Key: "host", Value: "h01"}},
	}}}
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, former: true})
	c.write(t, lines(3))
	for _, q := range []string{
		`SELECT v FROM cpu`, `SELECT sum(v) FROM cpu`, `SHOW TAG VALUES WITH KEY = host`, `SHOW TAG KEYS`,
		`SHOW MEASUREMENTS`,
		`SHOW SERIES`, `SHOW FIELD KEYS`,
	} {
		got := c.nodes[0].run(t, q, query.ExecutionOptions{Authorizer: user})
		if !strings.Contains(got, "its version knows no fine-grained authorization") || strings.Contains(got, "h01") {
			t.Errorf("%s: %s", q, got)
		}
	}
}

func TestDeleteLeavesAloneWhatMayNotBeWritten(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, lines(3))
	c.write(t, spread())
	user := &restrict.User{Restrictions: []restrict.Rule{
		{
			Database: &restrict.Match{Match: restrict.Exact, Value: db}, Permissions: []string{restrict.Write},
			Measurement: &restrict.Match{Match: restrict.Exact, Value: "cpu"},
			Tags:        []restrict.TagMatch{{Match: restrict.Exact, Key: "host", Value: "h01"}},
		},
		{
			Database: &restrict.Match{Match: restrict.Exact, Value: db}, Permissions: []string{restrict.Write},
			Measurement: &restrict.Match{Match: restrict.Prefix, Value: "m"},
		},
	}}
	schema := NewSchema(c.deps(c.nodes[0], c.nodes[0].mapper.pool))
	parts, err := schema.AllowedDeletes(context.Background(), user.Writes(db), db, nil,
		influxql.MustParseExpr(`region = 'r1'`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range parts {
		got = append(got, (&influxql.DeleteSeriesStatement{Sources: p.Sources, Condition: p.Cond}).String())
	}
	want := `DELETE FROM bare, lone WHERE region = 'r1'`
	if len(got) != 2 || !strings.Contains(strings.Join(got, "; "), want) ||
		!strings.Contains(strings.Join(got, "; "), `DELETE FROM cpu WHERE (region = 'r1') AND (host::tag != 'h01')`) {
		t.Errorf("the parts are %q", got)
	}
}

// A measurement of which a user may see nothing answers as one that does not exist, also with an error.
func TestHiddenMeasurementAnswersAsOneThatDoesNotExist(t *testing.T) {
	t.Parallel()
	user := &restrict.User{Restrictions: []restrict.Rule{{
		Database: &restrict.Match{Match: restrict.Exact, Value: db}, Permissions: []string{restrict.Read},
		Measurement: &restrict.Match{Match: restrict.Exact, Value: "cpu"},
	}}}
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1})
	c.write(t, lines(3))
	c.write(t, spread())
	for _, q := range []string{
		`SELECT v FROM %s`, `SELECT count(v) FROM %s`, `SELECT v + 'x' FROM %s`, `SELECT nothing FROM %s`,
		`SHOW SERIES CARDINALITY FROM %s`, `SHOW SERIES EXACT CARDINALITY FROM %s`, `SHOW FIELD KEYS FROM %s`,
		`SHOW TAG VALUES FROM %s WITH KEY = host`, `SHOW TAG KEYS FROM %s`, `SHOW SERIES FROM %s`,
	} {
		for i, n := range c.nodes {
			options := query.ExecutionOptions{Authorizer: user}
			hidden := n.run(t, fmt.Sprintf(q, "cpu"), options)
			if none := n.run(t, fmt.Sprintf(q, "none"), options); hidden != strings.ReplaceAll(none, "none", "cpu") {
				t.Errorf("node %d: %s\nhidden: %s\nnone:   %s", i+1, q, hidden, none)
			}
		}
	}
}
