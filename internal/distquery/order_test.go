package distquery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"

	"concord/internal/rpc"
)

// tied are points of which many have the same time and many the same value, in
// every shard group. Sums of x depend on the order of the summands.
func tied(hosts int) string {
	var b strings.Builder
	for g := range groups {
		for i := range 5 {
			for h := range hosts {
				host := fmt.Sprintf(",host=h%02d", h)
				if h%7 == 6 {
					host = "" // and a region of its own
				}
				fmt.Fprintf(&b, "tie%s,region=r%d v=%d,i=%di,x=%g,s=\"s%d\",b=%t %d\n",
					host, h%3+h/7*3, h%4, h%5, 1/float64(h+i+3), h%6, h%2 == 0, int64(g)*day+int64(i)*1e9)
			}
		}
	}
	return b.String()
}

// tiedStatements are ones whose answers depend on the order of points of one time.
var tiedStatements = []string{
	`SELECT v FROM tie`,
	`SELECT v, region FROM tie LIMIT 33 OFFSET 15`,
	`SELECT * FROM tie ORDER BY time DESC LIMIT 40 OFFSET 10`,
	`SELECT host, v FROM tie`,
	`SELECT region, v FROM tie WHERE v > 1 ORDER BY time DESC`,
	`SELECT s, host, x FROM tie GROUP BY b LIMIT 30`,
	`SELECT v, x FROM tie GROUP BY host LIMIT 8 SLIMIT 4 SOFFSET 2`,
	`SELECT max(v), host, region FROM tie`,
	`SELECT min(i), host, region, x FROM tie GROUP BY time(12h)`,
	`SELECT first(v), region FROM tie`,
	`SELECT last(b), region FROM tie GROUP BY s SLIMIT 3`,
	`SELECT top(v, 5), host, region FROM tie`,
	`SELECT bottom(i, region, 4) FROM tie`,
	`SELECT bottom(i, 7), x FROM tie GROUP BY time(1d)`,
	`SELECT difference(i) FROM tie`,
	`SELECT cumulative_sum(x) FROM tie`,
	`SELECT moving_average(v, 3) FROM tie GROUP BY region`,
	`SELECT elapsed(v), derivative(v) FROM tie`,
	`SELECT sum(x), mean(x), stddev(x) FROM tie`,
	`SELECT sum(x), mean(i) FROM tie GROUP BY time(1d), region`,
	`SELECT integral(x), mode(v), count(distinct(i)) FROM tie`,
	`SELECT mean(x) FROM tie GROUP BY host SLIMIT 3`,
	`SELECT percentile(i, 50), host, region FROM tie`,
	`SELECT median(x) FROM tie GROUP BY region`,
	`SELECT sum(m) FROM (SELECT mean(x) AS m FROM tie GROUP BY region)`,
	`SELECT max(i), region FROM (SELECT i, region FROM tie WHERE v < 3)`,
	`SELECT v FROM (SELECT v, host FROM tie GROUP BY region) LIMIT 20 OFFSET 3`,
	`SELECT count(v), sum(i), max(v), first(x) FROM tie GROUP BY region`,
	`SELECT v, x, host FROM /tie|none/ LIMIT 20`,
	`SELECT region, v FROM (SELECT v FROM /tie|oth/ GROUP BY region), (SELECT x AS v FROM tie GROUP BY region)`,
	`SHOW FIELD KEYS`,
	`SHOW SERIES FROM tie`,
}

// others are points of another measurement at the same times.
func others() string { return strings.ReplaceAll(tied(5), "tie", "oth") }

// TestTiesComeInOneOrder asks all nodes several times.
func TestTiesComeInOneOrder(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, tt := range []testOptions{
		{nodes: 3, replicas: 1},
		{nodes: 2, replicas: 1, index: "inmem"},
		{nodes: 5, replicas: 2},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d replicas %s", tt.nodes, tt.replicas, tt.index), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, tt)
			c.write(t, tied(16)+others())
			for _, q := range tiedStatements {
				want := c.nodes[0].run(t, q, query.ExecutionOptions{})
				if !strings.Contains(want, "\n  ") || strings.Contains(want, "error") {
					t.Errorf("%s: the answer shows nothing: %s", q, want)
				}
				for i := range len(c.nodes) + 1 {
					if n := c.nodes[i%len(c.nodes)]; !c.sameAnswer(t, n, q, want) {
						break
					}
				}
			}
		})
	}
}

