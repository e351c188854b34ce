// Package scan reads the points of a shard: what the engine's files and its write cache hold, the newest write of
// each time, without what was deleted.
//
// The engine's cursors do the same, but they do not verify checksums, copy each block once more, and order the blocks
// of a series-field by a comparison that is not transitive: from thirteen blocks on that overlap each other, they may
// return values that were overwritten (v1.13.2). Here the blocks of each file are a stream of their own, merged in
// the order of the files.
package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"

	"concord/internal/entropy/pace"
	"concord/internal/entropy/tsmfile"
)

// Reader reads one series-field of a shard after another. It holds the files that it reads open; Close lets them go.
// It is for one goroutine.
type Reader struct {
	work   pace.Stint // of all that is read
	shard  *tsdb.Shard
	engine *tsm1.Engine
	listed []tsm1.TSMFile // the engine's list that files is of
	files  []*file        // oldest first
	blocks [Types]int64   // that were decoded

	// Of the last Seek.
	key    []byte
	cached tsm1.Values
	having []*file // those with the series-field
	at     *file   // that is being looked into

	mergers [Types]any // *merger of each type, for their buffers
	buf     []byte

	background bool      // no client waits for what is read
	looked     time.Time // whether the shard is to be closed
}

type file struct {
	*tsm1.TSMReader
	listed tsm1.TSMFile
	name   string
	id     uint64 // fingerprint of the file without its tombstones
	at     int    // place in the index of the key that was looked up last

	// Of the last Seek.
	key     []byte
	known   bool // entries are those of the key
	entries []tsm1.IndexEntry
}

