package writecache

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"
)

// mustOpen opens a store with shard 1.
func mustOpen(t testing.TB) *Store {
	t.Helper()
	return mustOpenWith(t, tsdb.TSI1IndexName)
}

func mustOpenWith(t testing.TB, index string) *Store {
	t.Helper()
	e := enginetest.New(t.TempDir(), index)
	thresholds := Prepare(&e.EngineOptions)
	if err := e.Open(); err != nil {
		t.Fatal(err)
	}
	s := Wrap(e, thresholds, zap.NewNop())
	t.Cleanup(func() {
		s.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.CreateShard("db", "rp", 1, true); err != nil {
		t.Fatal(err)
	}
	return s
}

func point(series int, at int64) models.Point {
	tags := models.NewTags(map[string]string{"s": fmt.Sprint(series)})
	return models.MustNewPoint("m", tags, models.Fields{"v": float64(at)}, time.Unix(0, at))
}

func engineOf(t *testing.T, s *Store, id uint64) *tsm1.Engine {
	t.Helper()
	return enginetest.Engine(t, s.Shard(id))
}

// points counts those of a series that a query sees.
func points(t *testing.T, s *Store, id uint64, series int) (n int) {
	t.Helper()
	e := engineOf(t, s, id)
	key := tsm1.SeriesFieldKeyBytes(fmt.Sprintf("m,s=%d", series), "v")
	n = e.Cache.Values(key).Len()
	cursor := e.KeyCursor(t.Context(), key, 0, true)
	defer cursor.Close()
	for {
		var buf []tsm1.FloatValue
		got, err := cursor.ReadFloatBlock(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return n
		}
		n += len(got)
		cursor.Next()
	}
}

// TestFirstWritesAtTheSameTimeAllStay has two writers of a new cache.
func TestFirstWritesAtTheSameTimeAllStay(t *testing.T) {
	t.Parallel()
	for range 20_000 {
		c := tsm1.NewCache(0)
		var both sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			both.Go(func() {
				allocate(c)
				if err := c.WriteMulti(map[string][]tsm1.Value{key: {tsm1.NewValue(1, 1.0)}}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if n := len(c.Keys()); n != 2 {
			t.Fatalf("%d of 2 writes are there", n)
		}
	}
}

// TestWritesStayWhenTheShardIsFreed writes to a shard that is cold again and again.
func TestWritesStayWhenTheShardIsFreed(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	const writers, writes = 4, 150
	done, freed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(freed)
		for {
			select {
			case <-done:
				return
			default:
			}
			s.freeCold(s.Shard(1))
		}
	}()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range writes {
				if err := s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{point(w, int64(i+1))}); err != nil {
					t.Error(err)
				}
				if w == 0 && i%3 == 0 {
					s.Shard(1).SetCompactionsEnabled(true)
					engineOf(t, s, 1).WriteSnapshot() // after it, the cache is empty
				}
			}
		})
	}
	all.Wait()
	close(done)
	<-freed
	for w := range writers {
		if n := points(t, s, 1, w); n != writes {
			t.Errorf("%d points of writer %d of %d", n, w, writes)
		}
	}
}

// TestColdShardIsFreed looks for the cache, which the engine does not have after that.
func TestColdShardIsFreed(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	if err := s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{point(1, 1)}); err != nil {
		t.Fatal(err)
	}
	s.freeCold(s.Shard(1))
	e := engineOf(t, s, 1)
	if e.Cache.Keys() == nil {
		t.Fatal("the cache is freed with a point in it")
	}
	if err := e.WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
	s.freeCold(s.Shard(1))
	if e.Cache.Keys() != nil {
		t.Error("the cache of a cold shard is not freed")
	}
	if err := s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{point(1, 2)}); err != nil {
		t.Fatal(err)
	}
	if n := points(t, s, 1, 1); n != 2 {
		t.Errorf("%d points, not 2", n)
	}
}

// TestCacheThatIsMarkedAndMissingIsAllocated has what is left when a cache is freed while it is allocated.
func TestCacheThatIsMarkedAndMissingIsAllocated(t *testing.T) {
	t.Parallel()
	for range 2000 {
		c := tsm1.NewCache(0)
		c.WriteMulti(nil)
		var both sync.WaitGroup
		both.Go(c.Free)
		both.Go(func() { c.WriteMulti(nil) })
		both.Wait()
		allocate(c)
		if c.Keys() == nil {
			t.Fatal("nothing keeps what is written")
		}
	}
}

// TestWritersOfACacheThatIsMissingAllStay has two writers that find out at the same time that nobody allocates their
// cache.
func TestWritersOfACacheThatIsMissingAllStay(t *testing.T) {
	t.Parallel()
	for range 20_000 {
		c := tsm1.NewCache(0)
		*(*uint32)(reflect.ValueOf(c).Elem().FieldByName("initializedCount").Addr().UnsafePointer()) = 1 // the mark
		var both sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			both.Go(func() {
				allocateAnew(c)
				if err := c.WriteMulti(map[string][]tsm1.Value{key: {tsm1.NewValue(1, 1.0)}}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if n := len(c.Keys()); n != 2 {
			t.Fatalf("%d of 2 writes are there", n)
		}
	}
}
