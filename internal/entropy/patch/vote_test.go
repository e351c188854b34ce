package patch_test

import (
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/patch"
)

// After a crash of all nodes no version is certain. The last acknowledged write of a point is on two of three owners,
// or on one, when the disk of another one was lost since.
func TestJournalsDecideTies(t *testing.T) {
	t.Parallel()
	const old, last = int64(9), int64(1) // the fixed order would take the old one
	const silent = patch.Unsettled
	for _, tt := range []struct {
		name     string
		values   []int64
		doubtful []bool
		written  []uint64
		forgot   []uint64
		want     int64
		why      string
	}{
		{"most have it", []int64{last, last, old}, nil, []uint64{0, 0, 0}, []uint64{5, 5, 5}, last, patch.WhyMajority},
		{"most have it, and a journal has another", []int64{old, last, last}, nil, []uint64{7, 0, 0}, []uint64{5, 5, 5},
			last, patch.WhyMajority},
		{"tied, and the journals have nothing", []int64{last, old}, nil, []uint64{0, 0}, []uint64{5, 5}, old,
			patch.WhyOrder},
		{"both journals have it", []int64{last, old}, nil, []uint64{7, 6}, []uint64{5, 5}, last, patch.WhyLikely},
		{"the other one forgot older ones", []int64{last, old}, nil, []uint64{7, 0}, []uint64{5, 5}, last,
			patch.WhyLikely},
		{"the other one may have forgotten a newer one", []int64{last, old}, nil, []uint64{7, 0}, []uint64{5, 8}, old,
			patch.WhyOrder},
		{"the other one does not tell", []int64{last, old}, nil, []uint64{7, 0}, []uint64{5, silent}, old,
			patch.WhyOrder},
		{"a copy of the old one has no vote", []int64{last, old, old}, []bool{false, false, true}, []uint64{7, 0, 0},
			[]uint64{5, 5, 5}, last, patch.WhyLikely},
		{"the vote of two", []int64{old, 3, last, 3, last}, nil, []uint64{9, 0, 7, 0, 7}, []uint64{5, 5, 5, 5, 5}, last,
			patch.WhyLikely},
	} {
		n := len(tt.values)
		owners, v := make([]tsm1.Values, n), &patch.Versions{
			Known: make([]map[int64]uint64, n), Since: make([]uint64, n), Written: make([]map[int64]uint64, n),
			Forgot: tt.forgot,
		}
		for i, value := range tt.values {
			owners[i] = tsm1.Values{tsm1.NewValue(5, value)}
			v.Since[i] = patch.Unsettled
			if tt.written[i] != 0 {
				v.Written[i] = map[int64]uint64{5: tt.written[i]}
			}
		}
		m, err := patch.Join([]byte("m"), "f", owners, patch.Rules{Doubtful: tt.doubtful}).Merge(v)
		if err != nil {
			t.Fatal(err)
		}
		for i, value := range tt.values {
			if lacks := value != tt.want; lacks != (m.Points[i] == 1) {
				t.Errorf("%s: owner %d with %d gets %d points", tt.name, i, value, m.Points[i])
			}
		}
		if len(m.Decided) != 1 || m.Decided[0].Why != tt.why {
			t.Errorf("%s: decided %+v, want %q", tt.name, m.Decided, tt.why)
		}
	}
}

// A write has reached a copy that lacks others, and not yet the other copies. A repair that read before leaves it.
func TestRepairLeavesAWriteOnItsWayToADoubtfulCopy(t *testing.T) {
	t.Parallel()
	value := func(v int64) tsm1.Values { return tsm1.Values{tsm1.NewValue(5, v)} }
	owners := []tsm1.Values{value(1), value(1), value(2)}
	for _, hot := range []bool{false, true} {
		rules := patch.Rules{Doubtful: []bool{false, false, true}}
		if hot {
			rules.MayDecide = func(uint64) bool { return true }
		}
		none := map[int64]uint64{}
		m, err := patch.Join([]byte("m"), "f", owners, rules).Merge(&patch.Versions{
			// It has reached the first one when that is asked for versions.
			Known: []map[int64]uint64{{5: patch.Unsettled}, none, {5: 7}}, Since: []uint64{3, 3, 3},
			Written: []map[int64]uint64{none, none, {5: 7}}, Forgot: []uint64{3, 3, 3},
		})
		if err != nil || len(m.Lacking[2]) != 1 {
			t.Fatalf("%+v, %v", m, err)
		}
		if replaces := m.Lacking[2][0].Versions != nil; replaces == hot {
			t.Errorf("the shard is written to: %t; the write is replaced: %t", hot, replaces)
		}
	}
}
