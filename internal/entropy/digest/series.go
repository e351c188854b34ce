package digest

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/seriesindex"
)

// runBytes is how many bytes of series keys, with what it takes to sort them, are held; more are sorted by way of a
// temporary file.
const runBytes = 16 << 20

// keyOverhead is the end of a key and, while they are sorted, a slice.
const keyOverhead = 8 + 24

// EachSeries calls fn with the keys of a shard's series, ascending, each once. No index keeps
// the order of whole keys. What does not fit into runBytes is sorted in runs, which
// lie in a file without a name in the system's folder for temporary files, and merged from there.
func EachSeries(ctx context.Context, shard *tsdb.Shard, fn func(key []byte) error) error {
	open, err := opened(shard)
	if err != nil {
		return err
	}
	return open.eachSeries(ctx, runBytes, fn)
}

// openShard is what a digest needs of a shard. It is taken before the files of the shard are held: a shard that is
// being closed waits for them, and does not answer meanwhile. Its engine and index stay open while they are held.
type openShard struct {
	engine tsdb.Engine
	index  tsdb.Index
	sfile  *tsdb.SeriesFile
}

func opened(shard *tsdb.Shard) (o openShard, err error) {
	if o.engine, err = shard.Engine(); err != nil {
		return o, err
	}
	if o.index, err = seriesindex.Of(shard); err != nil {
		return o, err
	}
	o.sfile, err = shard.SeriesFile()
	return o, err
}

func (o openShard) eachSeries(ctx context.Context, limit int, fn func(key []byte) error) error {
	s := &keySorter{limit: limit}
	defer s.close()
	set := tsdb.IndexSet{Indexes: []tsdb.Index{o.index}, SeriesFile: o.sfile}
	err := o.engine.ForEachMeasurementName(func(name []byte) error {
		itr, err := set.MeasurementSeriesIDIterator(name)
		if err != nil || itr == nil {
			return err
		}
		defer itr.Close()
		for n := 0; ; n++ {
			if n%1024 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e, err := itr.Next()
			if err != nil || e.SeriesID == 0 {
				return err
			}
			if err := s.add(o.sfile, e.SeriesID); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	return s.each(ctx, fn)
}

// keySorter is an external merge sort.
type keySorter struct {
	limit int
	data  []byte // of the keys of this run
	ends  []int
	key   []byte      // of the last series
	tags  models.Tags // of it
	file  *os.File
	at    int64
	runs  []int64 // where each run in the file ends
}

func (s *keySorter) add(sfile *tsdb.SeriesFile, id uint64) error {
	release := sfile.Retain() // a key is in memory that a compaction may give back
	defer release()
	b := sfile.SeriesKey(id)
	if len(b) == 0 {
		return nil // deleted
	}
	var name []byte
	if name, s.tags = tsdb.ParseSeriesKeyInto(b, s.tags); len(name) == 0 {
		return nil
	}
	// By way of a buffer: the engine makes just enough room for one key, so that it would copy the whole run each time.
	s.key = models.AppendMakeKey(s.key[:0], name, s.tags)
	s.data = append(s.data, s.key...)
	s.ends = append(s.ends, len(s.data))
	if len(s.data)+keyOverhead*len(s.ends) >= s.limit {
		return s.spill()
	}
	return nil
}

// sorted are the keys that are held. They are valid until the next run begins.
func (s *keySorter) sorted() [][]byte {
	keys, from := make([][]byte, len(s.ends)), 0
	for i, end := range s.ends {
		keys[i] = s.data[from:end:end]
		from = end
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

func (s *keySorter) spill() (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp("", "concord-series-*.tmp"); err != nil {
			return fmt.Errorf("sort the series of a shard: %w", err)
		}
		if err := os.Remove(s.file.Name()); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(s.file, s.at), 1<<16)
	var length [binary.MaxVarintLen64]byte
	for _, k := range s.sorted() {
		n := binary.PutUvarint(length[:], uint64(len(k)))
		w.Write(length[:n])
		w.Write(k)
		s.at += int64(n + len(k))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("sort the series of a shard: %w", err)
	}
	s.runs = append(s.runs, s.at)
	s.data, s.ends = s.data[:0], s.ends[:0]
	return nil
}

func (s *keySorter) each(ctx context.Context, fn func([]byte) error) error {
	if s.file == nil {
		var last []byte
		for _, k := range s.sorted() {
			if last != nil && bytes.Equal(last, k) {
				continue
			}
			if err := fn(k); err != nil {
				return err
			}
			last = k
		}
		return nil
	}
	if err := s.spill(); err != nil {
		return err
	}
	s.data, s.ends = nil, nil
	var m keyMerge
	from := int64(0)
	for _, end := range s.runs {
		r := &keyRun{in: bufio.NewReaderSize(io.NewSectionReader(s.file, from, end-from), 1<<14)}
		if err := m.push(r); err != nil {
			return err
		}
		from = end
	}
	var last []byte
	for len(m) > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if k := m[0].key; last == nil || !bytes.Equal(last, k) {
			if err := fn(k); err != nil {
				return err
			}
			last = append(last[:0], k...)
		}
		r := heap.Pop(&m).(*keyRun)
		if err := m.push(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *keySorter) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// keyRun is a sorted run with its next key.
type keyRun struct {
	in  *bufio.Reader
	key []byte
}

// keyMerge is a heap of runs by their next keys.
type keyMerge []*keyRun

// push reads a run's next key and adds the run, unless it is at its end.
func (m *keyMerge) push(r *keyRun) error {
	n, err := binary.ReadUvarint(r.in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		r.key = slices.Grow(r.key[:0], int(n))[:n]
		_, err = io.ReadFull(r.in, r.key)
	}
	if err != nil {
		return fmt.Errorf("sort the series of a shard: %w", err)
	}
	heap.Push(m, r)
	return nil
}

func (m keyMerge) Len() int           { return len(m) }
func (m keyMerge) Less(i, j int) bool { return bytes.Compare(m[i].key, m[j].key) < 0 }
func (m keyMerge) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *keyMerge) Push(r any)        { *m = append(*m, r.(*keyRun)) }
func (m *keyMerge) Pop() any {
	old := *m
	r := old[len(old)-1]
	*m = old[:len(old)-1]
	return r
}
