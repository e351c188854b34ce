package fieldindex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/durable"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
	"concord/internal/seriesindex"
)

// Rebuilt is an index of fields that was written anew from the data files of its shard.
type Rebuilt struct {
	Shard     uint64
	Reason    string   // why the engine could not use it
	Kept      string   // folder with the files that it replaces
	Conflicts []string // fields whose values have several types; which type each has now
	Err       error    // the index could not be rebuilt or, without a reason, not verified
}

// Folders are where the shards of a node are.
type Folders struct {
	Data, WAL string
	Aside     string // in which a folder is made for what is replaced
}

// Start is the start of a node, from before its store opens until the store is open.
type Start struct {
	Folders
	Rebuilt []Rebuilt

	logged map[uint64]bool // shards that had a log, as those that were not closed have
}

// BeforeOpen rebuilds the index of fields of each shard whose index the engine would not load as a whole. Call it
// before the store opens, and after scrub.BeforeOpen. In a shard that was closed properly it reads one small file,
// and the headers of the entries in the log of writes.
func BeforeOpen(f Folders) (*Start, error) {
	dirs, err := f.shards("*")
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	s := &Start{Folders: f, logged: make(map[uint64]bool)}
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	for id, dir := range dirs {
		free <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-free }()
			_, err := os.Lstat(filepath.Join(dir, logName))
			r, done := f.beforeOpen(id, dir)
			mu.Lock()
			defer mu.Unlock()
			s.logged[id] = err == nil
			if done {
				s.Rebuilt = append(s.Rebuilt, r)
			}
		}()
	}
	wg.Wait()
	slices.SortFunc(s.Rebuilt, func(a, b Rebuilt) int { return cmp.Compare(a.Shard, b.Shard) })
	return s, nil
}

// shards are the folders of the shards under the data folder whose ID matches a pattern.
func (f Folders) shards(pattern string) (map[uint64]string, error) {
	paths, err := tsmfile.Glob(f.Data, "*", "*", pattern)
	if err != nil {
		return nil, err
	}
	out := make(map[uint64]string)
	for _, path := range paths {
		id, err := strconv.ParseUint(filepath.Base(path), 10, 64)
		if err == nil && id > 0 && filepath.Base(filepath.Dir(path)) != tsdb.SeriesFileDirectory {
			out[id] = path
		}
	}
	return out, nil
}

func (f Folders) shard(dir string) closedShard {
	policy := filepath.Dir(dir)
	return closedShard{
		dir:    dir,
		walDir: filepath.Join(f.WAL, filepath.Base(filepath.Dir(policy)), filepath.Base(policy), filepath.Base(dir)),
	}
}

