package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

// A compaction that replaces files while a snapshot links them makes the engine leave them out without an error.
func TestSnapshotWithoutFilesIsNotTaken(t *testing.T) {
	t.Parallel()
	s := enginetest.New(t.TempDir(), tsdb.InmemIndexName)
	s.EngineOptions.CompactionDisabled = true // the test compacts
	engine := enginetest.Engine(t, enginetest.Shard(t, enginetest.Open(t, s), 1))
	for i := range 2 {
		enginetest.Write(t, s, 1, fmt.Sprintf("m v=1 %d", i))
		enginetest.Flush(t, s.Shard(1))
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
