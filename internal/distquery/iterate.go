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

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/rpc"
)

// CreateIterator merges the iterators of all shards. Aggregates are pushed
// down: each node sends its own, and the merge joins them. See order.go for
// the order of what it merges.
func (m *mapping) CreateIterator(ctx context.Context, mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	src := m.source(mm)
	if src == nil {
		return nil, nil
	}
	opt = m.clip(opt)
	ctx = budget.With(m.e.context(ctx), m.e.share)
	itr, err := m.createIterator(ctx, src, mm, opt)
	if _, ok := opt.Expr.(*influxql.VarRef); ok && err == nil && m.e.holdsPoints && m.e.share != nil {
		itr = countHeld(itr, m.e.share, opt)
	}
	return itr, err
}

func (m *mapping) createIterator(ctx context.Context, src *source, mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	if opt.SLimit != 0 || opt.SOffset != 0 {
		return m.limitSeries(ctx, src, mm, opt)
	}
	var in inputs
	if err := m.open(ctx, src, src.shards(), mm, opt, &in); err != nil {
		in.close()
		return nil, err
	}
	return in.merge(mm, opt, src.ties(mm))
}

// open adds the iterators of some shards of a source to all.
func (m *mapping) open(ctx context.Context, src *source, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions, all *inputs) error {
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
	mine, lerr := openShards(ctx, m.store, m.e.Vector, local, mm, opt)
	wg.Wait()
	in.list = append(in.list, mine.list...)
	in.series = append(in.series, mine.series...)
	all.list = append(all.list, in.list...)
	if err = cmp.Or(lerr, err); err == nil {
		err = in.limit(src, opt.MaxSeriesN)
	}
	return err
}

// ties reports whether two shards may have points of one time: shards of one group
// have, and names of fields have no time.
func (s *source) ties(mm *influxql.Measurement) bool {
	return mm.SystemIterator != "" || slices.ContainsFunc(s.groups, func(g []uint64) bool { return len(g) > 1 })
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
	ordered := orderMatters(opt) && mm.SystemIterator != "_series"
	share := budget.Of(ctx)
	return src.others.open(ctx, ids, func(asking context.Context, p peer, ids []uint64) (passed, error) {
		if err := share.Grow(costOfStream); err != nil {
			return passed{}, overBudget(err)
		}
		s, first, err := m.openStream(ctx, asking, p, &rpc.IteratorRequest{
			ShardIds: ids, Options: req, Incomplete: p.incomplete, ByShard: ordered,
		})
		if err != nil {
			return passed{}, err
		}
		not := passed{first.Missing, first.Unfit}
		var itr query.Iterator
		if typ := influxql.DataType(first.DataType); typ == influxql.Unknown {
			s.Close()
		} else if itr, err = newRemoteIterator(s, typ, func(why error) (query.Iterator, error) {
			if err := src.others.fail(p.id, why); err != nil {
				return nil, err
			}
			held := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return not.has(id) })
			var other inputs
			if err := m.openRemote(ctx, src, held, mm, opt, &other); err != nil {
				other.close()
				return nil, err
			}
			if ordered {
				return byShard(other.list, opt, false), nil
			}
			return other.merge(mm, opt, false)
		}); err != nil {
			s.Close()
			return passed{}, err
		}
		in.add(opened{Iterator: itr, lowest: slices.Min(ids), only: len(ids) == 1, remote: true}, first.Series)
		return not, nil
	})
}

// inputs are what a merge is made of.
type inputs struct {
	mu      sync.Mutex
	list    []opened
	series  []*rpc.SeriesCount
	missing []uint64
}

func (in *inputs) add(itr opened, series []*rpc.SeriesCount) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if itr.Iterator != nil {
		in.list = append(in.list, itr)
	}
	in.series = append(in.series, series...)
}

func (in *inputs) close() { in.iterators().Close() }

func (in *inputs) iterators() query.Iterators {
	list := make(query.Iterators, 0, len(in.list))
	for _, o := range in.list {
		list = append(list, o.Iterator)
	}
	return list
}

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

// merge joins the inputs, and closes them when it cannot. ties is whether
// their shards may have points of the same time.
func (in *inputs) merge(mm *influxql.Measurement, opt query.IteratorOptions, ties bool) (query.Iterator, error) {
	list := in.iterators()
	switch {
	case len(list) == 0 || len(list) == 1 && in.list[0].only:
	case mm.SystemIterator == "_series":
		if len(list) > 1 {
			return newSeriesMerge(list), nil
		}
	case orderMatters(opt):
		list = query.Iterators{byShard(in.list, opt, ties)}
	}
	itr, err := list.Merge(opt)
	if err != nil {
		in.close()
	}
	return itr, err
}

// openShards opens the iterators of shards on this node, one for each
// measurement and shard, so that their series can be told apart.
func openShards(
	ctx context.Context, store *tsdb.Store, v Vector, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions,
) (in *inputs, err error) {
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
			itr, err := openShard(ctx, v, part, mm, opt)
			if err != nil {
				return in, err
			}
			if itr == nil {
				continue
			}
			in.list = append(in.list, opened{Iterator: itr, lowest: part[0].ID(), only: len(part) == 1})
			if opt.MaxSeriesN > 0 && len(part) == 1 {
				in.series = append(in.series, &rpc.SeriesCount{
					ShardId: part[0].ID(), Measurement: []byte(mm.Name), SeriesN: int64(itr.Stats().SeriesN),
				})
			}
		}
	}
	return in, nil
}

// Vector says how aggregates are answered.
type Vector struct {
	// On is whether they are computed from arrays (package aggregate), as far as they can be. Else the engine does it.
	On bool
	// Bounds tells the range of time of a shard. It may be nil.
	Bounds aggregate.Bounds
}

// VectorOf computes aggregates from arrays, where a node's metadata tells the times of shards.
func VectorOf(state func() *cluster.State) Vector {
	return Vector{On: true, Bounds: func(shard uint64) (min, max int64, ok bool) {
		sh, ok := state().Shard(shard)
		return sh.Start, sh.GroupEnd - 1, ok
	}}
}

// openShard opens the iterator of one shard, or of the shards whose indexes are read as one. Most
// aggregates are computed from arrays.
func openShard(
	ctx context.Context, v Vector, part tsdb.Shards, mm *influxql.Measurement, opt query.IteratorOptions,
) (query.Iterator, error) {
	if v.On && len(part) == 1 && aggregate.Covers(mm, opt) {
		scan, covered, err := aggregate.Open(ctx, part[0], v.Bounds, mm, opt, opt.Expr)
		if err != nil {
			return nil, err
		}
		if scan != nil {
			return scan.Iterator(0), nil
		}
		if covered {
			return nil, nil
		}
	}
	return openCounted(ctx, part, mm, opt)
}
