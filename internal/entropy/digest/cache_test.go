package digest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/tsmfile"
)

// cached is a shard with a cache of its digests.
type cached struct {
	store   *tsdb.Store
	cache   *digest.Cache
	deletes uint64
	dir     string
}

func newCached(t *testing.T) *cached {
	t.Helper()
	c := &cached{store: openStore(t), dir: t.TempDir()}
	if err := c.store.CreateShard("db", "rp", 1, true); err != nil {
		t.Fatal(err)
	}
	c.reopen(t)
	return c
}

func (c *cached) reopen(t enginetest.T) {
	var err error
	if c.cache, err = digest.OpenCache(c.dir); err != nil {
		t.Fatal(err)
	}
}

func (c *cached) file() string { return filepath.Join(c.dir, "1.digests") }

func (c *cached) write(t enginetest.T, lines string) {
	t.Helper()
	enginetest.Write(t, c.store, 1, lines)
}

func (c *cached) delete(t enginetest.T, name string, min, max int64) {
	cond := influxql.MustParseExpr(fmt.Sprintf("time >= %d AND time <= %d", min, max))
	c.deletes++
	if err := c.store.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: name}}, cond); err != nil {
		t.Fatal(err)
	}
}

func (c *cached) view(t enginetest.T) *digest.View {
	sh := c.store.Shard(1)
	v, err := c.cache.View(context.Background(), sh, key, shardRange, func() (digest.Stamp, error) {
		mod, err := sh.LastModifiedWithErr()
		if err != nil {
			return digest.Stamp{}, err
		}
		size, err := sh.DiskSize()
		return digest.Stamp{LastModified: mod.UnixNano(), Size: size, Deletes: c.deletes}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

type line struct {
	Series, Field string
	Type          digest.Type
	Windows       [digest.Windows]digest.Sum
}

func lines(out *[]line) func(*digest.SeriesField) error {
	return func(f *digest.SeriesField) error {
		*out = append(*out, line{string(f.Series), f.Field, f.Type, f.Windows})
		return nil
	}
}

// same fails unless a view has what the shard has.
func (c *cached) same(t enginetest.T) (read, reused int) {
	v := c.view(t)
	defer v.Close()
	for _, until := range []int64{math.MaxInt64, shardRange.Start + (shardRange.End-shardRange.Start)/3} {
		var want, got []line
		if err := digest.Compute(context.Background(), c.store.Shard(1), key, shardRange, until,
			lines(&want)); err != nil {
			t.Fatal(err)
		}
		if err := v.Each(context.Background(), until, lines(&got)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal("until ", until, ": the cache differs from the shard:\n", d)
		}
		root, err := digest.Root(context.Background(), c.store.Shard(1), key, shardRange, until)
		if err != nil || root != v.Root(until) {
			t.Fatal("until ", until, ": root ", v.Root(until), " want ", root, err)
		}
	}
	return v.Read, v.Reused
}

// A delete takes points out of the write cache, and no file changes.
func TestCacheSeesWhatLeavesTheWriteCache(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.write(t, fmt.Sprintf("a f0=1 %d", shardRange.Start))
	c.same(t)
	c.deletes++
	if err := c.store.DeleteMeasurement("db", "a"); err != nil {
		t.Fatal(err)
	}
	c.same(t)
}

// The engine does not see the first tombstones of a file for which it is asked while a delete writes them.
func TestCacheSeesTombstonesThatTheEngineDoesNot(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.write(t, fmt.Sprintf("a f0=1 %d\na f0=2 %d", shardRange.Start, shardRange.Start+1))
	engine, err := tsmfile.EngineOf(c.store.Shard(1))
	if err == nil {
		err = engine.WriteSnapshot()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.same(t)
	if err := engine.FileStore.Apply(func(f tsm1.TSMFile) error { // as deletes do
		batch := f.BatchDelete()
		first, _ := f.KeyRange()
		err := batch.DeleteRange([][]byte{first}, shardRange.Start, shardRange.Start)
		f.TombstoneStats()
		return errors.Join(err, batch.Commit())
	}); err != nil {
		t.Fatal(err)
	}
	c.deletes++
	c.same(t)
}

func TestCacheIsWhatTheShardHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c := newCached(t)
		defer c.store.Close()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{"a", "a\\ b", "m"}).Draw(rt, "measurement")
			switch rapid.SampledFrom(
				[]string{"write", "write", "write", "flush", "compact", "delete", "drop", "reopen", "look", "tear"},
			).Draw(rt, "step") {
			case "write":
				for range rapid.IntRange(1, 5).Draw(rt, "points") {
					c.write(rt, fmt.Sprintf("%s,h=%d f%d=%d %d",
						name, rapid.IntRange(0, 2).Draw(rt, "host"), rapid.IntRange(0, 1).Draw(rt, "field"),
						rapid.IntRange(0, 3).Draw(rt, "value"), shardRange.Start+rapid.Int64Range(0, 200).Draw(rt,
							"time")))
				}
			case "flush":
				if err := enginetest.Engine(t, c.store.Shard(1)).WriteSnapshot(); err != nil {
					rt.Fatal(err)
				}
			case "compact":
				if err := enginetest.Engine(t, c.store.Shard(1)).ScheduleFullCompaction(); err != nil {
					rt.Fatal(err)
				}
			case "delete":
				from := shardRange.Start + rapid.Int64Range(0, 200).Draw(rt, "from")
				c.delete(rt, name, from, from+rapid.Int64Range(0, 100).Draw(rt, "width"))
			case "drop":
				c.deletes++
				if err := c.store.DeleteMeasurement("db", name); err != nil {
					rt.Fatal(err)
				}
			case "reopen":
				c.reopen(rt)
			case "look":
				c.same(rt)
			case "tear":
				if b, err := os.ReadFile(c.file()); err == nil && len(b) > 0 {
					i := rapid.IntRange(0, len(b)-1).Draw(rt, "at")
					if rapid.Bool().Draw(rt, "cut") {
						b = b[:i]
					} else {
						b[i] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
					}
					if err := os.WriteFile(c.file(), b, 0o600); err != nil {
						rt.Fatal(err)
					}
					c.write(rt, fmt.Sprintf("a f0=1 %d", shardRange.Start)) // or a Stamp says that nothing changed
					c.reopen(rt)
				}
			}
		}
		c.same(rt)
	})
}

