package seriesindex

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
)

// folder is that of the index tsi1 in a shard.
const folder = "index"

// BeforeOpen makes the folder of the index tsi1 in shards that were being made when the process ended, and returns
// their folders. Call it before the store opens, where new shards have that index.
//
// The engine takes a shard without the folder for one with the index inmem. In a database with both it refuses every
// delete (store.go of v1.13.2). Only shards without any points are changed: others may really have the index inmem.
func BeforeOpen(dataDir, walDir string) (made []string, err error) {
	shards, err := tsmfile.Glob(dataDir, "*", "*", "*")
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		if _, err := strconv.ParseUint(filepath.Base(shard), 10, 64); err != nil {
			continue
		}
		below, err := filepath.Rel(dataDir, shard)
		if err != nil {
			return made, err
		}
		switch unfinished, err := isUnfinished(shard, filepath.Join(walDir, below)); {
		case err != nil:
			return made, err
		case !unfinished:
			continue
		}
		if err := errors.Join(os.Mkdir(filepath.Join(shard, folder), 0o777), durable.SyncDir(shard)); err != nil {
			return made, err
		}
		made = append(made, shard)
	}
	return made, nil
}

// isUnfinished reports whether a shard has neither points nor the folder of an index.
func isUnfinished(shard, wal string) (bool, error) {
	files, err := os.ReadDir(shard)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		switch f.Name() {
		case "fields.idx", "fields.idxl": // names and types of fields, perhaps of points that were deleted
		default:
			return false, nil
		}
	}
	segments, err := os.ReadDir(wal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, s := range segments {
		if info, err := s.Info(); err != nil || info.Size() > 0 {
			return false, err
		}
	}
	return true, nil
}
