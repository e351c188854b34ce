package patch_test

import (
	"errors"
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
		lacking, points, n, err := patch.Merge(blocks)
		if err != nil {
			t.Fatal(err)
		}
		if n != conflicts {
			t.Errorf("%d conflicts, want %d", n, conflicts)
		}
		for i, o := range owners {
			got := 0
			for _, b := range lacking[i] {
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
			if got != points[i] {
				t.Errorf("owner %d: %d points announced, %d sent", i, points[i], got)
			}
			if d := cmp.Diff(want, o); d != "" {
				t.Fatalf("owner %d:\n%s", i, d)
			}
		}
	})
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
