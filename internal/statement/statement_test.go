package statement

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxql"
	"pgregory.net/rapid"
)

// nested wraps an expression depth times.
func nested(before, inner, after string, depth int) string {
	return strings.Repeat(before, depth) + inner + strings.Repeat(after, depth)
}

func TestLimitsOfDepth(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]func(depth int) string{
		"parentheses": func(n int) string { return "SELECT " + nested("(", "v", ")", n) + " FROM m" },
		"signs":       func(n int) string { return "SELECT " + nested("-(", "v", ")", n) + " FROM m" },
		"calls":       func(n int) string { return "SELECT " + nested("abs(", "v", ")", n) + " FROM m" },
		"subqueries":  func(n int) string { return "SELECT v FROM " + nested("(SELECT v FROM ", "m", ")", n) },
		"conditions":  func(n int) string { return "DELETE FROM m WHERE " + nested("(", "a = 'b'", ")", n) },
		"continuous queries": func(n int) string {
			return "CREATE CONTINUOUS QUERY q ON d BEGIN SELECT " + nested("(", "max(v)", ")", n-1) +
				" INTO t FROM m GROUP BY time(1m) END"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			if err := Client.Query(text(Client.Depth), nil); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if _, err := influxql.ParseQuery(text(Client.Depth)); err != nil {
				t.Errorf("the parser: %v", err)
			}
			if d := time.Since(begun); d > 10*time.Second {
				t.Errorf("it took %s to parse what is within the limit", d)
			}
			for _, n := range []int{Client.Depth + 1, 10 * Client.Depth, 50 * Client.Depth} {
				if err := Client.Query(text(n), nil); err == nil ||
					!strings.Contains(err.Error(), "deeper than 100 levels") {
					t.Errorf("%d levels: %v", n, err)
				}
			}
		})
	}
}

// TestWhatIsNotClosedIsTooDeep: the parser must be stopped before it finds the end missing.
func TestWhatIsNotClosedIsTooDeep(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("(", Client.Bytes),
		"SELECT " + strings.Repeat("(", Client.Bytes/2),
		"SELECT " + strings.Repeat("-(", 10_000),
		"SELECT v FROM " + strings.Repeat("(SELECT v FROM ", 6_666),
		// Where a quote is part of a regular expression, what follows is no string.
		"SELECT v FROM a./'/ WHERE " + nested("(", "a = '", ")", 10_000) + "'",
	} {
		if err := Client.Query(text, nil); (err != nil) != strings.HasPrefix(text, "S") {
			t.Errorf("%.40s…: %v", text, err)
		}
	}
}

func TestLimitOfOperators(t *testing.T) {
	t.Parallel()
	chain := func(n int) string { // each comparison is an operator, too
		return "SELECT v FROM m WHERE " + strings.Repeat("a='b' OR ", n/2) + "a"
	}
	if err := Client.Query(chain(Client.Operators), nil); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	for _, n := range []int{Client.Operators + 2, 10 * Client.Operators} {
		if err := Client.Query(chain(n), nil); err == nil ||
			!strings.Contains(err.Error(), "more than 10000 operators") {
			t.Errorf("%d operators: %v", n, err)
		}
	}
	// Each statement has its own.
	if err := Client.Query(chain(Client.Operators)+";"+chain(Client.Operators), nil); err != nil {
		t.Error(err)
	}
	if err := Client.Query("SELECT v FROM m WHERE a='"+strings.Repeat("x", Client.Bytes)+"'", nil); err == nil {
		t.Error("a text beyond the limit of bytes: no error")
	}
}

// TestParametersAreNotWhereTheCheckEnds: without its parameters the parser would stop at the first.
func TestParametersAreNotWhereTheCheckEnds(t *testing.T) {
	t.Parallel()
	text := "SELECT v FROM m WHERE a = $a AND " + nested("(", "b = 'c'", ")", Client.Depth+1)
	if err := Client.Query(text, map[string]any{"a": "x"}); err == nil {
		t.Error("no error")
	}
	if err := Client.Query(text, nil); err != nil {
		t.Errorf("the parser itself refuses what lacks a parameter: %v", err)
	}
}

// TestNothingThatParsesIsDeeperThanTheCheckSays writes random statements with quotes, comments and regular expressions
// around their parentheses, and compares what the check says with what the parser made of them.
func TestNothingThatParsesIsDeeperThanTheCheckSays(t *testing.T) {
	t.Parallel()
	limits := Limits{Bytes: 1 << 20, Depth: 3, Operators: 5}
	var expr func(t *rapid.T, depth int) string
	expr = func(t *rapid.T, depth int) string {
		leaf := rapid.SampledFrom([]string{
			"v", `"a(b"`, "'c('", "1", "/* ( */ v", "m =~ /'(/", "f(v)", "v / 2", "$p",
		}).Draw(t, "leaf")
		if depth == 0 {
			return leaf
		}
		in := expr(t, depth-1)
		return fmt.Sprintf(rapid.SampledFrom([]string{
			"(%s)", "-(%s)", "f(%s)", "(%s) OR v", "v AND (%s)", "%s",
		}).Draw(t, "form"), in)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := "SELECT v FROM m WHERE " + expr(t, rapid.IntRange(0, 7).Draw(t, "depth"))
		params := map[string]any{"p": "x("}
		p := influxql.NewParser(strings.NewReader(text))
		p.SetParams(params)
		q, err := p.ParseQuery()
		if err != nil {
			t.Skip("not a statement")
		}
		depth, operators := deepest(q.Statements[0].(*influxql.SelectStatement).Condition)
		refused := limits.Query(text, params)
		if want := depth > limits.Depth || operators > limits.Operators; (refused != nil) != want {
			t.Fatalf("%s: %d levels, %d operators: %v", text, depth, operators, refused)
		}
	})
}

// deepest measures as naively as can be.
func deepest(e influxql.Expr) (depth, operators int) {
	switch e := e.(type) {
	case *influxql.ParenExpr:
		depth, operators = deepest(e.Expr)
		return depth + 1, operators
	case *influxql.Call:
		for _, a := range e.Args {
			d, n := deepest(a)
			depth, operators = max(depth, d), operators+n
		}
		return depth + 1, operators
	case *influxql.BinaryExpr:
		d1, n1 := deepest(e.LHS)
		d2, n2 := deepest(e.RHS)
		return max(d1, d2), n1 + n2 + 1
	}
	return 0, 0
}

func FuzzQuery(f *testing.F) {
	f.Add("SELECT mean(v) FROM m WHERE time > now() - 1h GROUP BY time(1m), /a(b)/ fill(0)")
	f.Add("SELECT v FROM a./'/ WHERE ((a = '')); SHOW TAG VALUES FROM m WITH KEY =~ /(/")
	f.Fuzz(func(t *testing.T, text string) {
		Limits{Bytes: 1 << 16, Depth: 5, Operators: 10}.Query(text, nil)
	})
}

func BenchmarkOrdinary(b *testing.B) {
	text := `SELECT mean("usage_idle") FROM "cpu" WHERE ("host" = 'web01') AND time >= now() - 1h GROUP BY time(1m), "host" fill(null)`
	for b.Loop() {
		if err := Client.Query(text, nil); err != nil {
			b.Fatal(err)
		}
	}
}
