package distquery

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/enginetest"
	"concord/internal/rpc"
)

var (
	statementsFlag = flag.Int("statements", 100, "statements of each seed of TestAggregatesAnswerAsTheEngineDoes")
	engineFlag     = flag.Bool("engine", false, "that test also asks with vector-aggregates = false")
	seedsFlag      = flag.Uint64("seeds", 3, "seeds of that test")
)

// Aggregates over arrays answer as the engine of a plain node does: for all functions, types, groupings, fills,
// limits and time zones, over points that were overwritten and deleted, in many files and in the write cache.
func TestAggregatesAnswerAsTheEngineDoes(t *testing.T) {
	t.Parallel()
	statements, seeds := *statementsFlag, *seedsFlag
	if testing.Short() { // the race detector sees as much in fewer
		statements, seeds = min(statements, 20), 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			o := testOptions{nodes: 3, replicas: 2} // the third node owns nothing of a shard group
			if seed%2 == 1 {
				o = testOptions{nodes: 2, replicas: 1} // two shards in each group
			}
			if seed%3 == 2 {
				o.index = "inmem"
			}
			c := newTestCluster(t, o)
			c.fill(t, rng)
			pool := newPool(t)
			for i, n := range c.nodes {
				c.nodes[i], _ = c.executing(t, n, pool, 1<<30, &budget.Requests{})
			}
			for range statements {
				text := aggregateText(rng)
				if o.replicas == 1 && spreadTies(text) {
					continue
				}
				want := c.plain.rows(t, text)
				for _, n := range c.nodes {
					same(t, text, n, want, n.rows(t, text))
				}
				if *engineFlag {
					c.vector(false)
					same(t, text, c.nodes[0], want, c.nodes[0].rows(t, text))
					c.vector(true)
				}
			}
		})
	}
}

// same fails unless two answers are the same but for the last bits of floating-point numbers.
func same(t *testing.T, text string, n *testNode, want, got []any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-12, 0)); d != "" {
		t.Fatalf("%s\nnode %d (arrays: %t) and a plain node differ:\n%s", text, n.id, n.server.vector.On, d)
	}
}

// vector sets on all nodes whether aggregates are computed from arrays.
func (c *testCluster) vector(on bool) {
	for _, n := range c.nodes {
		n.server.vector.On, n.mapper.vector.On = on, on
	}
}

// rows runs a statement and returns what it answers.
func (n *testNode) rows(t *testing.T, text string) (out []any) {
	t.Helper()
	q, err := influxql.ParseQuery(text)
	if err != nil {
		t.Fatal(text, ": ", err)
	}
	for r := range n.exec.ExecuteQuery(q, query.ExecutionOptions{Database: db}, nil) {
		if r.Err != nil {
			out = append(out, r.Err.Error())
		}
		for _, s := range r.Series {
			out = append(out, s.Name, s.Tags, s.Columns)
			for _, row := range s.Values {
				for _, v := range row {
					if at, ok := v.(time.Time); ok {
						v = at.UnixNano()
					}
					out = append(out, v)
				}
			}
		}
	}
	return out
}

// stores are those of all nodes.
func (c *testCluster) stores() []*tsdb.Store {
	list := []*tsdb.Store{c.plain.store}
	for _, n := range c.nodes {
		list = append(list, n.store)
	}
	return list
}

