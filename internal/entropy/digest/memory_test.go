package digest_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
	"github.com/influxdata/influxql"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
)

var manySeries = flag.Int("series", defaultSeries, "series of the shard in TestMemoryDoesNotGrowWithSeries")

// TestMemoryDoesNotGrowWithSeries digests a shard of very many series with few points, and writes and reads its
// cache: what that holds in memory at any moment is the same for any number of series. It is not parallel: it measures
// the heap.
func TestMemoryDoesNotGrowWithSeries(t *testing.T) {
	s := openManySeries(t, *manySeries)
	sh := s.Shard(1)
	want := uint64(3 * *manySeries)
	cache, err := digest.OpenCache(memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	view := func() *digest.View {
		v, err := cache.View(context.Background(), sh, key, shardRange, func() (digest.Stamp, error) {
			return digest.Stamp{LastModified: 1}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	// The sorter holds 16 MB, and half as much again while a slice grows; buffers are a few.
	const limit = 28 << 20
	for _, tt := range []struct {
		name string
		do   func()
	}{
		{"digest", func() {
			root, err := digest.Root(context.Background(), sh, key, shardRange, math.MaxInt64)
			if err != nil || root.Count != want {
				t.Fatalf("%d points, %v", root.Count, err)
			}
		}},
		{"cache written", func() {
			v := view()
			defer v.Close()
			if v.Read != *manySeries {
				t.Fatalf("read %d series-fields", v.Read)
			}
		}},
		{"cache read", func() {
			v := view()
			defer v.Close()
			n := 0
			if err := v.Each(context.Background(), math.MaxInt64, func(*digest.SeriesField) error {
				n++
				return nil
			}); err != nil || n != *manySeries || v.Read != 0 {
				t.Fatalf("%d series-fields, %d of them read, %v", n, v.Read, err)
			}
		}},
		{"cache brought up to date", func() {
			write(t, s, 1, "cpu,host=0000007", "v", 5, 1.0)
			enginetest.Flush(t, s.Shard(1))
			v, err := cache.View(context.Background(), sh, key, shardRange, func() (digest.Stamp, error) {
				return digest.Stamp{LastModified: 2}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if v.Read != 1 {
				t.Fatalf("read %d series-fields", v.Read)
			}
		}},
	} {
		start := time.Now()
		peak := heapPeak(tt.do)
		t.Logf("%s, %d series: %.1f MB at most, %v",
			tt.name, *manySeries, float64(peak)/1e6, time.Since(start).Round(time.Millisecond))
		if peak > limit {
			t.Errorf("%s: %d bytes are more than %d", tt.name, peak, limit)
		}
	}
}

// heapPeak is how far what lives in the heap grows while do runs, as each garbage collection finds it: the index
// of the shard is in memory, too, and between collections there is garbage in proportion to it.
func heapPeak(do func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5)) // for many looks
	runtime.GC()
	now := func() uint64 {
		m := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(m)
		return m[0].Value.Uint64()
	}
	before, most := now(), uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, now())
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	do()
	close(stop)
	<-done
	return max(most, before) - before
}

// openManySeries returns a store whose shard 1 has n series with three points each in one file.
func openManySeries(t testing.TB, n int) *tsdb.Store {
	t.Helper()
	s := enginetest.New(memDir(t), tsdb.TSI1IndexName)
	s.EngineOptions.MonitorDisabled = true
	e := enginetest.Engine(t, enginetest.Shard(t, enginetest.Open(t, s), 1))
	path := filepath.Join(e.Path(),
		tsm1.DefaultFormatFileName(e.FileStore.NextGeneration(), 1)+"."+tsm1.TSMFileExtension+"."+tsm1.TmpTSMFileExtension)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := tsm1.NewTSMWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	block, err := tsm1.Values{tsm1.NewValue(1, 1.0), tsm1.NewValue(2, 2.0), tsm1.NewValue(50_000, 3.0)}.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	known := e.MeasurementFieldSet().CreateFieldsIfNotExists([]byte("cpu"))
	if _, _, err := known.CreateFieldIfNotExists("v", influxql.Float); err != nil {
		t.Fatal(err)
	}
	if err := e.MeasurementFieldSet().WriteToFile(); err != nil {
		t.Fatal(err)
	}
	const batch = 10_000
	var keys, names [][]byte
	var tags []models.Tags
	for i := range n {
		k := fmt.Appendf(nil, "cpu,host=%07d", i)
		name, tag := models.ParseKeyBytes(k)
		keys, names, tags = append(keys, k), append(names, name), append(tags, tag)
		if err := w.WriteBlock(append(k[:len(k):len(k)], keyFieldSeparator+"v"...), 1, 50_000, block); err != nil {
			t.Fatal(err)
		}
		if len(keys) == batch || i == n-1 {
			if err := e.CreateSeriesListIfNotExists(keys, names, tags, tsdb.NoopStatsTracker()); err != nil {
				t.Fatal(err)
			}
			keys, names, tags = nil, nil, nil
		}
	}
	if err := w.WriteIndex(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // and of the file
		t.Fatal(err)
	}
	if err := e.FileStore.Replace(nil, []string{path}); err != nil {
		t.Fatal(err)
	}
	index, err := s.Shard(1).Index()
	if err != nil {
		t.Fatal(err)
	}
	index.(*tsi1.Index).Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = enginetest.Open(t, enginetest.Again(s)) // without what building it left in memory
	index, err = s.Shard(1).Index()
	if err != nil {
		t.Fatal(err)
	}
	index.(*tsi1.Index).Wait()
	return s
}
