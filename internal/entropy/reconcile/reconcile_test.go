package reconcile

import (
	"context"
	"math/bits"
	"testing"

	"concord/internal/entropy/digest"
)

func list(fields ...digest.SeriesField) Owner {
	return Owner{List: func(_ context.Context, fn func(*digest.SeriesField) error) error {
		for i := range fields {
			if err := fn(&fields[i]); err != nil {
				return err
			}
		}
		return nil
	}}
}

func field(name string, sums map[int]digest.Sum) digest.SeriesField {
	f := digest.SeriesField{Series: []byte("m,t=a"), Field: name, Type: digest.Float}
	for w, s := range sums {
		f.Windows[w] = s
	}
	return f
}

// Two looks see the same mark when they see the same difference, and another when either owner changed.
func TestMarksNameTheDifference(t *testing.T) {
	t.Parallel()
	one, two, three := digest.Sum{Count: 1, Lo: 7}, digest.Sum{Count: 2, Lo: 9}, digest.Sum{Count: 2, Hi: 9}
	look := func(owners ...Owner) Difference {
		var got []Difference
		if err := (Flat{}).Differences(t.Context(), owners, func(d Difference) error {
			got = append(got, d)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || len(got[0].Marks) != bits.OnesCount64(got[0].Windows) {
			t.Fatalf("got %+v", got)
		}
		return got[0]
	}
	a := list(field("v", map[int]digest.Sum{0: one, 3: two, 63: one}))
	base := look(a, list(field("v", map[int]digest.Sum{0: one, 3: three})))
	if base.Windows != 1<<3|1<<63 {
		t.Fatalf("windows %b", base.Windows)
	}
	again := look(a, list(field("v", map[int]digest.Sum{0: one, 3: three})))
	if base.Marks[0] != again.Marks[0] || base.Marks[1] != again.Marks[1] {
		t.Errorf("the same difference has marks %x and %x", base.Marks, again.Marks)
	}
	moved := look(a, list(field("v", map[int]digest.Sum{0: one, 3: one})))
	if base.Marks[0] == moved.Marks[0] || base.Marks[1] != moved.Marks[1] {
		t.Errorf("after one window changed, marks %x are %x", base.Marks, moved.Marks)
	}
	if swapped := look(list(field("v", map[int]digest.Sum{0: one, 3: three})), a); swapped.Marks[0] == base.Marks[0] {
		t.Errorf("owners swapped, mark %x kept", base.Marks[0])
	}
}
