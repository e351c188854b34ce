package patch_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"pgregory.net/rapid"

	"concord/internal/entropy/patch"
)

func block(t interface{ Fatal(...any) }, points map[int64]int64) []patch.Block {
	var vs tsm1.Values
	for at := int64(0); at < 50; at++ {
		if v, ok := points[at]; ok {
			vs = append(vs, tsm1.NewValue(at, v))
		}
	}
	if len(vs) == 0 {
		return nil
	}
	b, err := patch.NewBlock([]byte("m,host=a"), "f", vs)
	if err != nil {
		t.Fatal(err)
	}
	return []patch.Block{b}
}

// TestMergeAgreesWithNaiveModel merges two to five owners and applies what
// each lacks: all must then hold, at each time, what most owners held, and of
// equally many the greater.
func TestMergeAgreesWithNaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		owners := make([]map[int64]int64, rapid.IntRange(2, 5).Draw(t, "owners"))
		blocks := make([][]patch.Block, len(owners))
		for i := range owners {
			owners[i] = rapid.MapOf(rapid.Int64Range(0, 49), rapid.Int64Range(0, 2)).Draw(t, "points")
			blocks[i] = block(t, owners[i])
		}
		want := make(map[int64]int64)
		conflicts := 0
		for at := int64(0); at < 50; at++ {
			votes := make(map[int64]int)
			for _, o := range owners {
				if v, ok := o[at]; ok {
					votes[v]++
				}
			}
			best := int64(-1)
			for v, n := range votes {
				if best < 0 || n > votes[best] || (n == votes[best] && v > best) {
					best = v
				}
			}
			if best >= 0 {
				want[at] = best
			}
			if len(votes) > 1 {
				conflicts++
			}
		}
		m, err := patch.Merge(blocks, patch.Rules{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range m.Decided {
			if fmt.Sprint(want[d.Time]) != d.Value {
				t.Errorf("%+v is listed, and the owners get %v", d, want[d.Time])
			}
		}
		if len(m.Decided) != min(conflicts, 20) {
			t.Errorf("%d of %d decisions are listed", len(m.Decided), conflicts)
		}
		if m.ValueConflicts != conflicts || m.Open != 0 {
			t.Errorf("%d conflicts and %d open, want %d", m.ValueConflicts, m.Open, conflicts)
		}
		for i, o := range owners {
			got := 0
			for _, b := range m.Lacking[i] {
				vs, err := b.Decode()
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range vs {
					if have, ok := o[v.UnixNano()]; ok && have == v.Value() {
						t.Errorf("owner %d is sent a point that it has", i)
					}
					o[v.UnixNano()] = v.Value().(int64)
					got++
				}
			}
			if got != m.Points[i] {
				t.Errorf("owner %d: %d points announced, %d sent", i, m.Points[i], got)
			}
			if d := cmp.Diff(want, o); d != "" {
				t.Fatalf("owner %d:\n%s", i, d)
			}
		}
	})
}

// The owners that are there decide only what the absent ones could not turn.
func TestMergeLeavesWhatAbsentOwnersMayDecide(t *testing.T) {
	t.Parallel()
	block := func(v int64) []patch.Block {
		b, err := patch.NewBlock([]byte("m"), "f", tsm1.Values{tsm1.NewValue(1, v)})
		if err != nil {
			t.Fatal(err)
		}
		return []patch.Block{b}
	}
	for _, tt := range []struct {
		name      string
		values    []int64
		absent    int
		settled   bool
		open      int
		conflicts int
	}{
		{"one of three is absent", []int64{1, 2}, 1, true, 1, 0},
		{"all are there", []int64{1, 2, 2}, 0, true, 0, 1},
		{"a tie, and all are there", []int64{1, 2}, 0, true, 0, 1},
		{"one of four is absent, and could make a tie", []int64{1, 2, 2}, 1, true, 1, 0},
		{"one of five is absent", []int64{1, 2, 2, 2}, 1, true, 0, 1},
		{"a write may be in flight", []int64{1, 2, 2}, 0, false, 1, 0},
	} {
		var owners [][]patch.Block
		for _, v := range tt.values {
			owners = append(owners, block(v))
		}
		m, err := patch.Merge(owners, patch.Rules{Absent: tt.absent, MayDecide: func(uint64) bool {
			return tt.settled
		}})
		if err != nil {
			t.Fatal(err)
		}
		if m.Open != tt.open || m.ValueConflicts != tt.conflicts {
			t.Errorf("%s: %d open and %d decided, want %d and %d", tt.name, m.Open, m.ValueConflicts, tt.open,
				tt.conflicts)
		}
		for i, n := range m.Points {
			if tt.open > 0 && n > 0 {
				t.Errorf("%s: owner %d is sent %d points", tt.name, i, n)
			}
		}
	}
	// A point that an owner lacks is not a conflict.
	m, err := patch.Merge([][]patch.Block{block(1), nil}, patch.Rules{Absent: 1})
	if err != nil || m.Points[1] != 1 {
		t.Errorf("a missing point: %+v, %v", m, err)
	}
}

func FuzzDecodeBlock(f *testing.F) {
	for _, v := range []any{1.5, int64(7), uint64(7), true, "text"} {
		b, err := tsm1.Values{tsm1.NewValue(1, v), tsm1.NewValue(2, v)}.Encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		vs, err := patch.Block{Series: []byte("m"), Field: "f", Data: data}.Decode()
		if err != nil {
			if !errors.Is(err, patch.ErrMalformed) {
				t.Fatalf("not ErrMalformed: %v", err)
			}
			return
		}
		for i := 1; i < len(vs); i++ {
			if vs[i].UnixNano() <= vs[i-1].UnixNano() {
				t.Fatal("times do not ascend")
			}
		}
	})
}
