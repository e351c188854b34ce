package aggregate

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
)

// A series that was deleted and written again while the index was read is in it with two IDs. Its points count once.
func TestSeriesCountsOnce(t *testing.T) {
	t.Parallel()
	p := &plan{opt: query.IteratorOptions{Ascending: true}}
	set := &query.TagSet{}
	for _, key := range []string{"m,s=a", "m,s=b", "m,s=b", "m,s=c"} {
		set.AddFilter(key, nil)
	}
	covered, err := p.take([]*query.TagSet{set}, nil)
	if !covered || err != nil {
		t.Fatal(covered, err)
	}
	if want := []string{"m,s=a", "m,s=b", "m,s=c"}; len(p.groups) != 1 || !slices.Equal(p.groups[0].keys, want) || p.series != 3 {
		t.Errorf("%d series in %v, want %v", p.series, p.groups, want)
	}
}

// A measurement may have hundreds of thousands of fields, and a statement a call for each.
func TestManyCallsArePlannedAndClosedInLinearTime(t *testing.T) {
	t.Parallel()
	const calls = 300_000
	s := &Scan{plan: &plan{}, reading: &reading{cancel: func() {}}, open: calls}
	began := time.Now()
	for i := range calls {
		if got := s.column(strconv.Itoa(i), influxql.Float, influxql.Float); got != i {
			t.Fatalf("column %d of field %d", got, i)
		}
		s.views = append(s.views, &view{scan: s})
	}
	if s.column("7", influxql.Float, influxql.Float) != 7 || s.column("7", influxql.Float, influxql.Integer) != calls {
		t.Error("a column is found by its field and by its type")
	}
	for _, v := range s.views {
		v.Close()
	}
	if took := time.Since(began); took > 20*time.Second || s.open != 0 {
		t.Errorf("it took %s, and %d views are open", took, s.open)
	}
}
