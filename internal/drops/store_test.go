package drops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/enginetest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/seriesindex"
	"concord/internal/writecache"
)

// The process ended in the engine when a database or a policy went away while one of its shards was being removed.
func TestDatabaseIsNotRemovedWhileAShardOfItIs(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"the database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
		"its policy": func(s *Store) error {
			if err := s.DeleteRetentionPolicy("db", "rp", 0); err != nil {
				return err
			}
			return s.DeleteDatabase("db", 0)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			for id := range uint64(6) {
				if err := s.CreateShard("db", "rp", id, true); err != nil {
					t.Fatal(err)
				}
				var points []models.Point // whose series take a while to remove
				for i := range 5000 {
					points = append(points, point(fmt.Sprint(i)))
				}
				enginetest.WritePoints(t, s, id, points...)
				removed := make(chan error, 1)
				go func() { removed <- s.DeleteShard(id) }()
				for s.Shard(id) != nil {
					runtime.Gosched()
				}
				if err := errors.Join(remove(s.Store), <-removed); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A shard that was made while its database or its policy was removed lost its files, and the process ended when it was
// removed.
func TestShardIsNotMadeWhileItsDatabaseIsRemoved(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"the database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
		"its policy":   func(s *Store) error { return s.DeleteRetentionPolicy("db", "rp", 0) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			makeShardsWhile(t, remove)
		})
	}
}

func makeShardsWhile(t *testing.T, remove func(*Store) error) {
	t.Helper()
	s := mustStore(t, tsdb.TSI1IndexName)
	id := uint64(0)
	create := func() {
		t.Helper()
		id++
		if err := s.CreateShard("db", "rp", id, true); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		for range 3 {
			create() // what takes a while to remove
		}
		first, removed := id+1, make(chan error, 1)
		go func() { removed <- remove(s.Store) }()
		for ended := false; !ended; {
			create()
			select {
			case err := <-removed:
				if ended = true; err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
		for i := first; i <= id; i++ {
			if s.Shard(i) == nil {
				continue // made before the database was removed
			}
			if _, err := os.Stat(s.Shard(i).Path()); err != nil {
				t.Errorf("a shard without its files: %v", err)
			}
			if err := s.DeleteShard(i); err != nil {
				t.Error(err)
			}
		}
	}
}

// A request to remove a database came to a node that hung, after the database had been made again through other nodes.
func TestWhatWasMadeAgainStays(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store, uint64) error{
		"a database": func(s *Store, next uint64) error { return s.DeleteDatabase("db", next) },
		"a policy":   func(s *Store, next uint64) error { return s.DeleteRetentionPolicy("db", "rp", next) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			for id := uint64(1); id <= 4; id++ {
				err := s.CreateShard("db", "rp", id, true)
				if err == nil {
					err = s.WriteToShard(tsdb.WriteContext{}, id, []models.Point{point(fmt.Sprint(id))})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CreateShard("other", "rp", 5, true); err != nil {
				t.Fatal(err)
			}
			for _, want := range []struct {
				next uint64
				left []uint64
			}{{3, []uint64{3, 4, 5}}, {3, []uint64{3, 4, 5}}, {6, []uint64{5}}} {
				if err := remove(s.Store, want.next); err != nil {
					t.Fatal(err)
				}
				left := s.ShardIDs()
				slices.Sort(left)
				if !slices.Equal(left, want.left) {
					t.Errorf("shards before %d are removed: %d are left, want %d", want.next, left, want.left)
				}
			}
		})
	}
}

// The index in memory and the shard waited for each other, and everything for the store.
func TestShardIsRemovedWhileItIsWrittenTo(t *testing.T) {
	t.Parallel()
	s := mustStore(t, tsdb.InmemIndexName)
	for id := range uint64(3) {
		if err := s.CreateShard("db", "rp", id, true); err != nil {
			t.Fatal(err)
		}
		series := 0
		write := func(n int) error {
			var points []models.Point
			for range n {
				series++
				points = append(points, point(fmt.Sprint(series)))
			}
			return s.writes.WriteToShard(tsdb.WriteContext{}, id, points)
		}
		if err := write(2000); err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		go func() {
			for {
				if err := write(10); err != nil {
					written <- err
					return
				}
			}
		}()
		removed := make(chan error, 1)
		go func() { removed <- s.DeleteShard(id) }()
		select {
		case err := <-removed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the shard is not removed")
		}
		if err := <-written; !errors.Is(err, tsdb.ErrShardNotFound) {
			t.Errorf("the last write ends with %v", err)
		}
	}
}

// A shard whose index of fields could not be written was closed only in part: the process ended when the series of its
// database were counted, and when it was dropped again.
func TestShardIsDroppedWhoseIndexOfFieldsCannotBeWritten(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"the database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
		"its policy":   func(s *Store) error { return s.DeleteRetentionPolicy("db", "rp", 0) },
		"the shard":    func(s *Store) error { return s.DeleteShard(1) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			mustStandInTheWay(t, s)
			if err := remove(s.Store); err != nil {
				t.Error(err)
			}
			if _, err := s.SeriesCardinality(t.Context(), "db"); err != nil {
				t.Errorf("the series cannot be counted: %v", err)
			}
		})
	}
}

// mustStandInTheWay makes a shard, and has a folder where the engine makes a file when it writes the index of fields.
func mustStandInTheWay(t *testing.T, s written) {
	t.Helper()
	err := s.CreateShard("db", "rp", 1, true)
	if err == nil {
		err = s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{point("a")})
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(s.Shard(1).Path(), "fields.idx.tmp", "x"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A shard that is closed only in part all the same ends nothing.
func TestShardThatCannotBeClosed(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"its database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
		"its policy":   func(s *Store) error { return s.DeleteRetentionPolicy("db", "rp", 0) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			mustStandInTheWay(t, s)
			if err := s.CreateShard("db", "rp", 2, true); err != nil {
				t.Fatal(err)
			}
			// Nor can the log of the index be removed.
			log := filepath.Join(s.Shard(1).Path(), "fields.idxl")
			if err := errors.Join(os.Remove(log), os.MkdirAll(filepath.Join(log, "x"), 0o755)); err != nil {
				t.Fatal(err)
			}
			if err := remove(s.Store); err == nil {
				t.Error("it was closed")
			}
			if _, err := s.SeriesCardinality(t.Context(), "db"); err == nil {
				t.Error("the series of a shard without an index are counted")
			}
			for _, again := range []func() error{
				func() error { return remove(s.Store) }, func() error { return s.DeleteShard(2) }, s.Store.Close,
			} {
				if err := again(); err == nil || !strings.Contains(err.Error(), "restart this node: ") {
					t.Errorf("later: %v", err)
				}
			}
		})
	}
}

// A delete writes the index of fields at its end, and a shard that was closed meanwhile was closed only in part.
func TestDatabaseIsDroppedWhileItsIndexesOfFieldsAreWritten(t *testing.T) {
	t.Parallel()
	s := mustStore(t, tsdb.TSI1IndexName)
	for id := range uint64(20) {
		if err := s.CreateShard("db", "rp", id, true); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteToShard(tsdb.WriteContext{}, id, []models.Point{point("a")}); err != nil {
			t.Fatal(err)
		}
		stop, ended := make(chan struct{}), make(chan struct{})
		sh := s.Shard(id)
		go func() {
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				default:
					fieldindex.Flush(sh) // fails when the shard is closed
				}
			}
		}()
		if err := s.DeleteDatabase("db", 0); err != nil {
			t.Error(err)
		}
		close(stop)
		<-ended
	}
}