// After a small write the series-fields that it touched are read again, and nothing when nothing changed.
func TestCacheReadsWhatChanged(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	for h := range 50 {
		c.write(t,
			fmt.Sprintf("cpu,host=%02d usage=1,idle=2 %d\ncpu,host=%02d usage=3 %d", h, shardRange.Start, h,
				shardRange.End-1))
	}
	check := func(what string, read, reused int) {
		t.Helper()
		if r, u := c.same(t); r != read || u != reused {
			t.Errorf("%s: read %d series-fields and reused %d, want %d and %d", what, r, u, read, reused)
		}
	}
	flush := func() {
		t.Helper()
		enginetest.Flush(t, c.store.Shard(1))
	}
	check("first", 100, 0)
	flush()
	check("flushed", 100, 0)
	check("unchanged", 0, 100)
	c.reopen(t)
	check("unchanged, after a restart", 0, 100)
	c.write(t, fmt.Sprintf("cpu,host=07 idle=5 %d", shardRange.Start+1))
	check("a write", 1, 99)
	flush()
	check("its flush", 1, 99)
	c.reopen(t)
	check("after another restart", 0, 100)
	c.delete(t, "cpu", shardRange.End-1, shardRange.End-1)
	// A compaction of the file with tombstones would come a second later.
	enginetest.Engine(t, c.store.Shard(1)).SetCompactionsEnabled(false)
	check("a delete", 50, 50)
	c.write(t, fmt.Sprintf("mem,host=1 free=1i %d", shardRange.Start))
	check("another measurement", 1, 100)
}

// Of a series-field that a write, its flush or a file of a repair touched, the windows in which they have points are
// read again.
func TestCacheReadsWindowsThatChanged(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	width := (shardRange.End - shardRange.Start) / digest.Windows
	for w := range int64(digest.Windows) {
		c.write(t, fmt.Sprintf("m f=1 %d\nm f=2 %d", shardRange.Start+w*width, shardRange.Start+w*width+1))
	}
	flush := func() {
		t.Helper()
		enginetest.Flush(t, c.store.Shard(1))
	}
	check := func(what string, points uint64) {
		t.Helper()
		v := c.view(t)
		if v.Points != points {
			t.Errorf("%s: read %d points, want %d", what, v.Points, points)
		}
		v.Close()
		c.same(t)
	}
	check("first, in the write cache", 2*digest.Windows)
	flush()
	check("flushed", 2*digest.Windows)
	c.write(t, fmt.Sprintf("m f=5 %d", shardRange.Start+7*width+5))
	check("a write", 3)
	c.write(t, fmt.Sprintf("m f=5 %d", shardRange.Start+9*width))
	check("another one", 3+2)
	flush()
	check("their flush: one block that reaches over three windows", 3+2+2)
	c.reopen(t)
	check("unchanged, after a restart", 0)
	c.delete(t, "m", shardRange.Start+9*width, shardRange.Start+9*width)
	check("a delete", 2*digest.Windows)
	if err := enginetest.Engine(t, c.store.Shard(1)).ScheduleFullCompaction(); err != nil {
		t.Fatal(err)
	}
	c.write(t, fmt.Sprintf("m f=5 %d", shardRange.Start+9*width))
	c.deletes++
	if err := c.store.DeleteMeasurement("db", "m"); err != nil {
		t.Fatal(err)
	}
	c.write(t, fmt.Sprintf("m f=5 %d", shardRange.Start+9*width))
	c.same(t)
}

