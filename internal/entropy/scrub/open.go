package scrub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
)

// BeforeOpen renames the TSM files under a data folder that the engine cannot open, and their tombstones, to .bad, and
// returns what is wrong with them, and with those that were renamed earlier, by shard. Call it before the store opens.
//
// The engine renames such a file, too, and then gives up the whole shard, sound files and all, until it is started
// again. As it gives up, readers of the shard's other files keep their tokens for opening files, one for each core, and
// the store waits for one forever. It trusts an index, and a zeroed one ends the process (file_store.go and reader.go
// of v1.13.2). Its own reader decides here, one file at a time.
func BeforeOpen(dataDir string) (map[uint64][]*tsmfile.Damage, error) {
	files, err := tsmfile.Glob(dataDir, "*", "*", "*", "*")
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	found := make(map[uint64][]*tsmfile.Damage)
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, path := range files {
		id, ok := shardOf(path)
		if !ok {
			continue
		}
		free <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-free }()
			d, err := beforeOpen(path)
			mu.Lock()
			defer mu.Unlock()
			if d != nil {
				found[id] = append(found[id], d)
			}
			errs = append(errs, err)
		}()
	}
	wg.Wait()
	for _, damage := range found {
		slices.SortFunc(damage, func(a, b *tsmfile.Damage) int { return strings.Compare(a.File, b.File) })
	}
	return found, errors.Join(errs...)
}

// shardOf is the shard whose file is at <data>/<database>/<policy>/<shard>/<file>.
func shardOf(path string) (uint64, bool) {
	dir := filepath.Dir(path)
	if filepath.Base(filepath.Dir(dir)) == tsdb.SeriesFileDirectory {
		return 0, false
	}
	id, err := strconv.ParseUint(filepath.Base(dir), 10, 64)
	return id, err == nil
}

func beforeOpen(path string) (*tsmfile.Damage, error) {
	switch filepath.Ext(path) {
	case badExt:
		return unopened(path), orphan(path)
	case tsmExt:
	default:
		return nil, nil
	}
	reason := cannotOpen(path)
	if reason == "" {
		return nil, nil
	}
	to, err := renameBad(path)
	if err == nil {
		err = orphan(to)
	}
	d := unopened(to)
	d.Reason = unopenedReason + ": " + reason // of the tombstones, perhaps
	return d, errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// orphan renames the tombstones of a file that was renamed: a new file with its name would take them for its own.
func orphan(bad string) error {
	tsm, _, ok := strings.Cut(filepath.Base(bad), tsmExt+".")
	if !ok {
		return nil
	}
	tsm = filepath.Join(filepath.Dir(bad), tsm)
	if _, err := os.Lstat(tsm + tsmExt); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := renameBad(tsm + tombstoneExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const unopenedReason = "the engine could not open it"

// unopened is the damage of a file that the engine could not open, and renamed.
func unopened(path string) *tsmfile.Damage {
	d := &tsmfile.Damage{File: filepath.Base(path), Offset: -1, Reason: unopenedReason}
	if reason := cannotOpen(path); reason != "" {
		d.Reason += ": " + reason
	}
	return d
}

// renameBad gives a file the name that the engine gives those that it cannot open, and another where there is such a
// file.
func renameBad(path string) (string, error) {
	if _, err := os.Lstat(path); err != nil {
		return "", err
	}
	to := path + badExt
	for i := 2; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, os.Rename(path, to)
		} else if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s.%d%s", path, i, badExt)
	}
}

// cannotOpen says why the engine would not open a file, and nothing when it would, or when the system has no room for
// it.
func cannotOpen(path string) (reason string) {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the disk may not be able to read it
	defer func() {
		if r := recover(); r != nil {
			reason = plain(path, fmt.Sprint(r))
			f.Close()
		}
	}()
	r, err := tsm1.NewTSMReader(f)
	if err == nil {
		r.Close()
		return ""
	}
	f.Close()
	if errors.Is(err, tsm1.MmapError{}) || errors.Is(err, syscall.ENOMEM) {
		return ""
	}
	return plain(path, err.Error())
}

// plain says in our words why a file cannot be opened, where its index is why: the engine speaks of its own code.
func plain(path, reason string) string {
	f, err := os.Open(path)
	if err != nil {
		return reason
	}
	defer f.Close()
	if d, err := eachBlock(f, func(block) error { return nil }); err == nil && d != nil {
		return d.Reason
	}
	return reason
}
