package replication

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/batch"
)

func TestPointsAndFieldsOfWritesAreCounted(t *testing.T) {
	t.Parallel()
	points, err := models.ParsePointsString("m a=1,b=2i,c=\"x\" 1\nm a=1 2\nm,t=1 a=1,b=2i 3")
	if err != nil {
		t.Fatal(err)
	}
	read := batch.Of(points)
	if read == nil {
		t.Fatal("the points are no batch")
	}
	defer read.Release()
	if a, b := valuesOf(read, points), valuesOf(nil, points); a != 6 || b != 6 {
		t.Errorf("the points have %d fields as a batch, and %d one by one, and not 6", a, b)
	}
	for _, c := range []struct {
		err            error
		points, values int64
	}{
		{nil, 3, 6},
		{tsdb.PartialWriteError{Dropped: 1}, 2, 4},
		{fmt.Errorf("wrapped: %w", tsdb.PartialWriteError{Dropped: 3}), 0, 0},
		{errors.New("timeout"), 0, 0},
	} {
		var w written
		w.count(3, 6, c.err)
		if p, v := w.points.Load(), w.values.Load(); p != c.points || v != c.values {
			t.Errorf("%v: %d points and %d fields, want %d and %d", c.err, p, v, c.points, c.values)
		}
	}
}

func TestAWriteThatSomeOwnersHaveIsPartial(t *testing.T) {
	t.Parallel()
	w := &Writer{outgoing: &outgoing{ownCopies: &ownCopies{Deps: Deps{WriteTimeout: time.Minute}}}}
	value := func(field string) int64 { return w.Statistics(nil)[0].Values[field].(int64) }
	for i, results := range [][]result{
		{{}, {err: errors.New("away")}, {}},
		{{err: errors.New("away")}, {err: errors.New("away")}, {err: errors.New("away")}},
	} {
		in := make(chan result, len(results))
		for _, r := range results {
			in <- r
		}
		if err := w.decide(models.ConsistencyLevelAll, in, len(results)); err == nil {
			t.Fatal("the write succeeds")
		}
		if got := value("writePartial"); got != 1 || value("writeError") != int64(i+1) {
			t.Errorf("writePartial is %d and writeError %d after %d writes", got, value("writeError"), i+1)
		}
	}
}
