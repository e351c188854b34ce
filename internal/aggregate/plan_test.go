package aggregate

import (
	"slices"
	"testing"

	"github.com/influxdata/influxdb/query"
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
