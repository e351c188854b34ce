package fulldisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"concord/internal/drops"
	"concord/internal/enginetest"
	"concord/internal/writecache"
)

const shard = 7

// mustOpen opens the engine's store in dir, with ours over it.
func mustOpen(t *testing.T, dir string) *Store {
	t.Helper()
	e := enginetest.New(dir, tsdb.TSI1IndexName)
	thresholds := writecache.Prepare(&e.EngineOptions)
	if err := e.Open(); err != nil {
		t.Fatal(err)
	}
	folders := []string{e.Path(), e.EngineOptions.Config.WALDir}
	writes := writecache.Wrap(e, thresholds, zap.NewNop())
	s := New(writes, drops.New(e, writes.Hold), folders, Free, zap.NewNop())
	t.Cleanup(func() { mustClose(t, s) })
	return s
}

// mustClose closes both; a second time does nothing.
func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := errors.Join(s.Close(), s.Store.Close(), s.Store.Store.Close()); err != nil {
		t.Error(err)
	}
}

// write writes the points [from, to) of a series.
func write(t *testing.T, s *Store, series string, from, to int) error {
	t.Helper()
	var lines []byte
	for i := from; i < to; i++ {
		lines = fmt.Appendf(lines, "m,s=%s v=%d %d\n", series, i*7919%1000, i)
	}
	points, err := models.ParsePoints(lines)
	if err != nil {
		t.Fatal(err)
	}
	return s.WriteToShard(tsdb.WriteContext{}, shard, points)
}

// count is how many points a query finds.
func count(t *testing.T, s *Store) (n int) {
	t.Helper()
	itr, err := s.Shard(shard).CreateIterator(context.Background(), &influxql.Measurement{Name: "m"}, query.IteratorOptions{
		Expr: &influxql.VarRef{Val: "v"}, StartTime: influxql.MinTime, EndTime: influxql.MaxTime, Ascending: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if itr == nil {
		return 0
	}
	defer itr.Close()
	for {
		p, err := itr.(query.FloatIterator).Next()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return n
		}
		n++
	}
}

// await waits until ok, for half a minute.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.After(30 * time.Second); !ok(); {
		select {
		case <-end:
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestWritesBehindATornWALSegmentOutliveTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	if err := write(t, s, "a", 0, 10); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "db", "rp", "7", "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	whole, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	torn := append(whole, whole[:len(whole)/2]...) // the beginning of one more entry
	if err := os.WriteFile(segments[0], torn, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	if err := write(t, s, "a", 10, 20); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if n := count(t, mustOpen(t, dir)); n != 20 {
		t.Errorf("%d points of 20", n)
	}
}

func TestWritesAreRefusedBeforeTheDiskIsFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		free, total uint64
		full        bool
	}{
		{100 << 20, 1 << 40, false},
		{63 << 20, 1 << 40, true},
		{2 << 20, 100 << 20, false}, // a small disk
		{1<<20 - 1, 100 << 20, true},
	} {
		s := mustOpen(t, t.TempDir())
		if err := s.CreateShard("db", "rp", shard, true); err != nil {
			t.Fatal(err)
		}
		s.free = func(string) (uint64, uint64, error) { return tt.free, tt.total, nil }
		if err := write(t, s, "a", 0, 1); errors.Is(err, ErrFull) != tt.full || (err != nil) != tt.full {
			t.Errorf("%d of %d bytes are free: %v", tt.free, tt.total, err)
		}
		if n := count(t, s); (n == 0) != tt.full {
			t.Errorf("%d of %d bytes are free: %d points", tt.free, tt.total, n)
		}
		if err := s.CreateShard("db", "rp", shard+1, true); errors.Is(err, ErrFull) != tt.full ||
			(err != nil) != tt.full {
			t.Errorf("%d of %d bytes are free: shard: %v", tt.free, tt.total, err)
		}
	}
}

