package distquery

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"

	"concord/internal/budget"
)

func TestWhatFunctionsKeepIsCounted(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, many())
	c.write(t, lines(40))
	var texts strings.Builder
	for i := range 40 {
		fmt.Fprintf(&texts, "texts s=\"%s%d\",i=%d %d\n", strings.Repeat("x", 50_000), i, i, i)
	}
	c.write(t, texts.String())
	requests := &budget.Requests{}
	n, b := c.limited(t, newPool(t), 1<<20, requests)
	answer := func(text string) string {
		request := &budget.Request{Share: b.Open(), Streamed: true}
		defer request.Close()
		return n.run(t, text, query.ExecutionOptions{ChunkSize: 100, NodeID: requests.Add(request)})
	}
	const times = "WHERE time >= 0 AND time < 18000s"
	for _, text := range []string{
		"SELECT percentile(x, 50) FROM (SELECT v AS x FROM cpu)",
		"SELECT max(p) FROM (SELECT median(x) AS p FROM (SELECT v AS x FROM cpu))",
		"SELECT median(x) FROM (SELECT mean(v) AS x FROM cpu " + times + " GROUP BY time(1s))",
		"SELECT median(x) FROM (SELECT mean(v) AS x FROM cpu WHERE host = 'h01' AND time >= 0 AND time < 3d " +
			"GROUP BY time(1s) fill(0))",
		"SELECT median(x) FROM (SELECT derivative(v) AS x FROM cpu)",
		"SELECT distinct(v) FROM cpu",
		"SELECT count(distinct(v)) FROM cpu WHERE i >= 0",
		"SELECT count(distinct(x)) FROM (SELECT v + i AS x FROM cpu)",
		"SELECT holt_winters(mean(v), 2, 2) FROM cpu " + times + " GROUP BY time(1s)",
		"SELECT moving_average(v, 4000) FROM cpu GROUP BY *",
		"SELECT max(m) FROM (SELECT moving_average(v, 4000) AS m FROM cpu GROUP BY *)",
		"SELECT mode(s) FROM texts",
		"SELECT distinct(s) FROM texts",
		"SELECT count(distinct(x)) FROM (SELECT s AS x FROM texts)",
	} {
		if got := answer(text); !strings.Contains(got, overMemory) {
			t.Errorf("%s\nanswers\n%.300s", text, got)
		}
		if used := b.Used(); used != 0 {
			t.Errorf("%s: %d bytes are left in the budget", text, used)
		}
	}
	for _, text := range []string{
		"SELECT percentile(x, 50) FROM (SELECT v AS x FROM cpu) " + times + " GROUP BY time(1000s), host fill(none)",
		"SELECT median(x) FROM (SELECT mean(v) AS x FROM cpu " + times + " GROUP BY time(1s) fill(0)) " + times +
			" GROUP BY time(1000s)",
		"SELECT median(x) FROM (SELECT v AS x FROM cpu LIMIT 100)",
		"SELECT count(distinct(host)) FROM (SELECT host, v FROM cpu)",
		"SELECT count(distinct(host)) FROM (SELECT /^(host|v)$/ FROM cpu)",
		"SELECT count(distinct(host)) FROM (SELECT v FROM cpu GROUP BY host)",
		"SELECT distinct(x) FROM (SELECT v - v AS x, v FROM cpu WHERE v = 7)",
		"SELECT moving_average(v, 100) FROM cpu GROUP BY *",
		"SELECT mode(s) FROM texts WHERE i < 3",
	} {
		if got, want := answer(text), c.plain.run(t, text, query.ExecutionOptions{ChunkSize: 100}); got != want {
			t.Errorf("%s\nanswers\n%.300s\nwant\n%.300s", text, got, want)
		}
	}
}

func TestDifferentValuesAreEstimated(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 100, 3000, 100_000} {
		h := held{distinct: true, value: true, size: 1}
		for i := range 3 * n {
			h.n++
			h.note(fields{}, math.Float64bits(float64(i%n)), "")
		}
		// Some of the first few may be counted twice.
		if got := float64(h.total()); got < 0.9*float64(n) || got > 1.1*float64(n)+fewValues {
			t.Errorf("%v values, and not %d", got, n)
		}
	}
}
