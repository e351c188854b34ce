package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/enginetest"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

// shardOfSeries is a shard with the index tsi1 and n series of the measurement "m n".
func shardOfSeries(t testing.TB, n int) (*tsdb.Store, *tsdb.Shard) {
	t.Helper()
	store := enginetest.Store(t, tsdb.TSI1IndexName)
	shard := enginetest.Shard(t, store, 1)
	for from := 0; from < n; from += 10_000 {
		points := make([]models.Point, 0, 10_000)
		for i := from; i < min(n, from+10_000); i++ {
			tags := map[string]string{"host": fmt.Sprintf("h %d", i), "dc": fmt.Sprint(i % 7), "rack": strings.Repeat("r", i%3)}
			points = append(points, models.MustNewPoint("m n", models.NewTags(tags), models.Fields{"v": 1.0}, time.Unix(1, 0)))
		}
		enginetest.WritePoints(t, store, 1, points...)
	}
	return store, shard
}

func TestTagSetsAreThoseOfTheEngine(t *testing.T) {
	t.Parallel()
	const series = 3*manySeries + 100 // for several workers
	store, shard := shardOfSeries(t, series)
	source := []influxql.Source{&influxql.Measurement{Name: "m n"}}
	if err := store.DeleteSeries("db", source, influxql.MustParseExpr("host =~ /h 1.*/")); err != nil {
		t.Fatal(err)
	}
	index, err := shard.Index()
	if err != nil {
		t.Fatal(err)
	}
	file, err := shard.SeriesFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, dims := range [][]string{nil, {"dc"}, {"rack", "dc"}, {"host"}, {"none"}} {
		opt := query.IteratorOptions{Dimensions: dims}
		p := newPlan(t.Context(), shard, &influxql.Measurement{Name: "m n"}, opt)
		got, err := p.tagSets("m n", opt)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tsdb.IndexSet{Indexes: []tsdb.Index{index}, SeriesFile: file}.TagSets(file, []byte("m n"), opt)
		if err != nil {
			t.Fatal(err)
		}
		type set struct {
			Key  string
			Keys []string
		}
		of := func(sets []*query.TagSet) (list []set) {
			for _, s := range sets {
				list = append(list, set{string(s.Key), s.SeriesKeys})
			}
			return list
		}
		if d := cmp.Diff(of(want), of(got)); d != "" {
			t.Errorf("%v: (-engine +ours)\n%.2000s", dims, d)
		}
		opt.MaxSeriesN = 1000
		_, err = p.tagSets("m n", opt)
		if err == nil || err.Error() != "max-select-series limit exceeded: (1001/1000)" {
			t.Errorf("%v: more series than are allowed: %v", dims, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := newPlan(ctx, shard, &influxql.Measurement{Name: "m n"}, query.IteratorOptions{})
	if _, err := p.tagSets("m n", p.opt); err != context.Canceled {
		t.Errorf("a statement that has ended finds its series: %v", err)
	}
}

func TestListsAreMergedInOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2]string{{"", ""}, {"ac", ""}, {"", "b"}, {"ac", "bd"}, {"cd", "ab"}, {"ab", "cd"}, {"aa", "ab"}} {
		a, b := strings.Split(tt[0], ""), strings.Split(tt[1], "")
		want := slices.Sorted(slices.Values(slices.Concat(a, b)))
		if got := mergeSorted(a, b); !slices.Equal(got, want) {
			t.Errorf("%q and %q: %q", a, b, got)
		}
	}
}

// BenchmarkManySeries answers count of 200,000 series with one point each.
func BenchmarkManySeries(b *testing.B) {
	const series = 200_000
	_, shard := shardOfSeries(b, series)
	mm := &influxql.Measurement{Name: "m n"}
	opt := query.IteratorOptions{
		Expr:    influxql.MustParseExpr("count(v::float)"),
		EndTime: influxql.MaxTime, StartTime: influxql.MinTime, Ascending: true,
	}
	for b.Loop() {
		s, _, err := Open(b.Context(), shard, nil, mm, opt, opt.Expr)
		if err != nil {
			b.Fatal(err)
		}
		itr := s.Iterator(0)
		p, err := itr.(query.IntegerIterator).Next()
		if err != nil || p.Value != series {
			b.Fatal(p, err)
		}
		itr.Close()
	}
}