func (c *testCluster) sameAnswer(t *testing.T, n *testNode, q, want string) bool {
	t.Helper()
	got := n.run(t, q, query.ExecutionOptions{})
	if got == want {
		return true
	}
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("%s: node %d answers otherwise than node 1:\n%s", q, n.id, d)
		return false
	}
	return true
}

// TestTiesComeInTheOrderOfASingleNode where that has one: by text, and in one shard.
func TestTiesComeInTheOrderOfASingleNode(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	t.Run("shards spread", func(t *testing.T) {
		t.Parallel()
		c := newTestCluster(t, testOptions{nodes: 3, replicas: 1})
		c.write(t, strings.ReplaceAll(tied(16), "tie,region", "tie,host=none,region"))
		c.compare(t,
			`SELECT host, region FROM tie`,
			`SELECT host, region, v FROM tie ORDER BY time DESC LIMIT 20 OFFSET 5`,
			`SELECT region, host FROM tie WHERE v > 1 GROUP BY s`,
			`SELECT count(v), sum(i), max(v), min(x) FROM tie GROUP BY region`,
			`SHOW FIELD KEYS`,
		)
	})
	t.Run("one shard in each group", func(t *testing.T) {
		t.Parallel()
		c := newTestCluster(t, testOptions{nodes: 3, replicas: 3})
		c.write(t, tied(16)+others())
		for _, q := range tiedStatements {
			if !strings.Contains(q, "(x)") { // the sums of three shards are added up in the order of shards
				c.compare(t, q)
			}
		}
	})
}

func TestPagesOfTiesLoseAndRepeatNoRow(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1})
	c.write(t, tied(40))
	for _, q := range []string{
		`SELECT v, region FROM tie`, `SELECT region, x FROM tie`, `SELECT v, x FROM tie ORDER BY time DESC`,
	} {
		rows := func(limit string, n *testNode) []string {
			text := n.run(t, q+limit, query.ExecutionOptions{})
			_, text, _ = strings.Cut(text, "\n") // the names of the columns
			return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		}
		all := rows("", c.nodes[0])
		if len(all) != groups*5*40 {
			t.Fatalf("%s returns %d rows", q, len(all))
		}
		var paged []string
		for i := 0; i < len(all); i += 33 {
			paged = append(paged, rows(fmt.Sprintf(" LIMIT 33 OFFSET %d", i), c.nodes[i/33%3])...)
		}
		if d := cmp.Diff(all, paged); d != "" {
			t.Errorf("%s: the pages of it are another answer:\n%s", q, d)
		}
	}
}

func TestTiesKeepTheirOrderWhenAnotherOwnerAnswers(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 6, replicas: 2})
	c.write(t, tied(16))
	for _, q := range tiedStatements[:22] {
		want := c.nodes[0].run(t, q, query.ExecutionOptions{})
		for _, away := range c.state.DataNodes[2:] {
			c.Blocked[away.TCPAddr] = true
			c.sameAnswer(t, c.nodes[0], q, want)
			delete(c.Blocked, away.TCPAddr)
		}
	}
}

// TestTiesKeepTheirOrderWhenAnOwnerFails after it had opened its shards, which then come from several others.
func TestTiesKeepTheirOrderWhenAnOwnerFails(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	var failing, failed atomic.Int64
	c := newTestCluster(t, testOptions{nodes: 5, replicas: 2, wrap: func(id uint64, s *Server) rpc.QueryServer {
		return faulty{QueryServer: s, id: id, chunks: func(node uint64, n int, _ *rpc.IteratorChunk) error {
			if n == 0 || int64(node) != failing.Load() {
				return nil
			}
			failed.Add(1)
			return errors.New("disk on fire")
		}}
	}})
	c.write(t, tied(16))
	for _, q := range tiedStatements[:22] {
		failing.Store(0)
		want := c.nodes[0].run(t, q, query.ExecutionOptions{})
		for _, n := range c.nodes[1:] {
			failing.Store(int64(n.id))
			c.sameAnswer(t, c.nodes[0], q, want)
		}
	}
	if failed.Load() == 0 {
		t.Error("no iterator failed")
	}
}

