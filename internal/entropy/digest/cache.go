package digest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"

	"concord/internal/entropy/scrub"
)

// Cache keeps the digests of shards in files of its own, one for each shard.
//
// A series-field is read again unless every file of the engine that has it,
// with its tombstones, is one that it was read from before, and nothing of it is
// in the write cache. So what a write, a delete or a compaction touched is
// read again, and nothing else. A cache file that is torn, damaged, foreign or of
// another version is dropped, and what was in it is read again.
type Cache struct {
	dir string

	mu     sync.Mutex
	shards map[uint64]*cachedShard
}

// cachedShard is what is known of a shard's file since this process began.
type cachedShard struct {
	sync.Mutex // held during a refresh
	id         cacheID
	of         *tsdb.Shard // another one after the shard was dropped and made again
	stamp      Stamp
}

// Stamp changes with the contents of a shard. Deletes changes with every delete in
// its database, and is another one each time while a delete runs.
type Stamp struct {
	LastModified int64
	Size         int64
	Deletes      uint64
}

// OpenCache opens the cache in dir.
func OpenCache(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	// Torn by a crash.
	torn, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil {
		return nil, err
	}
	for _, path := range torn {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return &Cache{dir: dir, shards: make(map[uint64]*cachedShard)}, nil
}

func (c *Cache) path(shard uint64) string {
	return filepath.Join(c.dir, strconv.FormatUint(shard, 10)+".digests")
}

// Keep removes the files of shards that live is not true for.
func (c *Cache) Keep(live func(shard uint64) bool) error {
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		text, ok := strings.CutSuffix(n.Name(), ".digests")
		id, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil || live(id) {
			continue
		}
		c.mu.Lock()
		delete(c.shards, id)
		c.mu.Unlock()
		if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// View is the digests of a shard as they were at one moment: later changes do not show.
type View struct {
	cacheEnd
	file *os.File
	path string // of the cache file
	rng  Range
	kept bool // the file is the cache file; otherwise it is a temporary one

	Read, Reused int // series-fields that were read from the shard, and from the cache
}

// View returns the digests of a shard: from its file when stamp says that
// nothing changed, and otherwise after the file is brought up to date. stamp is
// called before and after the shard is read. The caller closes the View.
func (c *Cache) View(ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, stamp func() (Stamp, error)) (*View, error) {
	c.mu.Lock()
	s := c.shards[shard.ID()]
	if s == nil {
		s = &cachedShard{}
		c.shards[shard.ID()] = s
	}
	c.mu.Unlock()
	s.Lock()
	defer s.Unlock()
	id := cacheID{key: key, shard: shard.ID(), rng: rng}
	for try := 0; ; try++ {
		before, err := stamp()
		if err != nil {
			return nil, err
		}
		v, err := c.view(ctx, s, shard, id, before, try > deleteTries)
		if err != nil {
			return nil, err
		}
		after, err := stamp()
		if err != nil {
			v.Close()
			return nil, err
		}
		if after.Deletes == before.Deletes {
			if err := v.keep(); err != nil {
				v.Close()
				return nil, fmt.Errorf("digest cache: %w", err)
			}
			s.id, s.of, s.stamp = id, shard, before
			return v, nil
		}
		// A delete may have moved what was being looked up, or taken back a write that was
		// read: nothing of this is kept. Under endless deletes nothing is reused, either.
		if try > deleteTries {
			return v, nil
		}
		v.Close()
	}
}

const deleteTries = 3

func (c *Cache) view(ctx context.Context, s *cachedShard, shard *tsdb.Shard, id cacheID, now Stamp, anew bool) (*View, error) {
	var old *View
	if f, err := os.Open(c.path(id.shard)); err == nil && !anew {
		if end, err := readCacheEnd(f, id); err == nil {
			old = &View{cacheEnd: end, file: f, path: f.Name(), rng: id.rng, kept: true}
		} else {
			f.Close()
		}
	} else if err == nil {
		f.Close()
	}
	if old != nil && s.of == shard && s.id == id && s.stamp == now {
		old.Reused = int(old.count)
		return old, nil
	}
	v, err := c.refresh(ctx, shard, id, old)
	if old != nil && v != old {
		old.Close()
	}
	return v, err
}

// flushTries bounds how often a refresh is done again because the write cache was flushed under it.
const flushTries = 3

// refresh writes the file anew, with the records of old that are as they were.
// It does not close old, which it may return.
func (c *Cache) refresh(ctx context.Context, shard *tsdb.Shard, id cacheID, old *View) (v *View, err error) {
	for try := 1; ; try++ {
		files, err := openFiles(shard)
		if err != nil {
			return nil, err
		}
		if old != nil && old.state != written && old.state == files.state && files.cache.Size() == 0 {
			files.close()
			old.Reused = int(old.count)
			return old, nil
		}
		next, err := c.write(ctx, shard, files, id, old)
		flushed := err == nil && try < flushTries && files.flushed(shard)
		files.close()
		if try > 1 { // old is of this loop
			old.Close()
		}
		if err != nil {
			return nil, err
		}
		// What went from the write cache into a file under it was taken for unwritten.
		if !flushed {
			return next, nil
		}
		old = next
	}
}

// write is one pass of refresh.
func (c *Cache) write(ctx context.Context, shard *tsdb.Shard, files *engineFiles, id cacheID, old *View) (*View, error) {
	cursors, err := shard.CreateCursorIterator(ctx)
	if err != nil {
		return nil, err
	}
	w, err := createCache(c.dir, id)
	if err != nil {
		return nil, fmt.Errorf("digest cache: %w", err)
	}
	v := &View{file: w.file, path: c.path(id.shard), rng: id.rng}
	var from oldRecords
	if old != nil {
		from.in = newCacheReader(old.file, old.count)
	}
	blocks, err := scrub.NewChecker(shard)
	if err != nil {
		return nil, fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	defer blocks.Close()
	r := reader{shard: shard, cursors: cursors, blocks: blocks, key: id.key, rng: id.rng}
	err = EachSeries(ctx, shard, func(series []byte) error {
		return r.fields(ctx, series, func(field string, typ Type) error {
			print := files.print(series, field)
			if print == nowhere {
				return nil
			}
			if rec := from.find(series, field); rec != nil && print != written && rec.files == print && rec.Type == typ {
				v.Reused++
				w.add(rec)
				return nil
			}
			if err := r.read(ctx, field, typ); err != nil {
				return err
			}
			v.Read++
			// A write that came since is in what was read, and may be gone by a delete before it is in a file.
			if files.written(series, field) {
				print = written
			}
			if r.sf.Sum().Count > 0 {
				w.add(&record{r.sf, print})
			}
			return nil
		})
	})
	if err == nil {
		_, err = shard.Engine() // one that was closed meanwhile gives empty cursors
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("digest of shard %d: %w", shard.ID(), err), w.drop())
	}
	if v.state, err = w.finish(files.state); err != nil {
		return nil, errors.Join(fmt.Errorf("digest cache: %w", err), w.drop())
	}
	v.count, v.totals = w.count, w.totals
	return v, nil
}

// oldRecords finds records of the file before, which are asked for in ascending order.
type oldRecords struct {
	in      *cacheReader
	started bool
}

func (o *oldRecords) find(series []byte, field string) *record {
	for o.in != nil {
		if o.started {
			if c := cmp.Or(bytes.Compare(o.in.Series, series), strings.Compare(o.in.Field, field)); c == 0 {
				return &o.in.record
			} else if c > 0 {
				return nil
			}
		}
		o.started = true
		if err := o.in.next(); err != nil {
			o.in = nil // at its end, or damaged: the rest is read from the shard
		}
	}
	return nil
}

// Root is the sum of all windows that end at or before until.
func (v *View) Root(until int64) (root Sum) {
	for w := range v.totals {
		if v.rng.Settled(w, until) {
			root.Add(v.totals[w])
		}
	}
	return root
}

// Each calls fn with the digest of each series-field that has points in windows
// that end at or before until, in ascending order of (series, field). fn must not keep its argument.
func (v *View) Each(ctx context.Context, until int64, fn func(*SeriesField) error) error {
	in := newCacheReader(v.file, v.count)
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := in.next(); err == io.EOF {
			return nil
		} else if err != nil {
			os.Remove(v.path)
			return fmt.Errorf("the digest cache %s is removed, to be computed anew: %w", v.path, err)
		}
		if !in.keep(v.rng, until) {
			continue
		}
		if err := fn(&in.SeriesField); err != nil {
			return err
		}
	}
}

// keep makes the file the cache file, durably.
func (v *View) keep() error {
	if v.kept {
		return nil
	}
	if err := os.Rename(v.file.Name(), v.path); err != nil {
		return err
	}
	v.kept = true
	return syncDir(filepath.Dir(v.path))
}

// Close ends the use of the View.
func (v *View) Close() error {
	err := v.file.Close()
	if !v.kept {
		err = errors.Join(err, os.Remove(v.file.Name()))
	}
	return err
}

// engineFiles are a shard's files at one moment, held open.
type engineFiles struct {
	cache *tsm1.Cache
	files []engineFile // in a fixed order
	state uint64       // fingerprint of all of them with their tombstones
	key   []byte
	buf   []byte
}

type engineFile struct {
	*tsm1.TSMReader
	id  uint64 // fingerprint
	at  int    // place in the index of the key that was looked up last
	end int
}

// keyFieldSeparator is the engine's, between the series key and the field of its own keys.
const keyFieldSeparator = "#!~#"

func openFiles(shard *tsdb.Shard) (_ *engineFiles, err error) {
	e, err := shard.Engine()
	if err != nil {
		return nil, err
	}
	engine, ok := e.(*tsm1.Engine)
	if !ok {
		return nil, fmt.Errorf("shard %d has the unknown engine %T", shard.ID(), e)
	}
	f := &engineFiles{cache: engine.Cache}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	for _, file := range engine.FileStore.Files() {
		path := file.Path()
		r, err := engine.FileStore.TSMReader(path) // holds it open
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, fmt.Errorf("the files of shard %d change: try again", shard.ID())
		}
		f.files = append(f.files, engineFile{TSMReader: r, end: r.KeyCount()})
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		b := append([]byte(nil), filepath.Base(path)...)
		b = binary.BigEndian.AppendUint64(append(b, 0), uint64(info.Size()))
		b = binary.BigEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
		f.files[len(f.files)-1].id = xxh3.Hash(b)
	}
	slices.SortFunc(f.files, func(a, b engineFile) int { return cmp.Compare(a.id, b.id) })
	var b []byte
	for _, file := range f.files {
		t := file.TombstoneStats()
		b = binary.BigEndian.AppendUint64(b, file.id)
		b = binary.BigEndian.AppendUint64(b, uint64(t.LastModified))
		b = binary.BigEndian.AppendUint32(b, t.Size)
	}
	f.state = xxh3.Hash(b)
	return f, nil
}