// NewReader opens the files of a shard. What is read ends with ctx, and keeps to its pace.
func NewReader(ctx context.Context, shard *tsdb.Shard) (*Reader, error) {
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return nil, fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	r := &Reader{work: pace.Begin(ctx), shard: shard, engine: engine, background: pace.Of(ctx) != nil}
	if err := r.follow(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close lets the files go.
func (r *Reader) Close() {
	for _, f := range r.files {
		f.Unref()
	}
	r.files, r.listed, r.having = nil, nil, nil
}

// End lets the files go, and returns an error unless all that was read was of an open shard: one that was closed, or
// opened anew, meanwhile looks empty. The files go first, as a shard that is being closed waits for them.
func (r *Reader) End() error {
	r.Close()
	e, err := r.shard.Engine()
	if err == nil && e != tsdb.Engine(r.engine) {
		err = errors.New("it was opened anew meanwhile")
	}
	if err != nil {
		return fmt.Errorf("read shard %d: %w", r.shard.ID(), err)
	}
	return nil
}

// followTries bounds how often the list of files is taken anew because it changed while its files were opened.
const followTries = 100

// lookEvery is how often background work looks whether the shard is to be closed.
const lookEvery = 100 * time.Millisecond

// follow opens the files that the engine has now, as far as they are not open. Background work ends here when the shard
// is to be closed: that waits for those who read it.
func (r *Reader) follow() error {
	if r.background && time.Since(r.looked) > lookEvery {
		r.looked = time.Now()
		if _, err := r.engine.FileStore.TSMReader(""); err != nil { // of none
			return fmt.Errorf("read shard %d: %w", r.shard.ID(), err)
		}
	}
	for range followTries {
		list := r.engine.FileStore.Files()
		if r.listed != nil && slices.Equal(list, r.listed) {
			return nil
		}
		all, err := r.open(list)
		if err != nil {
			return fmt.Errorf("read shard %d: %w", r.shard.ID(), err)
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("read shard %d: its files change all the time: try again", r.shard.ID())
}

// open makes list the files of the reader. It is false when one of them was replaced meanwhile.
func (r *Reader) open(list []tsm1.TSMFile) (all bool, err error) {
	held := make(map[tsm1.TSMFile]*file, len(r.files))
	for _, f := range r.files {
		held[f.listed] = f
	}
	files := make([]*file, 0, len(list))
	all = true
	for _, l := range list {
		f := held[l]
		if f == nil {
			if f, err = r.hold(l); err != nil || f == nil {
				all = false
				break
			}
		}
		delete(held, l)
		files = append(files, f)
	}
	if !all { // what was open stays so, for the next try
		for _, f := range held {
			files = append(files, f)
		}
		r.files, r.listed = files, nil
		return false, err
	}
	for _, f := range held {
		f.Unref()
	}
	r.files, r.listed = files, append([]tsm1.TSMFile{}, list...)
	return true, nil
}

// hold opens a file. It is nil when it was replaced.
func (r *Reader) hold(l tsm1.TSMFile) (*file, error) {
	path := l.Path()
	t, err := r.engine.FileStore.TSMReader(path)
	if err != nil || t == nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil || tsm1.TSMFile(t) != l {
		t.Unref()
		if err == nil || errors.Is(err, fs.ErrNotExist) { // a file that is replaced while it is in use gets another name
			return nil, nil
		}
		return nil, err
	}
	f := &file{TSMReader: t, listed: l, name: filepath.Base(path)}
	b := append([]byte(f.name), 0)
	b = binary.BigEndian.AppendUint64(b, uint64(info.Size()))
	b = binary.BigEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
	f.id = xxh3.Hash(b)
	return f, nil
}

// State is a fingerprint of all files, with their tombstones, as of the last Seek; never 0.
func (r *Reader) State() (uint64, error) {
	r.buf = r.buf[:0]
	for _, f := range r.files {
		t, err := tsmfile.StatTombstones(f.Path())
		if err != nil {
			return 0, err
		}
		r.buf = binary.BigEndian.AppendUint64(r.buf, f.id)
		r.buf = binary.BigEndian.AppendUint64(r.buf, uint64(t.LastModified))
		r.buf = binary.BigEndian.AppendUint32(r.buf, t.Size)
	}
	return max(xxh3.Hash(r.buf), 1), nil
}

// Flushed tells whether the write cache of the shard is empty.
func (r *Reader) Flushed() bool { return r.engine.Cache.Size() == 0 }

// Types is how many types of blocks the engine has.
const Types = int(tsm1.BlockUnsigned) + 1

// Decoded is how many blocks were decoded so far, by the engine's number of their type.
func (r *Reader) Decoded() [Types]int64 { return r.blocks }

// Seek makes a series-field what the other methods are about: its points as they are now. It is false when there are
// none. Series that are asked for in ascending order are found faster.
func (r *Reader) Seek(series []byte, field string) (ok bool, err error) {
	r.key = append(append(append(r.key[:0], series...), tsmfile.KeyFieldSeparator...), field...)
	// The write cache first: what is flushed between the two is in both, and not in neither.
	r.cached = nil
	if _, err := r.engine.Cache.Type(r.key); err == nil {
		r.cached = r.engine.Cache.Values(r.key)
	}
	if err := r.follow(); err != nil {
		return false, err
	}
	r.having = r.having[:0]
	// A file that has become shorter is a fault of its mapping.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer r.damaged(&err)
	for _, f := range r.files {
		r.at, f.key, f.known = f, r.key, false
		if f.has(r.key) {
			r.having = append(r.having, f)
		}
	}
	return len(r.cached) > 0 || len(r.having) > 0, nil
}

// damaged makes *err of a panic: the engine trusts what it decodes. It is to be deferred.
func (r *Reader) damaged(err *error) {
	if p := recover(); p != nil {
		*err = &tsmfile.Damage{File: r.at.name, Offset: -1, Reason: fmt.Sprint(p)}
	}
}

// has looks a key up.
func (f *file) has(key []byte) bool {
	for {
		keys := f.KeyCount()
		found := f.look(key, keys)
		if f.KeyCount() == keys { // else a delete took keys out of the index meanwhile
			return found
		}
	}
}

// look looks a key up in an index of so many keys. They come nearly in its order: the next one is tried first.
func (f *file) look(key []byte, keys int) bool {
	f.at = min(f.at, keys)
	for range 2 {
		if f.at < keys {
			switch k, _ := f.KeyAt(f.at); bytes.Compare(k, key) {
			case 0:
				return true
			case 1:
				if f.at == 0 {
					return false
				}
				if before, _ := f.KeyAt(f.at - 1); bytes.Compare(before, key) < 0 {
					return false
				}
			case -1:
				if f.at++; f.at == keys {
					return false
				}
				if next, _ := f.KeyAt(f.at); bytes.Compare(next, key) >= 0 {
					continue
				}
			}
		} else if f.at > 0 {
			if before, _ := f.KeyAt(f.at - 1); bytes.Compare(before, key) < 0 {
				return false
			}
		}
		f.at = f.Seek(key)
	}
	return false
}

// index returns the entries of the blocks of the key.
func (f *file) index() []tsm1.IndexEntry {
	if !f.known {
		key, _, entries := f.Key(f.at, &f.entries)
		if !bytes.Equal(key, f.key) { // a delete moved it
			entries = f.ReadEntries(f.key, &f.entries)
		}
		f.entries, f.known = entries, true
	}
	return f.entries
}

// Unknown is a fingerprint that no files have.
const Unknown = 1

// Since returns the fingerprint of the files that have the series-field, with its tombstones in them. Was print the
// one of the same files but for the newest, known is true, and fn is called with the range of times of each block in
// those that came since.
func (r *Reader) Since(print uint64, fn func(min, max int64)) (now uint64, known bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer r.damaged(&err)
	known = print == now
	for _, f := range r.having {
		r.at = f
		if known {
			for _, e := range f.index() {
				fn(e.MinTime, e.MaxTime)
			}
		}
		r.buf = binary.BigEndian.AppendUint64(r.buf[:0], now)
		r.buf = binary.BigEndian.AppendUint64(r.buf, f.id)
		for _, t := range f.TombstoneRange(r.key) {
			r.buf = binary.BigEndian.AppendUint64(r.buf, uint64(t.Min))
			r.buf = binary.BigEndian.AppendUint64(r.buf, uint64(t.Max))
		}
		now = max(xxh3.Hash(r.buf), Unknown+1)
		known = known || print == now
	}
	return now, known, nil
}

// Cached calls fn with the times of the points that the write cache has, ascending.
func (r *Reader) Cached(fn func(t int64)) {
	for _, v := range r.cached {
		fn(v.UnixNano())
	}
}

// covered tells whether tombstones cover [min, max], together if need be.
func covered(tombs []tsm1.TimeRange, min, max int64) bool {
	for {
		from := min
		for _, t := range tombs {
			if t.Min <= min && t.Max >= min {
				if t.Max >= max || t.Max == math.MaxInt64 {
					return true
				}
				min = t.Max + 1
			}
		}
		if min == from {
			return false
		}
	}
}
