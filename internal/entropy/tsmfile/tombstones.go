package tsmfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// TombstonePath is the path of the tombstones of a TSM file.
func TombstonePath(tsm string) string {
	return strings.TrimSuffix(tsm, filepath.Ext(tsm)) + "." + tsm1.TombstoneFileExtension
}

// StatTombstones describes the tombstones of a TSM file as they are on disk. The result is zero when there are none.
// The engine's TombstoneStats may be wrong, as CheckTombstones has it.
func StatTombstones(tsm string) (tsm1.TombstoneStat, error) {
	path := TombstonePath(tsm)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return tsm1.TombstoneStat{}, nil
	case err != nil:
		return tsm1.TombstoneStat{}, err
	}
	return tsm1.TombstoneStat{
		TombstoneExists: true, Path: path, LastModified: info.ModTime().UnixNano(), Size: uint32(info.Size()),
	}, nil
}

// CheckTombstones has the engine find the tombstones that it has not seen. It is called after deletes. It fails when
// new readers of the shard are blocked: a delete then finds nothing to delete, and the engine does not say so.
//
// The engine (v1.13.2) remembers whether a file has tombstones. When anything asks it while the first delete in a file
// writes them, it remembers that there are none. A snapshot then lacks them, and has the deleted points. A compaction
// leaves them on disk.
func CheckTombstones(engine *tsm1.Engine) error {
	for _, listed := range engine.FileStore.Files() {
		file, err := engine.FileStore.TSMReader(listed.Path())
		switch {
		case err != nil:
			return err
		case file == nil:
			continue // it was compacted meanwhile
		}
		err = checkTombstonesOf(file)
		file.Unref()
		if err != nil {
			return err
		}
	}
	return nil
}

func checkTombstonesOf(file *tsm1.TSMReader) error {
	batch := file.BatchDelete() // until it ends, no delete writes tombstones of this file
	disk, err := StatTombstones(file.Path())
	if err == nil && disk.TombstoneExists && !file.TombstoneStats().TombstoneExists {
		// The engine forgets what it remembers when a delete begins. This one is not carried out.
		first, _ := file.KeyRange()
		from, to := file.TimeRange()
		err = batch.DeleteRange([][]byte{first}, from, to)
	}
	return errors.Join(err, batch.Rollback())
}
