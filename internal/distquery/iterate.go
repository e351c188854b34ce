package distquery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
)

// CreateIterator merges the iterators of all shards. Aggregates are pushed
// down: each node sends its own, and the merge joins them.
func (m *mapping) CreateIterator(ctx context.Context, mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	src := m.source(mm)
	if src == nil {
		return nil, nil
	}
	opt = m.clip(opt)
	if opt.SLimit != 0 || opt.SOffset != 0 {
		return m.limitSeries(ctx, src, mm, opt)
	}
	return m.open(ctx, src, src.shards(), mm, opt)
}

// open merges the iterators of some shards of a source.
func (m *mapping) open(ctx context.Context, src *source, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	local, remote := src.split(ids)
	var (
		in  inputs
		err error
		wg  sync.WaitGroup
	)
	wg.Add(1)
	go func() {
		defer wg.Done()
		err = m.openRemote(ctx, src, remote, mm, opt, &in)
	}()
	mine, lerr := openShards(ctx, m.store, local, mm, opt)
	wg.Wait()
	in.list = append(in.list, mine.list...)
	in.series = append(in.series, mine.series...)
	if err = cmp.Or(lerr, err); err == nil {
		err = in.limit(src, opt.MaxSeriesN)
	}
	if err != nil {
		in.close()
		return nil, err
	}
	return in.merge(mm, opt)
}

// openRemote adds the iterators of other nodes' shards to in.
func (m *mapping) openRemote(ctx context.Context, src *source, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions, in *inputs) error {
	if len(ids) == 0 {
		return nil
	}
	req, err := encodeOptions(mm, opt)
	if err != nil {
		return err
	}
	return src.others.open(ctx, ids, func(asking context.Context, p peer, ids []uint64) (passed, error) {
		s, first, err := m.openStream(ctx, asking, p, &rpc.IteratorRequest{ShardIds: ids, Options: req, Incomplete: p.incomplete})
		if err != nil {
			return passed{}, err
		}
		not := passed{first.Missing, first.Unfit}
		var itr query.Iterator
		if typ := influxql.DataType(first.DataType); typ == influxql.Unknown {
			s.Close()
		} else if itr, err = newRemoteIterator(s, typ, func(why error) (query.Iterator, error) {
			src.others.fail(p.id, why)
			held := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return not.has(id) })
			var other inputs
			if err := m.openRemote(ctx, src, held, mm, opt, &other); err != nil {
				other.close()
				return nil, err
			}
			return other.merge(mm, opt)
		}); err != nil {
			s.Close()
			return passed{}, err
		}
		in.add(itr, first.Series)
		return not, nil
	})
}

// inputs are what a merge is made of.
type inputs struct {
	mu      sync.Mutex
	list    []query.Iterator
	series  []*rpc.SeriesCount
	missing []uint64
}

func (in *inputs) add(itr query.Iterator, series []*rpc.SeriesCount) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if itr != nil {
		in.list = append(in.list, itr)
	}
	in.series = append(in.series, series...)
}

func (in *inputs) close() { query.Iterators(in.list).Close() }

// limit enforces max-select-series as the engine does for one shard of each
// group: the series of a group's shards add up.
func (in *inputs) limit(src *source, maxSeriesN int) error {
	if maxSeriesN <= 0 {
		return nil
	}
	group := make(map[uint64]int)
	for i, ids := range src.groups {
		for _, id := range ids {
			group[id] = i
		}
	}
	type key struct {
		group       int
		measurement string
	}
	n := make(map[key]int64)
	for _, s := range in.series {
		k := key{group[s.ShardId], string(s.Measurement)}
		if n[k] += s.SeriesN; n[k] > int64(maxSeriesN) {
			return fmt.Errorf("max-select-series limit exceeded: (%d/%d)", n[k], maxSeriesN)
		}
	}
	return nil
}

// merge joins the inputs, and closes them when it cannot.
func (in *inputs) merge(mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	if mm.SystemIterator == "_series" && len(in.list) > 1 {
		return newSeriesMerge(in.list), nil
	}
	itr, err := query.Iterators(in.list).Merge(opt)
	if err != nil {
		in.close()
	}
	return itr, err
}

// openShards opens the iterators of shards on this node, one for each
// measurement and shard, so that their series can be told apart.
func openShards(ctx context.Context, store *tsdb.Store, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions) (in *inputs, err error) {
	in = &inputs{}
	defer func() {
		if err != nil {
			in.close()
			in.list = nil
		}
	}()
	var shards tsdb.Shards
	for _, id := range ids {
		if sh := store.Shard(id); sh != nil {
			shards = append(shards, sh)
		} else {
			in.missing = append(in.missing, id)
		}
	}
	measurements := []*influxql.Measurement{mm}
	if mm.Regex != nil {
		measurements = nil
		for _, name := range shards.MeasurementsByRegex(mm.Regex.Val) {
			one := mm.Clone()
			one.Name = name
			measurements = append(measurements, one)
		}
	}
	for _, mm := range measurements {
		parts := [][]*tsdb.Shard{shards}
		if mm.SystemIterator != "_series" { // which reads all indexes as one
			parts = parts[:0]
			for i := range shards {
				parts = append(parts, shards[i:i+1])
			}
		}
		for _, part := range parts {
			itr, err := tsdb.Shards(part).CreateIterator(ctx, mm, opt)
			if err != nil {
				return in, err
			}
			if itr == nil {
				continue
			}
			in.list = append(in.list, itr)
			if opt.MaxSeriesN > 0 && len(part) == 1 {
				in.series = append(in.series, &rpc.SeriesCount{
					ShardId: part[0].ID(), Measurement: []byte(mm.Name), SeriesN: int64(itr.Stats().SeriesN),
				})
			}
		}
	}
	return in, nil
}
