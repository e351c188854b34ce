package patch

import (
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// The empty string is a value as any other, also where all owners have it.
func TestMergeOfEmptyStrings(t *testing.T) {
	t.Parallel()
	block := func(values ...string) []Block {
		var vs tsm1.Values
		for i, v := range values {
			vs = append(vs, tsm1.NewValue(int64(i+1), v))
		}
		b, err := NewBlock([]byte("m"), "s", vs)
		if err != nil {
			t.Fatal(err)
		}
		return []Block{b}
	}
	m, err := Merge([][]Block{block("", "", "x"), block("", "x", "")}, Rules{})
	if err != nil {
		t.Fatal(err)
	}
	if m.ValueConflicts != 2 || m.Points[0] != 1 || m.Points[1] != 1 {
		t.Errorf("%d conflicts, lacking %v, want the x on both", m.ValueConflicts, m.Points)
	}
	if m, err = Merge([][]Block{block(""), block(""), block("x")}, Rules{}); err != nil ||
		m.Points[0]+m.Points[1] != 0 ||
		m.Points[2] != 1 {
		t.Errorf("the majority has the empty string: %v, %v", m.Points, err)
	}
}
