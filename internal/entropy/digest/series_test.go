package digest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// Keys that do not fit into memory come in the same order as those that do.
func TestSeriesComeInOrderByWayOfAFile(t *testing.T) {
	t.Parallel()
	s, want := storeOfSeries(t, 3000)
	slices.Sort(want)
	for _, limit := range []int{1, 1000, 10_000, runBytes} {
		var got []string
		if err := mustOpened(t, s.Shard(1)).eachSeries(t.Context(), limit, func(k []byte) error {
			got = append(got, string(k))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %d bytes: %d keys, want %d in order", limit, len(got), len(want))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := mustOpened(t, s.Shard(1)).eachSeries(ctx, runBytes, func([]byte) error { return nil })
	if err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// The engine makes room for just one more key when it appends one: a million would be copied for minutes.
func TestRunIsNotCopiedForEachKey(t *testing.T) {
	t.Parallel()
	s, _ := storeOfSeries(t, 3000)
	open := mustOpened(t, s.Shard(1))
	sorter := &keySorter{limit: runBytes}
	grew := 0
	for _, id := range open.index.SeriesIDSet().Slice() {
		had := cap(sorter.data)
		if err := sorter.add(open.sfile, id); err != nil {
			t.Fatal(err)
		}
		if cap(sorter.data) != had {
			grew++
		}
	}
	if len(sorter.ends) != 3000 || grew > 50 {
		t.Errorf("the run of %d keys was copied %d times", len(sorter.ends), grew)
	}
}

// storeOfSeries has a shard with series of measurements of which one is the beginning of another. They order by keys.
func storeOfSeries(t *testing.T, n int) (s *tsdb.Store, keys []string) {
	t.Helper()
	s = enginetest.Store(t, tsdb.TSI1IndexName)
	enginetest.Shard(t, s, 1)
	var points []models.Point
	for i := range n {
		name := []string{"a", "a b", "a!", "ab"}[i%4]
		p := models.MustNewPoint(name, models.NewTags(map[string]string{
			"host": fmt.Sprint(i * 7919 % n), "dc": "a", "rack": "b", "role": "c",
		}), models.Fields{"v": 1.0}, time.Unix(0, 1))
		points, keys = append(points, p), append(keys, string(p.Key()))
	}
	enginetest.WritePoints(t, s, 1, points...)
	return s, keys
}

func mustOpened(t *testing.T, shard *tsdb.Shard) openShard {
	t.Helper()
	open, err := opened(shard)
	if err != nil {
		t.Fatal(err)
	}
	return open
}
