package repair

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// Windows that follow each other are one region when the same owners hold the same.
func TestNextBatch(t *testing.T) {
	rng := digest.Range{Start: 0, End: 64 * 10}
	diff := func(windows uint64, groups ...uint8) reconcile.Difference {
		return reconcile.Difference{
			Series: []byte("m"), Field: "f", Types: []digest.Type{0, digest.Float}, Windows: windows, Groups: groups,
		}
	}
	for _, tt := range []struct {
		diff reconcile.Difference
		want [][2]int64
	}{
		{diff(1, 0, 2), [][2]int64{{models.MinNanoTime, 9}}},
		{diff(0b11011, 0, 2, 0, 2, 0, 2, 0, 2), [][2]int64{{models.MinNanoTime, 19}, {30, 49}}},
		{diff(0b1110, 0, 2, 1, 2, 1, 2), [][2]int64{{10, 19}, {20, 39}}},
		{diff(1<<63|1, 1, 0, 1, 0), [][2]int64{{models.MinNanoTime, 9}, {630, models.MaxNanoTime}}},
	} {
		n, regions := nextBatch(rng, []reconcile.Difference{tt.diff}, 2)
		var got [][2]int64
		for _, r := range regions {
			got = append(got, [2]int64{r.Min, r.Max})
		}
		if d := cmp.Diff(tt.want, got); n != 1 || d != "" {
			t.Errorf("windows %b, groups %v: %s", tt.diff.Windows, tt.diff.Groups, d)
		}
	}
	many := make([]reconcile.Difference, 100)
	for i := range many {
		many[i] = diff(0b101, 0, 2, 0, 2)
	}
	if n, _ := nextBatch(rng, many, 2); n != batchRegions/2 {
		t.Errorf("%d differences in a batch", n)
	}
}
