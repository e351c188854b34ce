package patch_test

import (
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/patch"
)

// No version says for certain which value is the newest. Of three owners, the last acknowledged write of a point is on
// two. One of these lost its disk since, and its copy was made of the files of another owner.
func TestVotesWhereNoVersionIsCertain(t *testing.T) {
	t.Parallel()
	const old, last = int64(9), int64(1) // the fixed order would take the old one
	yes, no := true, false
	for _, tt := range []struct {
		name     string
		values   []int64
		doubtful []bool
		copied   []bool
		written  []uint64
		want     int64
		why      string
	}{
		{"most have it", []int64{last, last, old}, nil, nil, nil, last, patch.WhyMajority},
		{"tied", []int64{last, old}, nil, nil, nil, old, patch.WhyOrder},
		{"tied, and a journal has it", []int64{last, old}, nil, nil, []uint64{7, 6}, last, patch.WhyLikely},
		{"most have it, and a journal has another", []int64{old, last, last}, nil, nil, []uint64{7, 0, 0}, last,
			patch.WhyMajority},
		{"the file of another owner has no vote", []int64{last, old, old}, []bool{no, no, yes}, []bool{no, no, yes},
			[]uint64{7, 6, 0}, last, patch.WhyLikely},
		{"what was written to a copied file has one", []int64{last, last, old}, []bool{no, yes, no},
			[]bool{no, yes, no}, []uint64{7, 7, 8}, last, patch.WhyMajority},
		{"and what was written to a copy that lacks writes has none", []int64{last, old, old}, []bool{no, yes, yes},
			[]bool{no, no, no}, []uint64{0, 7, 7}, last, ""},
		{"nor decides it what is tied", []int64{last, old, last}, []bool{no, no, yes}, []bool{no, no, yes}, nil, old,
			patch.WhyOrder},
		{"owners in doubt decide what is tied", []int64{last, last, old}, []bool{no, yes, no}, nil, nil, last,
			patch.WhyMajority},
		{"all are in doubt", []int64{last, last, old}, []bool{yes, yes, yes}, nil, nil, last, patch.WhyMajority},
	} {
		n := len(tt.values)
		owners, v := make([]tsm1.Values, n), &patch.Versions{
			Known: make([]map[int64]uint64, n), Since: make([]uint64, n), Written: make([]map[int64]uint64, n),
		}
		for i, value := range tt.values {
			owners[i] = tsm1.Values{tsm1.NewValue(5, value)}
			v.Since[i] = patch.Unsettled
			if tt.written != nil && tt.written[i] != 0 {
				v.Written[i] = map[int64]uint64{5: tt.written[i]}
			}
		}
		rules := patch.Rules{Doubtful: tt.doubtful, Copied: tt.copied}
		m, err := patch.Join([]byte("m"), "f", owners, rules).Merge(v)
		if err != nil {
			t.Fatal(err)
		}
		for i, value := range tt.values {
			if lacks := value != tt.want; lacks != (m.Points[i] == 1) {
				t.Errorf("%s: owner %d with %d gets %d points", tt.name, i, value, m.Points[i])
			}
		}
		if tt.why != "" && (len(m.Decided) != 1 || m.Decided[0].Why != tt.why) {
			t.Errorf("%s: decided %+v, want %q", tt.name, m.Decided, tt.why)
		}
	}
}
