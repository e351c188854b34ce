package distquery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/pkg/estimator/hll"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/zeebo/xxh3"
)

// tally is how many series there are: their hashes while they are few, else a sketch.
type tally struct {
	hashes map[uint64]struct{}
	counts *hll.Plus // nil while they are few
}

// maxExact is how many series are few.
const maxExact = 1 << 15

// add joins another tally.
func (t *tally) add(hashes []uint64, counts *hll.Plus) error {
	if counts != nil {
		if t.counts == nil {
			t.counts = hll.NewDefaultPlus()
		}
		if err := t.counts.Merge(counts); err != nil {
			return err
		}
	}
	if t.hashes == nil {
		t.hashes = make(map[uint64]struct{})
	}
	for _, hash := range hashes {
		t.hashes[hash] = struct{}{}
	}
	if t.counts != nil || len(t.hashes) > maxExact {
		if t.counts == nil {
			t.counts = hll.NewDefaultPlus()
		}
		for hash := range t.hashes {
			addHash(t.counts, hash)
		}
		clear(t.hashes)
	}
	return nil
}

// n is the number: an estimate once the series were not few.
func (t *tally) n() int64 {
	if t.counts != nil {
		return int64(t.counts.Count())
	}
	return int64(len(t.hashes))
}

// Sketches answer how many series some shards of this node have, about, so that the answers of several nodes can be
// joined: HyperLogLog++, whose error is 0.4 %. It keeps the last sketches, and adds to them what came since. The zero
// value is ready.
type Sketches struct {
	mu   sync.Mutex
	list []*sketch // the last one that was used is the last
}

// sketch is of some shards.
type sketch struct {
	shards []uint64 // ascending
	file   *tsdb.SeriesFile
	series *tsdb.SeriesIDSet
	counts *hll.Plus
}

const (
	maxSketches   = 8       // that are kept
	maxSketchSize = 1 << 20 // bytes that another node may send; one has 64 KiB
)

// of returns how many series shards of one database have, and either their hashes, when they are few, or a sketch.
func (s *Sketches) of(
	ctx context.Context, store *tsdb.Store, shards []uint64,
) (n uint64, hashes []uint64, counts *hll.Plus, err error) {
	series, file, err := seriesOf(store, shards)
	if err != nil || file == nil {
		return 0, nil, nil, err
	}
	if n = series.Cardinality(); n <= maxExact {
		hashes, err = hashesOf(ctx, file, series)
		return n, hashes, nil, err
	}
	shards = slices.Sorted(slices.Values(shards))
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(k *sketch) bool { return k.file == file && slices.Equal(k.shards, shards) })
	k := &sketch{shards: shards, file: file, series: tsdb.NewSeriesIDSet(), counts: hll.NewDefaultPlus()}
	if i >= 0 {
		if kept := s.list[i]; kept.series.AndNot(series).Cardinality() == 0 { // nothing can be taken out of a sketch
			k = kept
		}
		s.list = slices.Delete(s.list, i, i+1)
	}
	if err := k.add(ctx, series.AndNot(k.series)); err != nil {
		return 0, nil, nil, err
	}
	s.list = append(s.list, k)
	if len(s.list) > maxSketches {
		s.list = slices.Delete(s.list, 0, 1)
	}
	return n, nil, k.counts.Clone().(*hll.Plus), nil
}

// add adds series. When it fails, the sketch is not to be used.
func (k *sketch) add(ctx context.Context, series *tsdb.SeriesIDSet) error {
	defer k.file.Retain()()
	for i, id := range series.Slice() {
		if i%chunkLen == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if key := k.file.SeriesKey(id); len(key) > 0 {
			addHash(k.counts, xxh3.Hash(key))
		}
	}
	k.series.MergeInPlace(series)
	return nil
}

func addHash(to *hll.Plus, hash uint64) { to.Add(binary.LittleEndian.AppendUint64(nil, hash)) }

// seriesOf are the live series of shards of one database; file is nil when no shard is here.
func seriesOf(store *tsdb.Store, shards []uint64) (all *tsdb.SeriesIDSet, file *tsdb.SeriesFile, err error) {
	all = tsdb.NewSeriesIDSet()
	for _, sh := range store.Shards(shards) {
		index, err := sh.Index()
		if err != nil {
			return nil, nil, err
		}
		if file, err = sh.SeriesFile(); err != nil { // one for all shards of a database
			return nil, nil, err
		}
		all.Merge(index.SeriesIDSet())
	}
	return all, file, nil
}

// readSketch reads what another node sent. The engine trusts what it decodes.
func readSketch(b []byte) (_ *hll.Plus, err error) {
	if len(b) > maxSketchSize {
		return nil, fmt.Errorf("a sketch of %d bytes", len(b))
	}
	defer func() {
		if recover() != nil {
			err = errors.New("malformed sketch")
		}
	}()
	s := hll.NewDefaultPlus()
	if err := s.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("malformed sketch: %w", err)
	}
	s.Count()
	return s, nil
}
