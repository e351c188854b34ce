package writecache

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/enginetest"
	"concord/internal/entropy/tsmfile"
)

// What is written after a snapshot that failed stays, also when the node is started anew.
func TestWritesAfterAFailedSnapshotStay(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*tsdb.Shard) error{
		"the engine's snapshot": func(sh *tsdb.Shard) error {
			engine, err := tsmfile.EngineOf(sh)
			return errors.Join(err, engine.WriteSnapshot())
		},
		"the snapshot of this one": WriteSnapshot,
	} {
		s := mustOpen(t)
		mustWrite(t, s, point(1, 1), point(2, 1), point(2, 2))
		sh, engine := s.Shard(1), engineOf(t, s, 1)
		engine.Compactor.DisableSnapshots()
		if err := write(sh); err == nil {
			t.Fatal("a snapshot was written")
		}
		engine.Compactor.EnableSnapshots()
		newer := models.MustNewPoint("m", point(2, 2).Tags(), models.Fields{"v": 7.0}, time.Unix(0, 2))
		mustWrite(t, s, point(3, 1), newer)
		if err := write(sh); err != nil {
			t.Fatal(err)
		}
		if points(t, s, 1, 3) == 0 {
			t.Errorf("%s: what was written since is lost at once", name)
		}
		if err := errors.Join(sh.Close(), sh.Open()); err != nil {
			t.Fatal(err)
		}
		sh.SetEnabled(true)
		lost := points(t, s, 1, 3) == 0 || last(t, s, 2) != 7
		if old := name == "the engine's snapshot"; lost != old {
			t.Errorf("%s: written since is lost after a start: %t", name, lost)
		}
		if points(t, s, 1, 1) == 0 {
			t.Errorf("%s: what was written before is lost", name)
		}
	}
}

// Nothing is written to the folder of a shard while it is closed: it may be open anew by then.
func TestNoSnapshotIsWrittenWhileAShardIsClosed(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	if err := s.CreateShard("db", "rp", 2, true); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, point(1, 1))
	sh := s.Shard(1)
	release := BeforeClose(s.Shard(2), sh)
	if err := WriteSnapshot(sh); !errors.Is(err, tsm1.ErrSnapshotInProgress) {
		t.Errorf("a snapshot is written: %v", err)
	}
	err := sh.Close()
	release()
	if err := errors.Join(err, WriteSnapshot(sh)); !errors.Is(err, tsdb.ErrEngineClosed) {
		t.Errorf("a snapshot of a closed shard is written: %v", err)
	}
	if err := errors.Join(sh.Open(), WriteSnapshot(sh)); err != nil {
		t.Error(err)
	}
}

func mustWrite(t *testing.T, s *Store, points ...models.Point) {
	t.Helper()
	enginetest.WritePoints(t, s, 1, points...)
}

// last is the value of the last point of a series, as a query sees it.
func last(t *testing.T, s *Store, series int) (v float64) {
	t.Helper()
	e := engineOf(t, s, 1)
	key := tsm1.SeriesFieldKeyBytes(string(models.MakeKey([]byte("m"), point(series, 0).Tags())), "v")
	if values := e.Cache.Values(key); len(values) > 0 {
		return values[len(values)-1].Value().(float64)
	}
	cursor := e.KeyCursor(t.Context(), key, 0, true)
	defer cursor.Close()
	var buf []tsm1.FloatValue
	for got, err := cursor.ReadFloatBlock(&buf); len(got) > 0; got, err = cursor.ReadFloatBlock(&buf) {
		if err != nil {
			t.Fatal(err)
		}
		v = got[len(got)-1].Value().(float64)
		cursor.Next()
	}
	return v
}

// The cache of a shard is written when it has grown, and when nothing is written to it any more.
func TestCachesAreWrittenWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	endMonitor(s)
	cache := engineOf(t, s, 1).Cache
	if err := s.Shard(1).Free(); err != nil { // the shard was idle
		t.Fatal(err)
	}
	mustWrite(t, s, point(1, 1))
	now := time.Now()
	for _, tt := range []struct {
		name string
		of   Thresholds
		at   time.Time
		want bool
	}{
		{"small and warm", Thresholds{Size: 1000, Cold: time.Minute}, now, false},
		{"large", Thresholds{Size: 10, Cold: time.Minute}, now, true},
		{"cold", Thresholds{Size: 1000, Cold: time.Minute}, now.Add(2 * time.Minute), true},
	} {
		if got := tt.of.due(cache, tt.at); got != tt.want {
			t.Errorf("%s: due is %t", tt.name, got)
		}
	}
	s.thresholds = Thresholds{Size: 1000, Cold: time.Minute}
	s.writeDue(s.Shard(1), now.Add(2*time.Minute))
	if cache.Size() > 0 {
		t.Error("a cold cache was not written")
	}
	if (Thresholds{Size: 1, Cold: 1}).due(cache, now.Add(time.Hour)) {
		t.Error("an empty cache is due")
	}
}

// endMonitor leaves what the monitor does to the test.
func endMonitor(s *Store) {
	s.Close()
	s.done = make(chan struct{})
}

// A shard that was restored kept its lock for as long as its files came, and the caches of all others grew meanwhile.
func TestShardThatIsBusyKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	if err := s.CreateShard("db", "rp", 2, true); err != nil {
		t.Fatal(err)
	}
	endMonitor(s)
	mustWrite(t, s, point(1, 1))
	if err := s.WriteToShard(tsdb.WriteContext{}, 2, []models.Point{point(1, 1)}); err != nil {
		t.Fatal(err)
	}
	s.thresholds = Thresholds{Size: 1, Cold: time.Hour}
	from, to := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Shard(1).Restore(from, "") // holds the lock of the shard until the pipe is closed
	}()
	if _, err := to.Write([]byte{0}); err != nil { // it has it
		t.Fatal(err)
	}
	cache := engineOf(t, s, 2).Cache
	for range 2 {
		s.each("write", func(sh *tsdb.Shard) { s.writeDue(sh, time.Now()) })
		s.each("free", s.freeCold)
	}
	for began := time.Now(); cache.Size() > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("a cache is not written while another shard is busy")
		}
	}
	n := 0
	s.looks.Range(func(l, _ any) bool {
		if l.(look).shard == s.Shard(1) {
			n++
		}
		return true
	})
	if n != 2 {
		t.Errorf("%d looks at the busy shard wait for it, want one of each kind", n)
	}
	to.Close()
	<-ended
	s.wg.Wait()
}

// The engine does not write snapshots by itself, as they have to go through WriteSnapshot.
func TestPrepareTakesTheThresholds(t *testing.T) {
	t.Parallel()
	o := tsdb.NewEngineOptions()
	o.Config = tsdb.NewConfig()
	got := Prepare(&o)
	if want := (Thresholds{tsdb.DefaultCacheSnapshotMemorySize, tsdb.DefaultCacheSnapshotWriteColdDuration}); got != want {
		t.Errorf("thresholds are %+v, want %+v", got, want)
	}
	e := tsm1.Engine{Cache: tsm1.NewCache(0)}
	e.CacheFlushMemorySizeThreshold = uint64(o.Config.CacheSnapshotMemorySize)
	e.CacheFlushWriteColdDuration = time.Duration(o.Config.CacheSnapshotWriteColdDuration)
	if err := e.Cache.Write([]byte("key"), tsm1.Values{tsm1.NewValue(1, 1.0)}); err != nil {
		t.Fatal(err)
	}
	if e.ShouldCompactCache(time.Now().Add(1000 * time.Hour)) {
		t.Error("the engine writes a snapshot")
	}
}