// counted is an iterator whose points are all of one shard.
func counted(points []*query.FloatPoint, shard uint64) opened {
	return opened{Iterator: &list[query.FloatPoint]{points: slices.Clone(points)}, lowest: shard, only: true}
}

// TestMergeDoesNotDependOnWhereTheShardsAre joins random shards on random nodes first, through the wire.
func TestMergeDoesNotDependOnWhereTheShardsAre(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		opt := query.IteratorOptions{
			Ascending: rapid.Bool().Draw(t, "ascending"), Ordered: true, Dimensions: []string{"host"},
		}
		opt.Aux = []influxql.VarRef{
			{Val: "s", Type: rapid.SampledFrom([]influxql.DataType{influxql.String, influxql.Float}).Draw(t, "aux")},
		}
		nodes := make([][]opened, rapid.IntRange(1, 4).Draw(t, "nodes"))
		var flat []opened
		for shard := range uint64(rapid.IntRange(1, 8).Draw(t, "shards")) {
			points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *query.FloatPoint {
				return &query.FloatPoint{
					Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"),
					Tags: query.NewTags(map[string]string{"host": rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "host")}),
					Time: rapid.Int64Range(0, 3).Draw(t, "time"),
					Aux:  []any{rapid.SampledFrom([]any{nil, "p", "q", 1.5}).Draw(t, "text")},
				}
			}), 0, 20).Draw(t, "points")
			sign := 1
			if !opt.Ascending {
				sign = -1
			}
			slices.SortStableFunc(points, func(a, b *query.FloatPoint) int {
				return sign * slices.Compare([]string{a.Name, a.Tags.ID(), fmt.Sprint(a.Time)}, []string{
					b.Name, b.Tags.ID(), fmt.Sprint(b.Time),
				})
			})
			for i, p := range points {
				p.Value = float64(shard*100) + float64(i)
			}
			n := rapid.IntRange(0, len(nodes)-1).Draw(t, "node")
			nodes[n] = append(nodes[n], counted(points, shard+1))
			flat = append(flat, counted(points, shard+1))
		}
		var nested []opened
		for _, shards := range nodes {
			if itr := byShard(shards, opt, false, nil); itr != nil {
				var chunks [][]byte
				e := &encoder{size: 20, send: func(b []byte) error { chunks = append(chunks, b); return nil }}
				if err := e.encode(itr); err != nil {
					t.Fatal(err)
				}
				s := &streamed[query.FloatPoint]{decoded: decoded[query.FloatPoint]{fill: fillFloat, decoder: decoder{next: func() ([]byte, error) {
					if len(chunks) == 0 {
						return nil, nil
					}
					c := chunks[0]
					chunks = chunks[1:]
					return c, nil
				}}}}
				nested = append(nested, opened{Iterator: remotePoints{s}, lowest: shards[0].lowest, remote: true})
			}
		}
		if d := cmp.Diff(values(t, byShard(flat, opt, true, nil)), values(t, byShard(nested, opt, true, nil))); d != "" {
			t.Fatal(d)
		}
	})
}

// remotePoints is a stream without a node.
type remotePoints struct{ *streamed[query.FloatPoint] }

func (remotePoints) Stats() query.IteratorStats { return query.IteratorStats{} }
func (remotePoints) Close() error               { return nil }

func values(t *rapid.T, itr query.Iterator) (v []float64) {
	f := itr.(query.FloatIterator)
	for {
		p, err := f.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return v
		}
		v = append(v, p.Value)
	}
}
