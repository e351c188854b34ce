package drops

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine
	_ "github.com/influxdata/influxdb/tsdb/index"  // registers the indexes
)

// The process ended in the engine when a database or a policy went away while one of its shards was being removed.
func TestDatabaseIsNotRemovedWhileAShardOfItIs(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"the database": func(s *Store) error { return s.DeleteDatabase("db") },
		"its policy": func(s *Store) error {
			if err := s.DeleteRetentionPolicy("db", "rp"); err != nil {
				return err
			}
			return s.DeleteDatabase("db")
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t)
			for id := range uint64(6) {
				if err := s.CreateShard("db", "rp", id, true); err != nil {
					t.Fatal(err)
				}
				var points []models.Point // whose series take a while to remove
				for i := range 5000 {
					points = append(points, models.MustNewPoint("m", models.NewTags(map[string]string{"s": fmt.Sprint(i)}),
						models.Fields{"v": 1.0}, time.Unix(0, 1)))
				}
				if err := s.WriteToShard(tsdb.WriteContext{}, id, points); err != nil {
					t.Fatal(err)
				}
				removed := make(chan error, 1)
				go func() { removed <- s.DeleteShard(id) }()
				for s.Shard(id) != nil {
					runtime.Gosched()
				}
				if err := errors.Join(remove(s), <-removed); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func mustStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s := tsdb.NewStore(filepath.Join(dir, "data"))
	s.EngineOptions.Config = tsdb.NewConfig()
	s.EngineOptions.Config.Dir, s.EngineOptions.Config.WALDir = s.Path(), filepath.Join(dir, "wal")
	s.EngineOptions.IndexVersion = tsdb.TSI1IndexName
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return New(s)
}