// The last shard of many series is removed while they are written to another one.
func TestSeriesThatAnotherShardTakesOverStay(t *testing.T) {
	t.Parallel()
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			const series, batch = 10_000, 100
			s := mustStore(t, index)
			for id := range uint64(2) {
				if err := s.CreateShard("db", "rp", id, true); err != nil {
					t.Fatal(err)
				}
			}
			write := func(shard uint64) error {
				for i := 0; i < series; i += batch {
					var points []models.Point
					for j := range batch {
						points = append(points, point(fmt.Sprint(i+j)))
					}
					if err := s.writes.WriteToShard(tsdb.WriteContext{}, shard, points); err != nil {
						return err
					}
				}
				return nil
			}
			if err := write(0); err != nil {
				t.Fatal(err)
			}
			removed := make(chan error, 1)
			go func() { removed <- s.DeleteShard(0) }()
			if err := errors.Join(write(1), <-removed); err != nil {
				t.Fatal(err)
			}
			set, err := seriesindex.SetOf(s.Shard(1))
			if err != nil {
				t.Fatal(err)
			}
			alive := 0
			set.Indexes[0].SeriesIDSet().ForEach(func(id uint64) {
				if !set.SeriesFile.IsDeleted(id) {
					alive++
				}
			})
			keys, err := set.MeasurementSeriesKeysByExpr([]byte("m"), nil)
			if err != nil || alive != series || len(keys) != series {
				t.Errorf("of %d series %d are there, and %d are listed: %v", series, alive, len(keys), err)
			}
		})
	}
}

func point(series string) models.Point {
	return models.MustNewPoint("m", models.NewTags(map[string]string{"s": series}), models.Fields{"v": 1.0}, time.Unix(0, 1))
}

// written is a store, and the writes to it.
type written struct {
	*Store
	writes *writecache.Store
}

func mustStore(t *testing.T, index string) written {
	t.Helper()
	s := enginetest.New(t.TempDir(), index)
	thresholds := writecache.Prepare(&s.EngineOptions)
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	writes := writecache.Wrap(s, thresholds, zap.NewNop())
	dropped := New(s, writes.Hold)
	t.Cleanup(func() { dropped.Close() })
	t.Cleanup(func() { writes.Close() })
	return written{dropped, writes}
}
