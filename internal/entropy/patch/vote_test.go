package patch_test

import (
	"slices"
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/patch"
)

// written are owners with a value each for one time, and what their journals have: the version of it, 0 for none, and
// the one up to which they may have forgotten some.
func written(values []int64, versions, forgot []uint64) ([]tsm1.Values, *patch.Versions) {
	n := len(values)
	owners, v := make([]tsm1.Values, n), &patch.Versions{
		Known: make([]map[int64]uint64, n), Since: make([]uint64, n), Written: make([]map[int64]uint64, n),
		Forgot: forgot,
	}
	for i, value := range values {
		owners[i] = tsm1.Values{tsm1.NewValue(5, value)}
		if versions[i] != 0 {
			v.Written[i] = map[int64]uint64{5: versions[i]}
		}
	}
	return owners, v
}

// After a crash of all nodes no version is certain. The last acknowledged write of a point is on two of three owners,
// or on one, when the disk of another one was lost since.
func TestJournalsDecideTies(t *testing.T) {
	t.Parallel()
	const old, last = int64(9), int64(1) // the fixed order would take the old one
	const silent = patch.Uncertain
	for _, tt := range []struct {
		name        string
		values      []int64
		withoutVote []bool
		written     []uint64
		forgot      []uint64
		want        int64
		why         string
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
		owners, v := written(tt.values, tt.written, tt.forgot)
		for i := range owners {
			v.Since[i] = patch.Uncertain
		}
		m, err := patch.Join([]byte("m"), "f", owners, patch.Rules{WithoutVote: tt.withoutVote}).Merge(v)
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

// A node went down right after a client had its answer, and before the write had reached other owners. Its copy lacks
// other writes and has no vote. The last acknowledged value stays, unless an owner may have got something newer.
func TestNewestValueOfANodeThatWentDownStays(t *testing.T) {
	t.Parallel()
	const old, last = int64(9), int64(1)
	for _, tt := range []struct {
		name    string
		values  []int64
		down    []bool
		written []uint64
		forgot  []uint64
		absent  int
		want    int64 // 0 for open
	}{
		{"alone", []int64{last, old}, []bool{true, false}, []uint64{7, 0}, []uint64{5, 5}, 0, last},
		{"one of three", []int64{last, old, old}, []bool{true, false, false}, []uint64{7, 0, 0}, []uint64{5, 5, 5}, 0, last},
		{"the engine may lack what its journal has", []int64{old, last, last}, []bool{true, false, false},
			[]uint64{7, 6, 6}, []uint64{5, 5, 5}, 0, last},
		{"two of three", []int64{last, last, old}, []bool{true, true, false}, []uint64{7, 7, 0}, []uint64{5, 5, 5}, 0, last},
		{"all", []int64{old, last, old}, []bool{true, true, true}, []uint64{0, 7, 0}, []uint64{5, 5, 5}, 0, last},
		{"it missed the last one", []int64{old, last}, []bool{true, false}, []uint64{6, 7}, []uint64{5, 5}, 0, last},
		{"its value is forgotten", []int64{old, last}, []bool{true, false}, []uint64{0, 0}, []uint64{5, 5}, 0, last},
		{"the other one may have forgotten a newer one", []int64{old, last}, []bool{true, false}, []uint64{7, 0},
			[]uint64{5, 8}, 0, last},
		{"others are away", []int64{last, old, old, old}, []bool{true, false, false, false}, []uint64{7, 0, 0, 0},
			[]uint64{5, 5, 5, 5}, 1, 0},
	} {
		owners, v := written(tt.values, tt.written, tt.forgot)
		for i := range owners {
			if v.Since[i] = 5; tt.down[i] {
				v.Since[i] = 100 // its journal may have what the engine does not
			} else {
				v.Known[i] = v.Written[i]
			}
		}
		withoutVote := tt.down
		if !slices.Contains(tt.down, false) {
			withoutVote = nil
		}
		m, err := patch.Join([]byte("m"), "f", owners, patch.Rules{
			WithoutVote: withoutVote, MayHaveNewest: tt.down, Absent: tt.absent,
		}).Merge(v)
		if err != nil {
			t.Fatal(err)
		}
		if open := tt.want == 0; open != (m.Open == 1) {
			t.Errorf("%s: %d points are open", tt.name, m.Open)
		}
		for i, value := range tt.values {
			if lacks := tt.want != 0 && value != tt.want; lacks != (m.Points[i] == 1) {
				t.Errorf("%s: owner %d with %d gets %d points", tt.name, i, value, m.Points[i])
			}
		}
	}
}

// A write has reached a copy that lacks others, and reaches the first copy after that was read. When it is asked for
// versions, the point is left as it is. A node of an older version does not say that a write is under way: in a shard
// that is written to, what was written since the copies were read stays even so.
func TestRepairLeavesAWriteOnItsWay(t *testing.T) {
	t.Parallel()
	value := func(v int64) tsm1.Values { return tsm1.Values{tsm1.NewValue(5, v)} }
	owners := []tsm1.Values{value(1), value(1), value(2)}
	for _, withoutVote := range [][]bool{nil, {false, false, true}} {
		for _, hot := range []bool{false, true} {
			for _, tells := range []bool{false, true} {
				rules := patch.Rules{WithoutVote: withoutVote}
				if hot {
					rules.MayDecide = func(uint64) bool { return true }
				}
				none := map[int64]uint64{}
				v := &patch.Versions{
					Known: []map[int64]uint64{{5: patch.Uncertain}, none, {5: 7}}, Since: []uint64{3, 3, 3},
					Written: []map[int64]uint64{none, none, {5: 7}}, Forgot: []uint64{3, 3, 3},
				}
				if tells {
					v.Changing = map[int64]bool{5: true}
				}
				m, err := patch.Join([]byte("m"), "f", owners, rules).Merge(v)
				if err != nil {
					t.Fatal(err)
				}
				switch lacking := m.Lacking[2]; {
				case tells && (len(lacking) > 0 || m.Open != 1 || len(m.Undecided) != 1):
					t.Errorf("without vote %v, hot %t: %+v", withoutVote, hot, m)
				case !tells && withoutVote != nil && (len(lacking) != 1 || (lacking[0].Versions == nil) != hot):
					t.Errorf("the shard is written to: %t; the write is replaced: %+v", hot, lacking)
				}
			}
		}
	}
}

// A disk was full: the newest write failed on one owner, whose copy lacks others, too. A repair brings the value there,
// also in a shard that is written to, and whether or not the others still know the version.
func TestRepairBringsAWriteThatFailed(t *testing.T) {
	t.Parallel()
	value := func(v int64) tsm1.Values { return tsm1.Values{tsm1.NewValue(5, v)} }
	const before, failed = 4, 7
	for _, withoutVote := range [][]bool{nil, {true, false, false}, {false, true, true}} {
		for _, hot := range []bool{false, true} {
			for _, known := range []bool{false, true} {
				if !known && withoutVote != nil && !withoutVote[0] {
					continue // the only copy with a vote is taken for right
				}
				rules := patch.Rules{WithoutVote: withoutVote}
				if hot {
					rules.MayDecide = func(uint64) bool { return true }
				}
				none := map[int64]uint64{}
				v := &patch.Versions{
					Known: []map[int64]uint64{{5: patch.Uncertain}, none, none}, Since: []uint64{3, 9, 9},
					Written: []map[int64]uint64{{5: before}, none, none}, Forgot: []uint64{3, 9, 9},
					Failed: []map[int64]uint64{{5: failed}, none, none}, ChangingKnown: true,
				}
				version := uint64(before) // so that it replaces what is there
				if known {
					v.Known[1], v.Since[1], version = map[int64]uint64{5: failed}, 6, failed
					v.Since[2] = 6 // it is not asked for a version that it forgot
				}
				owners := []tsm1.Values{value(1), value(2), value(2)}
				m, err := patch.Join([]byte("m"), "f", owners, rules).Merge(v)
				if err != nil {
					t.Fatal(err)
				}
				if len(m.Lacking[0]) != 1 || len(m.Lacking[1])+len(m.Lacking[2]) != 0 {
					t.Fatalf("without vote %v, hot %t, known %t: %+v", withoutVote, hot, known, m)
				}
				if got := m.Lacking[0][0].Versions; len(got) != 1 || got[0] != version {
					t.Errorf("without vote %v, hot %t, known %t: it comes with versions %v, not %d",
						withoutVote, hot, known, got, version)
				}
			}
		}
	}
}

// Two copies lack newer writes and one does not. When an owner is absent, that one may lack a write that it has.
func TestOneCopyDoesNotDecideAgainstThoseWithoutVote(t *testing.T) {
	t.Parallel()
	value := func(v int64) tsm1.Values { return tsm1.Values{tsm1.NewValue(5, v)} }
	for absent, open := range []int{0, 1} {
		m, err := patch.MergeValues([]byte("m"), "f", []tsm1.Values{value(1), value(2), {}},
			patch.Rules{WithoutVote: []bool{false, true, true}, Absent: absent})
		if err != nil {
			t.Fatal(err)
		}
		if m.Open != open || (m.Points[1] == 1) != (absent == 0) {
			t.Errorf("%d absent: %+v", absent, m)
		}
	}
	m, err := patch.MergeValues([]byte("m"), "f", []tsm1.Values{value(1), {}}, patch.Rules{Absent: 1})
	if err != nil || m.Points[1] != 1 {
		t.Errorf("a point that one owner has alone: %+v, %v", m, err)
	}
}

// While an owner is absent, the newest value does not win by its version, and no majority of older values wins over it.
func TestMajorityDoesNotWinOverTheNewestWhileAnOwnerIsAbsent(t *testing.T) {
	t.Parallel()
	value := func(v int64) tsm1.Values { return tsm1.Values{tsm1.NewValue(5, v)} }
	for newest, open := range map[int64]int{1: 0, 2: 1} { // three have 1, and one has 2
		known := func(v int64) map[int64]uint64 {
			if v == newest {
				return map[int64]uint64{5: 9}
			}
			return map[int64]uint64{5: 7}
		}
		v := &patch.Versions{ChangingKnown: true}
		var owners []tsm1.Values
		for _, has := range []int64{1, 1, 1, 2} {
			owners = append(owners, value(has))
			v.Known, v.Written = append(v.Known, known(has)), append(v.Written, known(has))
			v.Since, v.Forgot = append(v.Since, 3), append(v.Forgot, 3)
		}
		m, err := patch.Join([]byte("m"), "f", owners, patch.Rules{Absent: 1}).Merge(v)
		if err != nil || m.Open != open || m.ValueConflicts != 1-open {
			t.Errorf("%d is the newest: %+v, %v", newest, m, err)
		}
	}
}