// fill writes, overwrites, deletes and flushes.
func (c *testCluster) fill(t *testing.T, rng *rand.Rand) {
	t.Helper()
	for range 12 {
		var b strings.Builder
		from := int64(rng.IntN(groups * 24 * 60))
		step := []int64{1, 7, 60}[rng.IntN(3)]
		for range 1 + rng.IntN(400) {
			at := (from + step*int64(rng.IntN(300))) % (groups * 24 * 60)
			h := rng.IntN(9)
			fmt.Fprintf(&b, "m,host=h%d,region=r%d%s f=%g,i=%di,b=%t,s=\"%c\"%s %d\n", h, h%3, []string{"", ",zone=z"}[h%2],
				float64(rng.IntN(4000)-2000)/7, rng.IntN(1000)-500, rng.IntN(2) == 0, 'a'+rune(rng.IntN(20)),
				c.mixed(rng, at), at*int64(time.Minute))
		}
		c.write(t, b.String())
		if rng.IntN(3) == 0 {
			lo := rng.IntN(groups * 24 * 60)
			cond := fmt.Sprintf("time >= %dm AND time < %dm", lo, lo+rng.IntN(600))
			if rng.IntN(2) == 0 {
				cond += fmt.Sprintf(" AND host = 'h%d'", rng.IntN(9))
			}
			for _, s := range c.stores() {
				m := []influxql.Source{&influxql.Measurement{Name: "m"}}
				if err := s.DeleteSeries(db, m, influxql.MustParseExpr(cond)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, s := range c.stores() {
			for _, id := range s.ShardIDs() {
				if rng.IntN(2) == 0 {
					enginetest.Flush(t, s.Shard(id))
				}
			}
		}
	}
}

// mixed is a field that has another type in each shard group.
func (c *testCluster) mixed(rng *rand.Rand, minute int64) string {
	switch minute / (24 * 60) {
	case 0:
		return fmt.Sprintf(",x=%g", float64(rng.IntN(100))/3)
	case 1:
		return fmt.Sprintf(",x=%di", rng.IntN(100))
	}
	return ""
}

func pick(rng *rand.Rand, of ...string) string { return of[rng.IntN(len(of))] }

// aggregateText is a statement that aggregates.
func aggregateText(rng *rand.Rand) string {
	call := func() string {
		switch pick(rng, "number", "number", "number", "any", "other") {
		case "number":
			name := pick(rng, "count", "sum", "mean", "min", "max", "first", "last")
			return fmt.Sprintf("%s(%s)", name, pick(rng, "f", "i", "x"))
		case "any":
			return fmt.Sprintf("%s(%s)", pick(rng, "count", "first", "last"), pick(rng, "b", "s"))
		}
		if rng.IntN(2) == 0 {
			return pick(rng, "top(f, 3)", "bottom(f, 2)", "top(i, 100)", "bottom(x, 1)", "distinct(i)", "distinct(s)",
				"distinct(b)", "spread(f)", "spread(x)", "count(distinct(i))")
		}
		return pick(rng, "min(b)", "max(b)", "spread(i)", "stddev(f)", "median(i)", "count(distinct(s))",
			"percentile(f, 90)", "derivative(mean(f), 1m)", "cumulative_sum(sum(i))", "mean(i::float)", "sum(f::integer)",
			"moving_average(max(f), 2)", "first(nothing)", "count(i) / 2")
	}
	calls := []string{call()}
	for rng.IntN(2) == 0 && !alone(calls[0]) {
		if next := call(); !alone(next) {
			calls = append(calls, next)
		}
	}
	fields := strings.Join(calls, ", ")
	from := pick(rng, "m", "m", "m", "/^m/")
	if rng.IntN(6) == 0 {
		fields = calls[0] // of several, the engine reads the statement of a subquery with a data race
		inner := pick(rng, "mean(f) AS f, max(i) AS i", "last(f) AS f, count(i) AS i, first(s) AS s", "max(f) AS f",
			"sum(i) AS i, min(x) AS x")
		by := pick(rng, "host", "time(6h), host", "region", "time(1d)")
		from = fmt.Sprintf("(SELECT %s FROM m %s GROUP BY %s)", inner, where(rng), by)
	}
	text := fmt.Sprintf("SELECT %s FROM %s %s", fields, from, where(rng))
	windows := pick(rng, "", "time(1m)", "time(90m)", "time(6h, 17m)", "time(1d)", "time(7s)")
	if windows == "time(7s)" {
		text = fmt.Sprintf("SELECT %s FROM %s WHERE time >= 20h AND time < 1660m", fields, from)
	}
	by := []string{}
	if windows != "" {
		by = append(by, windows)
	}
	by = append(by, pick(rng, "", "", "host", "region", "host, region", "zone", "*"))
	by = strings.FieldsFunc(strings.Join(by, ";"), func(r rune) bool { return r == ';' })
	if len(by) > 0 {
		text += " GROUP BY " + strings.Join(by, ", ")
	}
	if windows != "" && !alone(calls[0]) {
		text += pick(rng, "", " fill(none)", " fill(0)", " fill(previous)", " fill(linear)")
	}
	if rng.IntN(3) == 0 {
		text += " ORDER BY time DESC"
	}
	text += pick(rng, "", "", "", " LIMIT 3", " LIMIT 5 OFFSET 2", " SLIMIT 2", " LIMIT 2 SLIMIT 1 SOFFSET 1")
	if windows != "" {
		text += pick(rng, "", "", " TZ('America/New_York')", " TZ('Asia/Kathmandu')")
	}
	return text
}

// spreadTies reports whether an answer may depend on how series are spread over shards: of points at the same time,
// first and last without windows return one of the first series of each shard.
func spreadTies(text string) bool {
	if strings.Contains(text, "LIMIT") && (strings.Contains(text, "top(") || strings.Contains(text, "bottom(")) {
		return true // the engine limits the points of each shard before it looks for the greatest
	}
	return !strings.Contains(text, "time(") && (strings.Contains(text, "first(") || strings.Contains(text, "last("))
}

// alone reports whether a statement can have no other call beside this one.
func alone(call string) bool {
	return strings.HasPrefix(call, "top") || strings.HasPrefix(call, "bottom") || strings.HasPrefix(call, "distinct")
}

func where(rng *rand.Rand) string {
	lo := rng.IntN(groups * 24)
	hi := lo + 1 + rng.IntN(groups*24-lo)
	return fmt.Sprintf("WHERE time >= %dh AND time < %dh%s", lo, hi,
		pick(rng, "", "", "", " AND host = 'h3'", " AND host =~ /h[1-4]/", " AND region != 'r1'", " AND zone = ''",
			" AND f > 100", " AND i < 0 AND host != 'h2'"))
}

// former is a node of a former build, which answers one call of a request.
type former struct{ rpc.QueryServer }

func (f former) CreateIterator(r *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) error {
	r.MoreCalls = nil
	return f.QueryServer.CreateIterator(r, out)
}

func TestNodesOfAFormerBuildAnswerOneCallAtATime(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 4, replicas: 2, wrap: func(id uint64, s *Server) rpc.QueryServer {
		if id%2 == 0 {
			return former{s}
		}
		return s
	}})
	c.write(t, lines(9))
	c.compare(t,
		`SELECT count(v), mean(i), max(v), first(i), nothing(v) FROM cpu`,
		`SELECT count(v), count(nothing), mean(i), max(v), first(i) FROM cpu GROUP BY host`,
		`SELECT sum(i), last(s), mean(v) FROM cpu WHERE time >= 0 AND time < 3d GROUP BY time(1h), region fill(0)`,
	)
}

// A damaged block is no value: another owner answers. Without one, the answer says what is damaged.
func TestDamagedFilesAreNotRead(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 2})
	c.write(t, lines(9))
	bad := c.nodes[0]
	for _, id := range bad.store.ShardIDs() {
		e := enginetest.Engine(t, bad.store.Shard(id))
		if err := e.WriteSnapshot(); err != nil {
			t.Fatal(err)
		}
		for _, f := range e.FileStore.Files() {
			w, err := os.OpenFile(f.Path(), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 5); err != nil { // the checksum of the first block
				t.Fatal(err)
			}
			w.Close()
		}
	}
	const text = `SELECT sum(v), sum(i), count(b), first(s) FROM cpu GROUP BY host`
	want := c.plain.run(t, text, query.ExecutionOptions{})
	if got := c.nodes[2].run(t, text, query.ExecutionOptions{}); got != want {
		t.Errorf("through another node:\n%swant\n%s", got, want)
	}
	if got := bad.run(t, text, query.ExecutionOptions{}); got != want {
		t.Errorf("through the node with the damage:\n%swant\n%s", got, want)
	}
	for _, n := range c.nodes[1:] {
		c.Blocked[c.state.DataNodes[n.id-1].TCPAddr] = true
	}
	const damage = `is damaged: block of "cpu,host=h00,region=r0 b"`
	got := bad.run(t, `SELECT count(b) FROM cpu WHERE time >= 0 AND time < 1d`, query.ExecutionOptions{})
	if !strings.Contains(got, "error: no owner of shard 1 can answer: ") || !strings.Contains(got, damage) {
		t.Errorf("alone, it answers\n%s", got)
	}
}

