package shardcopy

import (
	"bytes"
	"testing"
)

// A file that reaches into the range leaves without the blocks that do not.
func TestExportOfARangeHasItsBlocksAlone(t *testing.T) {
	t.Parallel()
	src := mustStore(t)
	mustWrite(t, src, 7, "m,host=a v=1 100\nm,host=b v=1 1000\nm,host=b v=2 1200\nm,host=c v=1 2000")
	for _, tt := range []struct {
		in   Range
		want int64 // series
	}{
		{Range{}, 3},
		{Range{1, 3000}, 3},
		{Range{1000, 1000}, 1}, // the block of b begins there
		{Range{1100, 1150}, 1}, // it reaches over the range
		{Range{1200, 2000}, 2}, // both ends count
		{Range{300, 900}, 0},   // between two blocks
		{Range{2001, 3000}, 0},
	} {
		var b bytes.Buffer
		if err := Export(src, 7, tt.in, &b); err != nil {
			t.Fatalf("%v: %v", tt.in, err)
		}
		dst := mustStore(t)
		if err := importInto(t, dst, 8, &b); err != nil {
			t.Fatalf("%v: %v", tt.in, err)
		}
		if got := series(t, dst, 8); got != tt.want {
			t.Errorf("%v: %d series, want %d", tt.in, got, tt.want)
		}
	}
}
