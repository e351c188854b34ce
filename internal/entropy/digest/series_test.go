package digest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine"
)

// Keys that do not fit into memory come in the same order as those that do.
func TestSeriesComeInOrderByWayOfAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := tsdb.NewStore(filepath.Join(dir, "data"))
	s.EngineOptions.Config = tsdb.NewConfig()
	s.EngineOptions.Config.WALDir = filepath.Join(dir, "wal")
	s.EngineOptions.IndexVersion = tsdb.TSI1IndexName
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.CreateShard("db", "rp", 1, true); err != nil {
		t.Fatal(err)
	}
	var points []models.Point
	var want []string
	for i := range 3000 {
		// Measurements of which one is the beginning of another, and order by whole keys.
		name := []string{"a", "a b", "a!", "ab"}[i%4]
		p := models.MustNewPoint(name, models.NewTags(map[string]string{"host": fmt.Sprint(i * 7919 % 3000)}),
			models.Fields{"v": 1.0}, time.Unix(0, 1))
		points, want = append(points, p), append(want, string(p.Key()))
	}
	slices.Sort(want)
	if err := s.WriteToShard(tsdb.WriteContext{}, 1, points); err != nil {
		t.Fatal(err)
	}
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

func mustOpened(t *testing.T, shard *tsdb.Shard) openShard {
	t.Helper()
	open, err := opened(shard)
	if err != nil {
		t.Fatal(err)
	}
	return open
}
