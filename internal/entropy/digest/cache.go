package digest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/durable"
	"concord/internal/entropy/scan"
)

// Cache keeps the digests of shards in files of its own, one for each shard.
//
// A window of a series-field is read again unless the files of the engine that have the series-field, with their
// tombstones, are those that it was read from before, or newer ones without a block there, and the write cache had and
// has nothing of it. So what a write, a delete or a compaction touched is read again, and nothing else. A cache file
// that is torn, damaged, foreign or of another version is dropped, and what was in it is read again.
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
	at         time.Time // when the file was known to be up to date
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

// Drop forgets the digests of a shard, after its indexes changed without its files.
func (c *Cache) Drop(shard uint64) error {
	c.mu.Lock()
	s := c.shards[shard]
	c.mu.Unlock()
	if s != nil {
		s.Lock()
		defer s.Unlock()
		s.of, s.at = nil, time.Time{}
	}
	if err := os.Remove(c.path(shard)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// UpToDate is when the digests of a shard were up to date last: when somebody asked for them, or, before this process
// asked, when their file was written. It is zero for never.
func (c *Cache) UpToDate(shard uint64) time.Time {
	c.mu.Lock()
	s := c.shards[shard]
	c.mu.Unlock()
	if s != nil && s.TryLock() { // it may be brought up to date right now, which takes a while
		at := s.at
		s.Unlock()
		if !at.IsZero() {
			return at
		}
	}
	if info, err := os.Stat(c.path(shard)); err == nil {
		return info.ModTime()
	}
	return time.Time{}
}

// View is the digests of a shard as they were at one moment: later changes do not show.
type View struct {
	cacheEnd
	file *os.File
	path string // of the cache file
	rng  Range
	kept bool // the file is the cache file; otherwise it is a temporary one

	Read, Reused int    // series-fields of which something was read from the shard, and that are from the cache alone
	Points       uint64 // that were read from the shard
}

// View returns the digests of a shard: from its file when stamp says that
// nothing changed, and otherwise after the file is brought up to date. stamp is
// called before and after the shard is read. The caller closes the View.
func (c *Cache) View(
	ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, stamp func() (Stamp, error),
) (*View, error) {
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
				return nil, fmt.Errorf("write the digests of shard %d: %w", shard.ID(), err)
			}
			s.id, s.of, s.stamp, s.at = id, shard, before, time.Now()
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

func (c *Cache) view(
	ctx context.Context, s *cachedShard, shard *tsdb.Shard, id cacheID, now Stamp, anew bool,
) (*View, error) {
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

// refresh writes the file anew, with the records of old that are as they were.
// It does not close old, which it may return.
func (c *Cache) refresh(ctx context.Context, shard *tsdb.Shard, id cacheID, old *View) (*View, error) {
	open, err := opened(shard)
	if err != nil {
		return nil, err
	}
	points, err := scan.NewReader(ctx, shard)
	if err != nil {
		return nil, err
	}
	defer points.Close()
	state, err := points.State()
	if err != nil {
		return nil, fmt.Errorf("digest of shard %d: %w", shard.ID(), err)
	}
	if old != nil && old.state == state && points.Flushed() {
		old.Reused = int(old.count)
		return old, nil
	}
	w, err := createCache(c.dir, id)
	if err != nil {
		return nil, fmt.Errorf("write the digests of shard %d: %w", shard.ID(), err)
	}
	v := &View{file: w.file, path: c.path(id.shard), rng: id.rng}
	var from oldRecords
	if old != nil {
		from.in = newCacheReader(old.file, old.count)
	}
	r := reader{open: open, points: points, key: id.key, rng: id.rng}
	err = open.eachSeries(ctx, runBytes, func(series []byte) error {
		return r.fields(ctx, series, func(field string, typ Type) error {
			if ok, err := points.Seek(series, field); err != nil || !ok {
				return err
			}
			rec, changed, err := r.renew(from.find(series, field), series, field, typ)
			if err != nil {
				return err
			}
			v.note(rec, changed)
			if rec.Sum().Count > 0 {
				w.add(rec)
			}
			return nil
		})
	})
	if err == nil {
		err = points.End()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("digest of shard %d: %w", shard.ID(), err), w.drop())
	}
	if v.state, err = w.finish(state); err != nil {
		return nil, errors.Join(fmt.Errorf("write the digests of shard %d: %w", shard.ID(), err), w.drop())
	}
	v.count, v.totals = w.count, w.totals
	return v, nil
}

// note counts what was read of a series-field.
func (v *View) note(rec *record, changed windows) {
	if changed == 0 {
		v.Reused++
	} else {
		v.Read++
	}
	for w := range rec.Windows {
		if changed.has(w) {
			v.Points += rec.Windows[w].Count
		}
	}
}

// renew returns the record of the series-field that the reader is at: the windows of old, which may be nil, as far as
// nothing in them can have changed, and the others as they are read.
func (r *reader) renew(old *record, series []byte, field string, typ Type) (rec *record, changed windows, err error) {
	var unflushed windows
	last := int64(math.MinInt64)
	r.points.Cached(func(t int64) {
		if t > last {
			unflushed.add(r.rng, t, t)
			_, last = r.rng.Bounds(r.rng.Window(t))
		}
	})
	before := uint64(scan.Unknown)
	if old != nil && old.Type == typ {
		before = old.files
	}
	files, known, err := r.points.Since(before, func(min, max int64) { changed.add(r.rng, min, max) })
	if err != nil {
		return nil, 0, err
	}
	r.sf = SeriesField{Series: series, Field: field, Type: typ}
	if known {
		r.sf.Windows = old.Windows
		changed |= unflushed | old.unflushed
	} else {
		changed = allWindows
	}
	if err := r.read(changed); err != nil {
		return nil, 0, err
	}
	return &record{r.sf, files, unflushed}, changed, nil
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
	return durable.SyncDir(filepath.Dir(v.path))
}

// Close ends the use of the View.
func (v *View) Close() error {
	err := v.file.Close()
	if !v.kept {
		err = errors.Join(err, os.Remove(v.file.Name()))
	}
	return err
}