func TestCacheKeepsNoFileOfGoneShards(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.write(t, "m f=1 1")
	c.view(t).Close()
	for _, name := range []string{"7.digests", "x.digests", "1.digests.tmp"} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte("CNDG"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.reopen(t)
	if err := c.cache.Keep(func(id uint64) bool { return id == 1 }); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(c.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{c.file(), filepath.Join(c.dir, "x.digests")}, names); d != "" {
		t.Error(d)
	}
}

// A view stays as it is while the shard and the cache go on.
func TestViewIsPinned(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.write(t, fmt.Sprintf("m f=1 %d", shardRange.Start))
	v := c.view(t)
	defer v.Close()
	before := v.Root(math.MaxInt64)
	c.write(t, fmt.Sprintf("m f=2 %d\nn f=2 %d", shardRange.Start, shardRange.Start))
	c.same(t)
	var got []line
	if err := v.Each(t.Context(), math.MaxInt64, lines(&got)); err != nil || len(got) != 1 ||
		v.Root(math.MaxInt64) != before {
		t.Errorf("%d series-fields, %v", len(got), err)
	}
}

// Deletes that never end make the cache do without what it knows, and nothing else.
func TestCacheUnderDeletes(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.write(t, fmt.Sprintf("m f=1 %d", shardRange.Start))
	c.view(t).Close()
	var n uint64
	v, err := c.cache.View(t.Context(), c.store.Shard(1), key, shardRange, func() (digest.Stamp, error) {
		n++
		return digest.Stamp{LastModified: 1, Size: 1, Deletes: n}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if v.Read != 1 || v.Reused != 0 || v.Root(math.MaxInt64).Count != 1 {
		t.Errorf("read %d, reused %d, %d points", v.Read, v.Reused, v.Root(math.MaxInt64).Count)
	}
	v.Close()
	if names, err := os.ReadDir(c.dir); err != nil || len(names) != 1 {
		t.Errorf("files %v, %v: want the one of before", names, err)
	}
}

func BenchmarkCache(b *testing.B) {
	s := openStore(b)
	if err := s.CreateShard("db", "rp", 1, true); err != nil {
		b.Fatal(err)
	}
	const series, perSeries = 100, 100_000
	for h := range series {
		points := make([]models.Point, perSeries)
		tags := models.NewTags(map[string]string{"host": fmt.Sprint(h)})
		for i := range points {
			points[i] = models.MustNewPoint("cpu", tags, models.Fields{"v": float64(i%1000) / 4},
				time.Unix(0, int64(i)))
		}
		enginetest.WritePoints(b, s, 1, points...)
	}
	enginetest.Flush(b, s.Shard(1))
	c := &cached{store: s, dir: b.TempDir()}
	c.reopen(b)
	c.view(b).Close()
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			v := c.view(b)
			if v.Read != 0 || v.Root(math.MaxInt64).Count != series*perSeries {
				b.Fatal(v.Read)
			}
			v.Close()
		}
	})
	b.Run("after a small write", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			c.write(b, fmt.Sprintf("cpu,host=7 v=%d 5", i))
			v := c.view(b)
			if v.Read != 1 {
				b.Fatal(v.Read)
			}
			v.Close()
		}
	})
	b.Run("without", func(b *testing.B) {
		for b.Loop() {
			if _, err := digest.Root(context.Background(), s.Shard(1), key, shardRange, math.MaxInt64); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// When the digests were up to date last is known at once, also of those that an earlier process made.
func TestCacheTellsWhenItWasUpToDate(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	if at := c.cache.UpToDate(1); !at.IsZero() {
		t.Errorf("before the first look it was up to date at %s", at)
	}
	c.write(t, "m v=1 1")
	before := time.Now()
	c.view(t).Close()
	first := c.cache.UpToDate(1)
	if first.Before(before) || first.After(time.Now()) {
		t.Errorf("it was up to date at %s, not between %s and now", first, before)
	}
	c.view(t).Close() // nothing changed, and it was looked at again
	if second := c.cache.UpToDate(1); !second.After(first) {
		t.Errorf("the second look was at %s, the first one at %s", second, first)
	}
	c.reopen(t)
	if at := c.cache.UpToDate(1); at.IsZero() || at.After(time.Now()) {
		t.Errorf("after a restart it was up to date at %s", at)
	}
	if err := c.cache.Drop(1); err != nil {
		t.Fatal(err)
	}
	if at := c.cache.UpToDate(1); !at.IsZero() {
		t.Errorf("digests that were dropped were up to date at %s", at)
	}
}