func (f *engineFiles) close() {
	for _, file := range f.files {
		file.Unref()
	}
}

// written tells whether the write cache, or its snapshot, has points of a series-field.
func (f *engineFiles) written(series []byte, field string) bool {
	_, err := f.cache.Type(f.compose(series, field))
	return err == nil
}

func (f *engineFiles) compose(series []byte, field string) []byte {
	f.key = append(append(append(f.key[:0], series...), keyFieldSeparator...), field...)
	return f.key
}

// Fingerprints that no files have.
const (
	written = 0 // the write cache has points, too
	nowhere = 1 // there are no points
)

// print is the fingerprint of the files that have a series-field, with its tombstones in them.
func (f *engineFiles) print(series []byte, field string) uint64 {
	if f.written(series, field) {
		return written
	}
	f.buf = f.buf[:0]
	for i := range f.files {
		file := &f.files[i]
		if !file.has(f.key) {
			continue
		}
		f.buf = binary.BigEndian.AppendUint64(f.buf, file.id)
		for _, t := range file.TombstoneRange(f.key) {
			f.buf = binary.BigEndian.AppendUint64(f.buf, uint64(t.Min))
			f.buf = binary.BigEndian.AppendUint64(f.buf, uint64(t.Max))
		}
	}
	if len(f.buf) == 0 {
		return nowhere
	}
	return max(xxh3.Hash(f.buf), nowhere+1)
}

