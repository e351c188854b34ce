package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine"
	_ "github.com/influxdata/influxdb/tsdb/index"
	"go.uber.org/zap"

	"concord/internal/entropy/tsmfile"
)

// A compaction that replaces files while a snapshot links them makes the engine leave them out without an error.
func TestSnapshotWithoutFilesIsNotTaken(t *testing.T) {
	t.Parallel()
	s := tsdb.NewStore(t.TempDir())
	s.EngineOptions.Config.WALDir = t.TempDir()
	s.EngineOptions.CompactionDisabled = true // the test compacts
	if err := errors.Join(s.Open(), s.CreateShard("db", "rp", 1, true)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	engine, err := tsmfile.EngineOf(s.Shard(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		p := models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(int64(i), 0))
		err := s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{p})
		if err := errors.Join(err, engine.WriteSnapshot()); err != nil {
			t.Fatal(err)
		}
	}
	files := engine.FileStore.Files()
	var old []string
	for _, f := range files { // as the engine's CreateSnapshot does
		f.Ref()
		defer f.Unref()
		old = append(old, f.Path())
	}
	made, err := engine.Compactor.CompactFull(old, zap.NewNop(), tsdb.DefaultMaxPointsPerBlock)
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.FileStore.Replace(old, made); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := engine.FileStore.MakeSnapshotLinks(dir, files); err != nil {
		t.Fatal(err)
	}
	if got, _ := filepath.Glob(filepath.Join(dir, "*.tsm")); len(got) > 0 {
		t.Fatalf("the engine links %v: the check is not needed any more", got)
	}
	if err := complete(dir); !errors.Is(err, errReplaced) {
		t.Errorf("a snapshot without the files is taken: %v", err)
	}
	whole, err := Take(s, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(whole)
	if got, err := filepath.Glob(filepath.Join(whole, "*.tsm")); err != nil || len(got) != 1 {
		t.Errorf("a snapshot has %v, %v, want the new file", got, err)
	}
}
