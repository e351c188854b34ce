package seriesindex_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/enginetest"
	"concord/internal/seriesindex"
)

// A process that is killed while it makes a shard leaves a folder without an index. Deletes run in its database all the
// same after the next start.
func TestShardThatWasBeingMadeHasTheIndexOfItsDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, wal := filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	open := func(index string) *tsdb.Store {
		t.Helper()
		return enginetest.Open(t, enginetest.New(dir, index))
	}
	mustMake := func(s *tsdb.Store, db string, id uint64) {
		t.Helper()
		if err := s.CreateShard(db, "rp", id, true); err != nil {
			t.Fatal(err)
		}
		enginetest.Write(t, s, id, "m v=1 1")
	}
	s := open(tsdb.InmemIndexName)
	mustMake(s, "inmem", 1)
	if err := s.CreateShard("inmem", "rp", 5, true); err != nil { // without points
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(tsdb.TSI1IndexName)
	mustMake(s, "db", 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	unfinished := []string{filepath.Join(data, "db", "rp", "3"), filepath.Join(data, "db", "rp", "4")}
	for i, shard := range unfinished {
		if err := os.MkdirAll(shard, 0o777); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // the folder of the log is made first
			if err := os.MkdirAll(filepath.Join(wal, "db", "rp", "3"), 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	// So may a process that is killed while it makes the file of series of a database.
	partition := filepath.Join(data, "new", tsdb.SeriesFileDirectory, "00")
	if err := errors.Join(os.MkdirAll(partition, 0o777), os.WriteFile(filepath.Join(data, "db", "rp", "6"), nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	made, err := seriesindex.BeforeOpen(data, wal)
	if slices.Sort(made); err != nil || !slices.Equal(made, unfinished) {
		t.Fatalf("made the index of %v, %v; want %v", made, err, unfinished)
	}
	if made, err := seriesindex.BeforeOpen(data, wal); err != nil || len(made) != 0 {
		t.Errorf("the second time it made the index of %v, %v", made, err)
	}
	s = open(tsdb.TSI1IndexName)
	if got := s.Shard(1).IndexType(); got != tsdb.InmemIndexName {
		t.Errorf("a shard with points has the index %q now", got)
	}
	sources := influxql.Sources{&influxql.Measurement{Name: "m"}}
	if err := s.DeleteSeries("db", sources, nil); err != nil {
		t.Error(err)
	}
}
