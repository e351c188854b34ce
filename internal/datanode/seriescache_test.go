package datanode

import (
	"fmt"
	"path/filepath"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
)

// openIndexed opens a store with the index on disk, which is configured as that of a data node, and an empty shard.
func openIndexed(t testing.TB, change func(*tsdb.Config)) (*tsdb.Store, tsdb.Index) {
	t.Helper()
	c, dir := NewConfig(), t.TempDir()
	c.Data.Dir, c.Data.WALDir = filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	s := tsdb.NewStore(c.Data.Dir)
	s.EngineOptions.Config, s.EngineOptions.IndexVersion = c.engine(), tsdb.TSI1IndexName
	change(&s.EngineOptions.Config)
	index, err := enginetest.Shard(t, enginetest.Open(t, s), 1).Index()
	if err != nil {
		t.Fatal(err)
	}
	return s, index
}

// seriesOf counts the series that have a value of the tag host.
func seriesOf(index tsdb.Index, value string) (n int, err error) {
	itr, err := index.TagValueSeriesIDIterator([]byte("m"), []byte("host"), []byte(value))
	if err != nil {
		return 0, err
	}
	defer itr.Close()
	for {
		e, err := itr.Next()
		if err != nil || e.SeriesID == 0 {
			return n, err
		}
		n++
	}
}

// A query by a tag value finds the series that were written while an earlier one read the index.
func TestQueriesFindSeriesOfWritesBesideOthers(t *testing.T) {
	t.Parallel()
	const values, each = 200, 8
	_, index := openIndexed(t, func(*tsdb.Config) {})
	write := func(value string, i int) error {
		tags := models.NewTags(map[string]string{"host": value, "i": fmt.Sprint(i)})
		key := models.MakeKey([]byte("m"), tags)
		return index.CreateSeriesIfNotExists(key, []byte("m"), tags, tsdb.StatsTracker{})
	}
	for v := range values {
		value := fmt.Sprint("h", v)
		if err := write(value, 0); err != nil {
			t.Fatal(err)
		}
		first := make(chan struct{})
		written := make(chan error, 1)
		go func() {
			for i := 1; i < each; i++ {
				if err := write(value, i); err != nil {
					written <- err
					return
				}
				if i == 1 {
					close(first)
				}
			}
			written <- nil
		}()
		<-first
		if _, err := seriesOf(index, value); err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if n, err := seriesOf(index, value); n != each || err != nil {
			t.Fatalf("a query for host = '%s' finds %d of %d series (%v)", value, n, each, err)
		}
	}
}

// The engine's cache of the series that have a tag value is off, whatever its settings are.
func TestSettingsOfSeriesCacheHaveNoEffect(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 100, 1000} {
		c := NewConfig()
		c.Data.SeriesIDSetCacheSize = size
		c.Data.SeriesIDSetCacheMaxSize, c.Data.SeriesIDSetCacheTargetHitRate = 2000, 0.9
		if err := c.Validate(); err != nil {
			t.Errorf("%d: %v", size, err)
		}
		e := c.engine()
		if e.SeriesIDSetCacheSize != 0 || e.SeriesIDSetCacheMaxSize != 0 || e.SeriesIDSetCacheTargetHitRate != 0 {
			t.Errorf("%d: the engine gets a cache of %d entries", size, e.SeriesIDSetCacheSize)
		}
	}
}

// BenchmarkSeriesOfTagValue is what the index costs a query by a tag value, without the engine's cache and with a
// value that is in the cache. There are 100,000 series in all.
func BenchmarkSeriesOfTagValue(b *testing.B) {
	const all = 100_000
	for name, size := range map[string]int{"cache=off": 0, "cache=on": 100} {
		b.Run(name, func(b *testing.B) {
			_, index := openIndexed(b, func(c *tsdb.Config) { c.SeriesIDSetCacheSize = size })
			for from := 0; from < all; from += 10_000 {
				var keys, names [][]byte
				var tags []models.Tags
				for i := from; i < from+10_000; i++ {
					host := fmt.Sprint("h", i)
					switch {
					case i%100 == 0:
						host = "few"
					case i%2 == 1:
						host = "many"
					}
					t := models.NewTags(map[string]string{"host": host, "i": fmt.Sprint(i)})
					keys = append(keys, models.MakeKey([]byte("m"), t))
					names, tags = append(names, []byte("m")), append(tags, t)
				}
				if err := index.CreateSeriesListIfNotExists(keys, names, tags, tsdb.StatsTracker{}); err != nil {
					b.Fatal(err)
				}
			}
			index.(*tsi1.Index).Wait()
			for value, want := range map[string]int{"few": all / 100, "many": all / 2} {
				b.Run(fmt.Sprint("series=", want), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if n, err := seriesOf(index, value); n != want || err != nil {
							b.Fatal(n, err)
						}
					}
				})
			}
		})
	}
}
