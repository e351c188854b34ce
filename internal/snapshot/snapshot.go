// Package snapshot takes snapshots of shards: of their files, as they are at one moment.
package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
	"concord/internal/writecache"
)

const (
	wait = time.Minute // for somebody who writes the cache of the shard to a file, and for compactions
	poll = 50 * time.Millisecond
)

// errReplaced is for files that a compaction replaced while a snapshot was made of them.
var errReplaced = errors.New("compactions replace its files all the time: try again")

// Take makes a folder of links to the files of a shard and to their tombstones. What is in the write cache is in a file
// there, too. Whoever calls it removes the folder. Take waits for up to a minute while another one writes the cache to
// a file, or while compactions replace the files.
func Take(store *tsdb.Store, id uint64) (dir string, err error) {
	sh := store.Shard(id)
	if sh == nil {
		return "", tsdb.ErrShardNotFound
	}
	for end := time.Now().Add(wait); ; time.Sleep(poll) {
		dir, err = take(sh)
		busy := errors.Is(err, tsm1.ErrSnapshotInProgress) || errors.Is(err, errReplaced)
		if !busy || time.Now().After(end) {
			return dir, err
		}
	}
}

func take(sh *tsdb.Shard) (dir string, err error) {
	if err := writecache.WriteSnapshot(sh); err != nil {
		return "", fmt.Errorf("write the cache to a file: %w", err)
	}
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return "", err
	}
	if err := tsmfile.CheckTombstones(engine); err != nil {
		return "", fmt.Errorf("look for tombstones: %w", err)
	}
	if dir, err = engine.FileStore.CreateSnapshot(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errReplaced
		}
		return "", err
	}
	if err := complete(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// complete fails when the engine (v1.13.2) linked a file that a compaction replaced meanwhile. Its link has a name that
// nobody looks for, and what replaced it is not linked.
func complete(dir string) error {
	replaced, err := tsmfile.Glob(dir, "*."+tsm1.TSMFileExtension+"."+tsm1.TmpTSMFileExtension)
	if err == nil && len(replaced) > 0 {
		err = errReplaced
	}
	return err
}
