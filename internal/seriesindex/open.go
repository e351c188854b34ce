package seriesindex

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
)

// folder is that of the index tsi1 in a shard.
const folder = "index"

// BeforeOpen makes the folder of the index tsi1 in shards that were being made when the process ended, and returns
// their folders. Call it before the store opens, where new shards have that index.
//
// The engine takes a shard without the folder for one with the index inmem. In a database with both it refuses every
// delete (store.go of v1.13.2). Shards that have points really have the index inmem, and stay as they are. So do the
// others of their database.
func BeforeOpen(dataDir, walDir string) (made []string, err error) {
	shards, err := tsmfile.Glob(dataDir, "*", "*", "*")
	if err != nil {
		return nil, err
	}
	unfinished, inmem := make(map[string][]string), make(map[string]bool) // by database
	for _, shard := range shards {
		policy := filepath.Dir(shard)
		if filepath.Base(policy) == tsdb.SeriesFileDirectory {
			continue
		}
		if _, err := strconv.ParseUint(filepath.Base(shard), 10, 64); err != nil {
			continue
		}
		below, err := filepath.Rel(dataDir, shard)
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(shard); err != nil || !info.IsDir() {
			continue // the engine says what it does not like
		}
		db := filepath.Dir(policy)
		switch state, err := stateOf(shard, filepath.Join(walDir, below)); {
		case err != nil:
			return nil, err
		case state == isUnfinished:
			unfinished[db] = append(unfinished[db], shard)
		case state == isInmem:
			inmem[db] = true
		}
	}
	for db, shards := range unfinished {
		if inmem[db] {
			continue
		}
		for _, shard := range shards {
			if err := errors.Join(os.Mkdir(filepath.Join(shard, folder), 0o777), durable.SyncDir(shard)); err != nil {
				return made, err
			}
			made = append(made, shard)
		}
	}
	return made, nil
}

// state is what the folder of a shard shows of its index.
type state int

const (
	isUnfinished state = iota // it has neither points nor the folder of an index
	isInmem                   // it has points alone
	isTSI1                    // it has the folder
)

func stateOf(shard, wal string) (state, error) {
	files, err := os.ReadDir(shard)
	if err != nil {
		return 0, err
	}
	found := isUnfinished
	for _, f := range files {
		switch f.Name() {
		case folder:
			return isTSI1, nil
		case "fields.idx", "fields.idxl": // names and types of fields, perhaps of points that were deleted
		default:
			found = isInmem
		}
	}
	segments, err := os.ReadDir(wal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, s := range segments {
		info, err := s.Info()
		if err != nil {
			return 0, err
		}
		if info.Size() > 0 {
			found = isInmem
		}
	}
	return found, nil
}
