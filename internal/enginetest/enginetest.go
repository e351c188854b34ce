// Package enginetest has the storage engine of InfluxDB for tests: stores, and points for their shards.
package enginetest

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	_ "github.com/influxdata/influxdb/tsdb/index"

	"concord/internal/entropy/tsmfile"
)

// T is what both a test and a property of rapid are.
type T interface {
	Helper()
	Fatal(args ...any)
}

// New makes a store in the folders data and wal of dir. Its options can be changed until it is opened.
func New(dir, index string) *tsdb.Store {
	s := tsdb.NewStore(filepath.Join(dir, "data"))
	s.EngineOptions.Config.Dir, s.EngineOptions.Config.WALDir = s.Path(), filepath.Join(dir, "wal")
	s.EngineOptions.Config.Index, s.EngineOptions.IndexVersion = index, index
	return s
}

// Again makes a store in the folders of another one, which is closed, and with its options.
func Again(s *tsdb.Store) *tsdb.Store {
	next := tsdb.NewStore(s.Path())
	next.EngineOptions = s.EngineOptions
	return next
}

// Open opens a store, and closes it when the test ends.
func Open(t testing.TB, s *tsdb.Store) *tsdb.Store {
	t.Helper()
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Store opens an empty store for the time of the test.
func Store(t testing.TB, index string) *tsdb.Store {
	t.Helper()
	return Open(t, New(t.TempDir(), index))
}

// Shard makes an empty shard of the retention policy rp of the database db.
func Shard(t T, s *tsdb.Store, id uint64) *tsdb.Shard {
	t.Helper()
	if err := s.CreateShard("db", "rp", id, true); err != nil {
		t.Fatal(err)
	}
	return s.Shard(id)
}

// Engine is the engine of a shard.
func Engine(t T, sh *tsdb.Shard) *tsm1.Engine {
	t.Helper()
	e, err := tsmfile.EngineOf(sh)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Flush writes what the cache of a shard has to a file.
func Flush(t T, sh *tsdb.Shard) {
	t.Helper()
	if err := Engine(t, sh).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
}

// Points parses lines of line protocol.
func Points(t T, lines ...string) []models.Point {
	t.Helper()
	points, err := models.ParsePointsString(strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// Writer is a store, or what is before it.
type Writer interface {
	WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error
}

// Write writes lines of line protocol to a shard.
func Write(t T, s Writer, id uint64, lines ...string) {
	t.Helper()
	WritePoints(t, s, id, Points(t, lines...)...)
}

// WritePoints writes points to a shard.
func WritePoints(t T, s Writer, id uint64, points ...models.Point) {
	t.Helper()
	if err := s.WriteToShard(tsdb.WriteContext{}, id, points); err != nil {
		t.Fatal(err)
	}
}
