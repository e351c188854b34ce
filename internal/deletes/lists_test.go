package deletes

import (
	"errors"
	"fmt"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/tsdb"
)

// A delete runs until no series came or went meanwhile: the engine may have passed over others.
func TestDeleteRunsAgainWhenSeriesChange(t *testing.T) {
	t.Parallel()
	failed := errors.New("disk full")
	for _, tt := range []struct {
		name    string
		index   string
		changes int // runs during which a series comes
		err     error
		want    int
	}{
		{name: "none", index: tsdb.InmemIndexName, want: 1},
		{name: "one comes", index: tsdb.InmemIndexName, changes: 1, want: 2},
		{name: "they come all the time", index: tsdb.InmemIndexName, changes: 100, want: maxListings},
		{name: "the delete fails", index: tsdb.InmemIndexName, changes: 1, err: failed, want: 1},
		{name: "the index on disk", index: tsdb.TSI1IndexName, changes: 1, want: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := enginetest.Store(t, tt.index)
			mustWrite(t, s, "cpu,host=a v=1 1000")
			runs := 0
			err := overWholeLists(s, db, func() error {
				if runs++; runs <= tt.changes {
					mustWrite(t, s, fmt.Sprintf("cpu,host=b%d v=1 1000", runs))
				}
				return tt.err
			})
			if !errors.Is(err, tt.err) || runs != tt.want {
				t.Errorf("the delete ran %d times (%v), want %d", runs, err, tt.want)
			}
		})
	}
}
