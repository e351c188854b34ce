package fieldindex

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"github.com/klauspost/compress/snappy"

	"concord/internal/durable"
	"concord/internal/entropy/scrub"
)

// otherWrites returns the fields of series of which the log of writes has values of two types with no delete between
// them, and the type of the last value of each. The engine cannot read such a log: it opens no shard with it.
//
// The engine changes its cache first and then its log. A write that runs beside a delete of its measurement may come
// behind it in the log, while the cache has forgotten it; then another type may follow. So only logs with deletes are
// read as a whole.
func (s closedShard) otherWrites() (map[string]influxql.DataType, error) {
	files, err := s.walFiles()
	if err != nil {
		return nil, err
	}
	deletes := false
	for _, path := range files {
		has, err := hasDeletes(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		deletes = deletes || has
	}
	if !deletes {
		return nil, nil
	}
	out := make(map[string]influxql.DataType)
	cache := tsm1.NewCache(0)
	for _, path := range files {
		if err := eachEntry(path, func(e tsm1.WALEntry) error { return replayEntry(cache, e, out) }); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return out, nil
}

// replayEntry does to the cache what the engine does. A value of another type replaces those of its key, and is noted
// in changed.
func replayEntry(cache *tsm1.Cache, e tsm1.WALEntry, changed map[string]influxql.DataType) error {
	switch e := e.(type) {
	case *tsm1.DeleteRangeWALEntry:
		cache.DeleteRange(e.Keys, e.Min, e.Max)
	case *tsm1.DeleteWALEntry:
		cache.Delete(e.Keys)
	case *tsm1.WriteWALEntry:
		for key, values := range e.Values {
			err := cache.Write([]byte(key), values)
			if errors.Is(err, tsdb.ErrFieldTypeConflict) {
				if changed[key], err = tsm1.Values(values).InfluxQLType(); err != nil {
					return err
				}
				cache.Delete([][]byte{[]byte(key)})
				err = cache.Write([]byte(key), values)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

const entryHeader = 5 // type, and length in four bytes, big endian

// hasDeletes reports whether a segment has deletes, by the headers of its entries.
func hasDeletes(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var head [entryHeader]byte
	for at := int64(0); ; {
		if _, err := f.ReadAt(head[:], at); err == io.EOF {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if t := tsm1.WalEntryType(head[0]); t == tsm1.DeleteWALEntryType || t == tsm1.DeleteRangeWALEntryType {
			return true, nil
		}
		at += entryHeader + int64(binary.BigEndian.Uint32(head[1:]))
	}
}

// eachEntry reads a segment up to its end or, as the engine does, to where it cannot be read.
func eachEntry(path string, fn func(tsm1.WALEntry) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	r := tsm1.NewWALSegmentReader(f)
	defer r.Close()
	for r.Next() {
		e, err := r.Read()
		if err != nil {
			return nil
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// repairWAL removes from the log of writes the values whose type is not that of the last value of their key. The
// segments are kept. Each is replaced as a whole: after a crash between two of them the next start goes on.
func (s closedShard) repairWAL(last map[string]influxql.DataType, kept string) error {
	files, err := s.walFiles()
	if err != nil {
		return err
	}
	for _, path := range files {
		if err := scrub.Keep(path, kept); err != nil {
			return err
		}
	}
	for _, path := range files {
		if err := rewrite(path, last); err != nil {
			return fmt.Errorf("rewrite %s: %w", path, err)
		}
	}
	return nil
}

func rewrite(path string, last map[string]influxql.DataType) error {
	tmp := filepath.Join(filepath.Dir(path), "concord-fields.tmp") // which the engine does not take for a segment
	mode := os.FileMode(0o666)                                     // as the engine's
	return durable.Replace(path, tmp, mode, func(f *os.File) error {
		w := tsm1.NewWALSegmentWriter(f)
		err := eachEntry(path, func(e tsm1.WALEntry) error {
			if write, ok := e.(*tsm1.WriteWALEntry); ok {
				left := make(map[string][]tsm1.Value, len(write.Values))
				for key, values := range write.Values {
					typ, err := tsm1.Values(values).InfluxQLType()
					if want, other := last[key]; err != nil || !other || typ == want {
						left[key] = values
					}
				}
				if len(left) == 0 {
					return nil
				}
				e = &tsm1.WriteWALEntry{Values: left}
			}
			b, err := e.MarshalBinary()
			if err != nil {
				return err
			}
			return w.Write(e.Type(), snappy.Encode(nil, b))
		})
		if err != nil {
			return err
		}
		return w.Flush()
	})
}