// small mounts a file system in memory, and returns what fills it and makes space again.
func small(t *testing.T) (dir string, fill, empty func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("needs a file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	fill = func() {
		free, _, err := Free(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(free)-8<<10); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, func() { os.Remove(ballast) }
}

// The disk becomes full under the engine, faster than the reserve tells.
func TestShardGoesOnOnceThereIsSpace(t *testing.T) {
	t.Parallel()
	dir, fill, empty := small(t)
	s := mustOpen(t, dir)
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	if err := write(t, s, "a", 0, 10); err != nil {
		t.Fatal(err)
	}
	var free atomic.Uint64
	free.Store(1 << 40)
	s.free = func(string) (uint64, uint64, error) { return free.Load(), 1 << 40, nil }
	fill()
	var err error
	for i := 10; err == nil && i < 1_000_000; i += 1000 {
		err = write(t, s, "a", i, i+1000)
	}
	if !full(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
	free.Store(0) // or the shard would be opened anew while the test still looks at it
	known := count(t, s)
	if err := write(t, s, "a", 0, 1); !errors.Is(err, ErrFull) {
		t.Errorf("write to a shard that waits for space: %v", err)
	}
	if err, other := s.Ready("db"), s.Ready("other"); !errors.Is(err, ErrFull) || other != nil {
		t.Errorf("deletes may run in its database: %v; in another one: %v", err, other)
	}
	empty()
	free.Store(1 << 40)
	await(t, "a write succeeds", func() bool { return write(t, s, "b", 0, 10) == nil })
	if err := s.Ready("db"); err != nil {
		t.Errorf("no delete may run once the shard is open: %v", err)
	}
	n := count(t, s)
	if n < 20 || n > known+10 {
		t.Errorf("%d points", n)
	}
	mustClose(t, s)
	if got := count(t, mustOpen(t, dir)); got != n {
		t.Errorf("%d points of %d after a start", got, n)
	}
}

// A full disk is made empty by dropping what is not needed.
func TestDatabaseIsDroppedOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, fill, _ := small(t)
	s := mustOpen(t, dir)
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	wide := []byte("m f=1") // its index of fields does not fit in what fill leaves
	for i := range 5000 {
		wide = fmt.Appendf(wide, ",f%d=1", i)
	}
	points, err := models.ParsePoints(wide)
	if err == nil {
		err = s.WriteToShard(tsdb.WriteContext{}, shard, points)
	}
	if err != nil {
		t.Fatal(err)
	}
	fill()
	if err := s.drops.DeleteDatabase("db", 0); err != nil {
		t.Fatal(err)
	}
	if left := s.ShardIDs(); len(left) != 0 {
		t.Errorf("shards %d are left", left)
	}
}

// A shard that could be closed and not opened, as the disk was full again, ended the process at the next try.
func TestShardThatIsClosedIsOpened(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	if err := write(t, s, "a", 0, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.drops.CloseShard(s.Shard(shard)); err != nil {
		t.Fatal(err)
	}
	s.setShut(s.Shard(shard), true)
	for range 2 {
		if err := s.reopen(shard); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, s); n != 10 {
		t.Errorf("%d points of 10", n)
	}
}

// A delete found nothing in a shard that waited for its queries to be opened anew, and succeeded.
func TestNoDeleteRunsWhileAShardIsOpenedAnew(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	if err := write(t, s, "a", 0, 10); err != nil {
		t.Fatal(err)
	}
	e, err := s.Shard(shard).Engine()
	if err != nil {
		t.Fatal(err)
	}
	files := e.(*tsm1.Engine).FileStore
	if err := e.(*tsm1.Engine).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
	query, err := files.TSMReader(files.Files()[0].Path())
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() { opened <- s.reopen(shard) }()
	await(t, "readers are blocked", func() bool { used, _ := files.InUse(); return used })
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.drops.BeginDelete(now, "db"); err == nil {
		t.Error("a delete begins although readers are blocked")
	}
	query.Unref()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	end, err := s.drops.BeginDelete(now, "db")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	s.stop() // nothing is waited for
	if err := s.reopen(shard); err == nil {
		t.Error("a shard is opened anew while a delete runs")
	}
	if n := count(t, s); n != 10 {
		t.Errorf("%d points of 10", n)
	}
}

// What the engine does with a shard that is gone ended the process.
func TestShardIsDroppedWhileItWaitsForSpace(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	if err := s.CreateShard("db", "rp", shard, true); err != nil {
		t.Fatal(err)
	}
	sh := s.Shard(shard)
	if err := s.drops.DeleteShard(shard); err != nil {
		t.Fatal(err)
	}
	if err := s.drops.Alone(t.Context(), sh, sh.Open); !errors.Is(err, tsdb.ErrShardNotFound) {
		t.Errorf("a shard that is gone is opened: %v", err)
	}
	if err := s.reopen(shard); err != nil {
		t.Error(err)
	}
}