func (f Folders) beforeOpen(id uint64, dir string) (Rebuilt, bool) {
	r := Rebuilt{Shard: id}
	if err := os.Remove(filepath.Join(dir, tornName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Err = err
		return r, true
	}
	if r.Reason, r.Err = f.reason(dir); r.Reason == "" && r.Err == nil {
		return r, false
	}
	if r.Err == nil {
		r.Kept, r.Conflicts, r.Err = f.rebuild(id, dir)
	}
	return r, true
}

// reason is why the engine would not load the index of fields of a shard, empty when it would.
func (f Folders) reason(dir string) (string, error) {
	shard := f.shard(dir)
	if other, err := shard.otherWrites(); err != nil {
		return "", err
	} else if len(other) > 0 {
		return "the log of writes has values of two types of one field of a series", nil
	}
	empty, reason, err := replay(dir)
	if reason != "" || err != nil || !empty || shard.inmem() {
		return reason, err
	}
	// The engine makes an index with tsi1 from the data files then, and cannot when a field has values of two types.
	// An index with inmem is made from them each time; AfterOpen sees to it.
	have, err := shard.types()
	if err != nil {
		return "", err
	}
	return strings.Join(have.conflicts(), "; "), nil
}

// rebuild writes fields.idx from the data files. What it replaces is kept first.
//
// A crash at any point leaves files with which the next start rebuilds the index again, or that hide nothing:
// fields.idx is complete before the log is removed.
func (f Folders) rebuild(id uint64, dir string) (kept string, conflicts []string, err error) {
	fail := func(err error) (string, []string, error) {
		return kept, conflicts, fmt.Errorf("rebuild the index of fields of shard %d: %w", id, err)
	}
	shard := f.shard(dir)
	kept = filepath.Join(f.Aside, fmt.Sprintf("%d-%s", id, time.Now().UTC().Format("20060102T150405.000000000Z")))
	if err := os.MkdirAll(kept, 0o750); err != nil {
		return fail(err)
	}
	other, err := shard.otherWrites()
	if err == nil && len(other) > 0 {
		err = shard.repairWAL(other, kept)
	}
	if err != nil {
		return fail(err)
	}
	have, err := shard.types()
	if err != nil {
		return fail(err)
	}
	for _, name := range []string{indexName, logName} {
		if err := scrub.Keep(filepath.Join(dir, name), kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
	}
	if err := durable.SyncDir(f.Aside); err != nil {
		return fail(err)
	}
	if conflicts = have.conflicts(); len(conflicts) > 0 {
		if err := shard.removeOthers(have, kept); err != nil {
			return fail(err)
		}
	}
	if err := write(dir, have); err != nil {
		return fail(err)
	}
	if err := os.Remove(filepath.Join(dir, logName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return fail(err)
	}
	return kept, conflicts, nil
}

// removeOthers deletes the values whose type is not the one that their field gets, and keeps the files that they are
// in.
func (s closedShard) removeOthers(have types, kept string) error {
	err := s.eachTSM(func(r *tsm1.TSMReader) error {
		var keys [][]byte
		have.others(func(yield func([]byte, influxql.DataType)) {
			for i, n := 0, r.KeyCount(); i < n; i++ {
				key, block := r.KeyAt(i)
				yield(key, tsm1.BlockTypeToInfluxQLDataType(block))
			}
		}, func(key []byte) { keys = append(keys, key) })
		if len(keys) == 0 {
			return nil
		}
		if err := scrub.Keep(r.Path(), kept); err != nil {
			return err
		}
		if err := scrub.Keep(tsmfile.TombstonePath(r.Path()), kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return r.Delete(keys)
	})
	if err != nil {
		return err
	}
	cache, err := s.cache()
	if err != nil || cache == nil {
		return err
	}
	var keys [][]byte
	have.others(func(yield func([]byte, influxql.DataType)) {
		for _, key := range cache.Keys() {
			yield(key, cachedType(cache, key))
		}
	}, func(key []byte) { keys = append(keys, key) })
	if len(keys) == 0 {
		return nil
	}
	files, err := s.walFiles()
	if err != nil {
		return err
	}
	for _, path := range files {
		// The engine appends to the last one: a copy does not change with it.
		if err := scrub.Copy(path, kept); err != nil {
			return err
		}
	}
	wal := tsm1.NewWAL(s.walDir)
	if err := wal.Open(); err != nil {
		return err
	}
	_, err = wal.DeleteRange(keys, math.MinInt64, math.MaxInt64)
	return errors.Join(err, wal.Close())
}

// AfterOpen opens the shards that the engine could not open because a field has two types, after it rebuilt their
// index. In open shards it makes visible what earlier versions left hidden. Call it when the store is open, and
// before anything else uses it.
func (s *Start) AfterOpen(store *tsdb.Store) {
	bad := store.GetBadShardList()
	for _, id := range slices.Sorted(maps.Keys(bad)) {
		if errors.Is(bad[id], tsdb.ErrFieldTypeConflict) && store.Shard(id) == nil {
			s.Rebuilt = append(s.Rebuilt, s.reopen(store, id, bad[id]))
		}
	}
	for _, sh := range store.Shards(store.ShardIDs()) {
		r := Rebuilt{Shard: sh.ID()}
		hidden, err := hiddenAtOpen(sh)
		if err == nil && len(hidden) > 0 {
			hidden, r.Conflicts, err = Heal(context.Background(), sh, hidden)
		}
		if err == nil && s.logged[sh.ID()] {
			err = forgetDropped(sh)
		}
		if r.Err = err; len(hidden) > 0 || err != nil {
			r.Reason = Reasons(hidden)
			s.Rebuilt = append(s.Rebuilt, r)
		}
	}
}

// Reasons is the text of what is hidden, with no more than some of many measurements.
func Reasons(hidden []Hidden) string {
	const most = 5
	var out []string
	for _, h := range hidden[:min(len(hidden), most)] {
		out = append(out, h.String())
	}
	if n := len(hidden) - most; n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(out, "; ")
}

// hiddenAtOpen returns the measurements of a shard that its index of series has, and its index of fields does not,
// and those of which the cache has fields that the index has not, or as another type. A query of such a field could
// end the process. It reads no data file. An index with inmem was made from the files as the shard was opened.
func hiddenAtOpen(sh *tsdb.Shard) (out []Hidden, err error) {
	set := fieldSet(sh)
	if set == nil || sh.IndexType() == tsdb.InmemIndexName {
		return nil, nil
	}
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	w := newWalker(context.Background(), engine)
	for _, key := range engine.Cache.Keys() {
		if err := w.key(key, cachedType(engine.Cache, key)); err != nil {
			return nil, err
		}
	}
	err = sh.ForEachMeasurementName(func(name []byte) error {
		if f := set.Fields(name); f == nil || f.FieldN() == 0 {
			w.hidden[string(name)] = "the index of fields does not have it"
		}
		return nil
	})
	return w.found(), err
}

// forgetDropped removes measurements from the index of fields of which the shard has no series and no value: a crash
// came between a delete and the write of the index. A write of another type to one of their fields would be refused.
func forgetDropped(sh *tsdb.Shard) error {
	set := fieldSet(sh)
	if set == nil {
		return nil
	}
	index, err := seriesindex.Of(sh)
	if err != nil {
		return err
	}
	forgotten := false
	for _, name := range set.MeasurementNames() {
		if any, err := hasSeries(index, name); err != nil {
			return err
		} else if any {
			continue
		}
		m, err := readMeasurement(context.Background(), sh, name)
		if err != nil {
			return err
		}
		if len(m.data) == 0 {
			set.Delete(name)
			forgotten = true
		}
	}
	if !forgotten {
		return nil
	}
	return Flush(sh)
}

// reopen rebuilds the index of a shard that was not opened, and opens it.
func (s *Start) reopen(store *tsdb.Store, id uint64, cause error) Rebuilt {
	f := s.Folders
	r := Rebuilt{Shard: id, Reason: cause.Error()}
	dirs, err := f.shards(strconv.FormatUint(id, 10))
	dir, ok := dirs[id]
	if err == nil && !ok {
		err = fmt.Errorf("its folder is not in %s", f.Data)
	}
	if r.Err = err; err != nil {
		return r
	}
	if r.Kept, r.Conflicts, r.Err = f.rebuild(id, dir); r.Err != nil {
		return r
	}
	if !f.shard(dir).inmem() {
		// The engine left the index of series open, and may compact it: a second one over the same files would damage
		// it.
		r.Err = errors.New("the index was made anew: restart the node to open the shard")
		return r
	}
	// The store attempts no shard that it could not open before, until it forgets all such shards.
	for other, err := range store.ClearBadShardList() {
		if other != id {
			var previous *tsdb.ErrPreviousShardFail
			if errors.As(err, &previous) { // the store puts it around the error again
				if cause := errors.Unwrap(errors.Unwrap(previous)); cause != nil {
					err = cause
				}
			}
			store.SetShardOpenErrorForTest(other, err)
		}
	}
	policy := filepath.Dir(dir)
	index := store.EngineOptions.IndexVersion
	store.EngineOptions.IndexVersion = tsdb.InmemIndexName // as when the store opened it
	defer func() { store.EngineOptions.IndexVersion = index }()
	r.Err = store.CreateShard(filepath.Base(filepath.Dir(policy)), filepath.Base(policy), id, true)
	return r
}

// hasSeries reports whether a shard has series of a measurement. An inmem index is that of all shards of a database.
func hasSeries(index tsdb.Index, name string) (bool, error) {
	itr, err := index.MeasurementSeriesIDIterator([]byte(name))
	if err != nil || itr == nil {
		return false, err
	}
	defer itr.Close()
	mine := index.SeriesIDSet()
	for {
		e, err := itr.Next()
		if err != nil || e.SeriesID == 0 {
			return false, err
		}
		if mine.Contains(e.SeriesID) {
			return true, nil
		}
	}
}