func TestExplainTellsThePath(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, lines(9))
	n, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	for _, tt := range []struct{ text, want string }{ // of several calls, the engine gathers the plan with a data race
		{`EXPLAIN SELECT mean(v) FROM cpu WHERE host = 'h01'`, "EXPRESSION: mean(v::float)\n PATH: arrays\n"},
		{`EXPLAIN SELECT mean(v) FROM cpu WHERE i > 3`, "EXPRESSION: mean(v::float)\n PATH: engine\n"},
		{`EXPLAIN SELECT v FROM cpu`, "EXPRESSION: <nil>\n AUXILIARY FIELDS: v::float\n"},
		{`EXPLAIN SELECT top(v, 2) FROM cpu`, "EXPRESSION: v::float\n PATH: arrays\n"},
		{`EXPLAIN ANALYZE SELECT top(v, 2) FROM cpu`, "path: arrays\n"},
		{`EXPLAIN SELECT median(i) FROM cpu`, "EXPRESSION: i::integer\n PATH: engine\n"},
		{`EXPLAIN ANALYZE SELECT max(v) FROM cpu`, "path: arrays\n"},
		{`EXPLAIN ANALYZE SELECT max(v) FROM cpu`, "float_blocks_decoded: "},
	} {
		got := ""
		for _, v := range n.rows(t, tt.text) {
			if s, ok := v.(string); ok {
				got += " " + s + "\n"
			}
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s answers\n%swithout\n%s", tt.text, got, tt.want)
		}
	}
}