// flushed tells whether the shard has a file by now that was written from the
// write cache: such files begin a generation, and compactions do not.
func (f *engineFiles) flushed(shard *tsdb.Shard) bool {
	newest := 0
	for _, file := range f.files {
		newest = max(newest, generation(file.Path()))
	}
	e, err := shard.Engine()
	if err != nil {
		return false // the next use says so
	}
	engine, ok := e.(*tsm1.Engine)
	return ok && slices.ContainsFunc(engine.FileStore.Files(), func(file tsm1.TSMFile) bool { return generation(file.Path()) > newest })
}

func generation(path string) int {
	n, _, err := tsm1.DefaultParseFileName(strings.TrimSuffix(path, "."+tsm1.TmpTSMFileExtension))
	if err != nil {
		return 0
	}
	return n
}

// has looks a key up. Keys come nearly in the order of the index: the next one is tried first.
func (f *engineFile) has(key []byte) bool {
	for range 2 {
		if f.at < f.end {
			switch k, _ := f.KeyAt(f.at); bytes.Compare(k, key) {
			case 0:
				f.at++
				return true
			case 1:
				if f.at == 0 {
					return false
				}
				if before, _ := f.KeyAt(f.at - 1); bytes.Compare(before, key) < 0 {
					return false
				}
			}
		} else if f.at > 0 && f.at == f.end {
			if before, _ := f.KeyAt(f.at - 1); bytes.Compare(before, key) < 0 {
				return false
			}
		}
		f.at = f.Seek(key)
	}
	return false
}
