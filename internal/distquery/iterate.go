package distquery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/entropy/tsmfile"
	"concord/internal/rpc"
)

// CreateIterator merges the iterators of all shards. Aggregates are pushed
// down: each node sends its own, and the merge joins them. See order.go for
// the order of what it merges.
func (m *mapping) CreateIterator(
	ctx context.Context, mm *influxql.Measurement, opt query.IteratorOptions,
) (query.Iterator, error) {
	src := m.source(mm)
	if src == nil {
		return nil, nil
	}
	opt = m.clip(opt)
	opt.Authorizer = src.others.allowed.Authorizer()
	ctx = budget.With(m.e.context(ctx), m.e.share)
	if err := ctx.Err(); err != nil { // the engine asks for hundreds of thousands of iterators, and does not look
		return nil, err
	}
	r := &reading{
		e: m.e, ahead: m.ahead, ctx: ctx, src: src, mm: mm,
		opts: calls{[]query.IteratorOptions{opt}, keepFor(m.e.keeps, opt)},
	}
	open := r.iterator
	if m.e.shareable(mm, opt) {
		open = func() (query.Iterator, error) { return m.shared.note(r) }
	}
	itr, err := open()
	if err == nil && m.e.share != nil && mm.SystemIterator == "" {
		itr = m.e.holds.count(itr, m.e.share, opt)
	}
	if err == nil {
		m.e.handed.add(itr)
	}
	return itr, err
}

// keepFor says which points suffice when an iterator is asked for those of a field.
func keepFor(keeps map[string]aggregate.Keep, opt query.IteratorOptions) aggregate.Keep {
	ref, ok := opt.Expr.(*influxql.VarRef)
	if !ok {
		return aggregate.Keep{}
	}
	return keeps[ref.Val]
}

// calls are the options of some calls of a statement, which differ in nothing but Expr. There is one at least.
type calls struct {
	list []query.IteratorOptions
	// keep says which points suffice, when what is asked for is the points of a field.
	keep aggregate.Keep
}

func oneCall(opt query.IteratorOptions) calls { return calls{list: []query.IteratorOptions{opt}} }

// reading is the calls of a statement over the shards of a source.
type reading struct {
	e     *ShardMapper
	ahead *ahead
	ctx   context.Context // of the statement
	src   *source
	mm    *influxql.Measurement
	opts  calls
}

// with is the reading of other calls over the same shards.
func (r *reading) with(opts calls) *reading {
	other := *r
	other.opts = opts
	return &other
}

// iterator returns the iterator of the only call.
func (r *reading) iterator() (query.Iterator, error) {
	opt := r.opts.list[0]
	if opt.SLimit != 0 || opt.SOffset != 0 {
		return r.limitSeries()
	}
	list, err := r.iterators()
	if err != nil {
		return nil, err
	}
	return firstSeries(list[0], r.mm, opt), nil
}

// iterators returns the iterators of all calls. The files of a shard are read once for all.
func (r *reading) iterators() (list []query.Iterator, err error) {
	ins := make([]inputs, len(r.opts.list))
	if err := r.open(r.src.shards(), ins); err != nil {
		closeAll(ins)
		return nil, err
	}
	for i, opt := range r.opts.list {
		ins[i].share = budget.Of(r.ctx)
		itr, err := ins[i].merge(r.mm, opt, r.src.ties(r.mm))
		if err != nil {
			closeAll(ins[i+1:])
			query.Iterators(list).Close()
			return nil, err
		}
		list = append(list, itr)
	}
	return list, nil
}

func closeAll(ins []inputs) {
	for i := range ins {
		ins[i].close()
	}
}

// open adds the iterators of some shards of the source to all, which are those of each call.
func (r *reading) open(ids []uint64, all []inputs) error {
	local, remote := r.src.split(ids)
	var (
		ins = make([]inputs, len(r.opts.list))
		err error
		wg  sync.WaitGroup
	)
	wg.Add(1)
	go func() {
		defer wg.Done()
		err = r.openRemote(remote, ins)
	}()
	mine, missing, lerr := openShards(r.ctx, r.e.store, r.e.vector, local, r.mm, r.opts)
	wg.Wait()
	err = cmp.Or(lerr, err)
	if err == nil {
		err = r.openRemote(r.src.others.removed(missing), ins)
	}
	for i := range ins {
		in := &ins[i]
		for _, here := range mine[i].list {
			in.list = append(in.list, r.unlessDamaged(here, r.opts.list[i]))
		}
		in.series = append(in.series, mine[i].series...)
		all[i].list = append(all[i].list, in.list...)
		if err == nil {
			err = in.limit(r.src, r.opts.list[i].MaxSeriesN)
		}
	}
	return err
}

// unlessDamaged is an iterator over one shard of this node, which moves to other owners when a file here is damaged.
func (r *reading) unlessDamaged(here opened, opt query.IteratorOptions) opened {
	one := r.with(oneCall(opt))
	if !here.only || !r.e.vector.covers(r.mm, one.opts) {
		return here
	}
	ctx := r.ctx
	again := func(why error) (query.Iterator, error) {
		r.src.others.damaged(here.lowest, why)
		other := make([]inputs, 1)
		if err := one.openRemote([]uint64{here.lowest}, other); err != nil {
			closeAll(other)
			return nil, err
		}
		return other[0].merge(r.mm, opt, false)
	}
	switch itr := here.Iterator.(type) {
	case query.FloatIterator:
		here.Iterator = moving(ctx, itr, isDamage, again)
	case query.IntegerIterator:
		here.Iterator = moving(ctx, itr, isDamage, again)
	case query.UnsignedIterator:
		here.Iterator = moving(ctx, itr, isDamage, again)
	case query.StringIterator:
		here.Iterator = moving(ctx, itr, isDamage, again)
	case query.BooleanIterator:
		here.Iterator = moving(ctx, itr, isDamage, again)
	}
	return here
}

// isDamage reports whether a file of a shard is why it could not be read.
func isDamage(err error) bool { return errors.As(err, new(*tsmfile.Damage)) }

// ties reports whether two shards may have points of one time: shards of one group
// have, and names of fields have no time.
func (s *source) ties(mm *influxql.Measurement) bool {
	return mm.SystemIterator != "" || slices.ContainsFunc(s.groups, func(g []uint64) bool { return len(g) > 1 })
}

// inputs are what a merge is made of.
type inputs struct {
	mu     sync.Mutex
	list   []opened
	series []*rpc.SeriesCount
	share  *budget.Share // from which a merge takes what it holds
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
		list = query.Iterators{byShard(in.list, opt, ties, in.share)}
	}
	itr, err := list.Merge(opt)
	if err != nil {
		in.close()
	}
	return itr, err
}

// openShards opens the iterators of shards on this node, for each call one for each measurement and shard, so that
// their series can be told apart.
func openShards(
	ctx context.Context, store *tsdb.Store, v Vector, ids []uint64, mm *influxql.Measurement, opts calls,
) (ins []inputs, missing []uint64, err error) {
	for {
		var shards []readShard
		if shards, missing, err = shardsOf(store, ids); err != nil {
			return make([]inputs, len(opts.list)), nil, err
		}
		var all tsdb.Shards
		for _, sh := range shards {
			all = append(all, sh.Shard)
		}
		ins, err = openThese(ctx, v, all, mm, opts)
		closed := func(sh readShard) bool { return !sh.open(store) }
		if err != nil || !slices.ContainsFunc(shards, closed) {
			return ins, missing, err
		}
		closeAll(ins)
	}
}

// readShard is a shard that is about to be read. The engine opens what is left of one that is being closed, without an
// error.
type readShard struct {
	*tsdb.Shard
	engine tsdb.Engine
}

// open reports whether the shard has been open since it was looked up.
func (s readShard) open(store *tsdb.Store) bool {
	engine, err := s.Engine()
	return err == nil && engine == s.engine && store.Shard(s.ID()) == s.Shard && !blocked(engine)
}

// blocked reports whether new readers of a shard get no files: it waits for its readers, and is opened again then.
func blocked(engine tsdb.Engine) bool {
	own, ok := engine.(*tsm1.Engine)
	if !ok {
		return false
	}
	_, err := own.FileStore.TSMReader("") // of none
	return errors.Is(err, tsm1.ErrNewReadersBlocked)
}

// shardsOf returns shards of this node, and those that it does not have or that no reader can open now.
func shardsOf(store *tsdb.Store, ids []uint64) (shards []readShard, missing []uint64, err error) {
	for _, id := range ids {
		sh := store.Shard(id)
		if sh == nil {
			missing = append(missing, id)
			continue
		}
		engine, err := sh.Engine()
		if err != nil {
			return nil, nil, fmt.Errorf("shard %d: %w", id, err)
		}
		if blocked(engine) {
			missing = append(missing, id)
			continue
		}
		shards = append(shards, readShard{sh, engine})
	}
	return shards, missing, nil
}

// openThese opens iterators over shards, those of each call.
func openThese(
	ctx context.Context, v Vector, shards tsdb.Shards, mm *influxql.Measurement, opts calls,
) (ins []inputs, err error) {
	ins = make([]inputs, len(opts.list))
	defer func() {
		if err != nil {
			closeAll(ins)
			ins = make([]inputs, len(opts.list))
		}
	}()
	measurements := []*influxql.Measurement{mm}
	if mm.Regex != nil && mm.SystemIterator != "_series" { // whose condition has it
		measurements = nil
		for _, name := range shards.MeasurementsByRegex(mm.Regex.Val) {
			one := mm.Clone()
			one.Name, one.Regex = name, nil
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
			list, err := openPart(ctx, v, part, mm, opts)
			if err != nil {
				return ins, err
			}
			for i, itr := range list {
				if itr != nil {
					ins[i].take(itr, part, mm, opts.list[i])
				}
			}
		}
	}
	return ins, nil
}

// take adds the iterator of a part of the shards of this node.
func (in *inputs) take(itr query.Iterator, part tsdb.Shards, mm *influxql.Measurement, opt query.IteratorOptions) {
	in.list = append(in.list, opened{Iterator: itr, lowest: part[0].ID(), only: len(part) == 1})
	if opt.MaxSeriesN > 0 && len(part) == 1 {
		in.series = append(in.series, &rpc.SeriesCount{
			ShardId: part[0].ID(), Measurement: []byte(mm.Name), SeriesN: int64(itr.Stats().SeriesN),
		})
	}
}

// Vector says how aggregates are answered.
type Vector struct {
	// On is whether they are computed from arrays (package aggregate), as far as they can be. Else the engine does it.
	On bool
	// Bounds tells the range of time of a shard. It may be nil.
	Bounds aggregate.Bounds
}

// VectorOf computes aggregates from arrays when on is true. A node's metadata tells the times of shards.
func VectorOf(state func() *cluster.State, on bool) Vector {
	return Vector{On: on, Bounds: func(shard uint64) (min, max int64, ok bool) {
		sh, ok := state().Shard(shard)
		return sh.Start, sh.GroupEnd - 1, ok
	}}
}

// openPart opens the iterators of calls on one shard, or on the shards whose indexes are read as one. Most aggregates
// are computed from arrays.
func openPart(
	ctx context.Context, v Vector, part tsdb.Shards, mm *influxql.Measurement, opts calls,
) ([]query.Iterator, error) {
	list := make([]query.Iterator, len(opts.list))
	if a := opts.list[0].Authorizer; !query.AuthorizerIsOpen(a) && len(part) == 1 && mm.SystemIterator == "" {
		// To this user a measurement without an allowed series does not exist.
		if o, err := newOneShard(part[0], a); err != nil {
			return nil, err
		} else if exists, err := o.exists(ctx, []byte(mm.Name)); err != nil || !exists {
			return list, err
		}
	}
	if len(part) == 1 && v.covers(mm, opts) {
		var exprs []influxql.Expr
		for _, opt := range opts.list {
			exprs = append(exprs, opt.Expr)
		}
		scan, covered, err := aggregate.Open(ctx, part[0], v.Bounds, mm, opts.list[0], exprs...)
		if err != nil {
			return nil, err
		}
		if covered {
			for i := range list {
				if scan != nil {
					list[i] = scan.Iterator(i)
				}
			}
			return list, nil
		}
	}
	for i, opt := range opts.list {
		var err error
		if list[i], err = openOne(ctx, v, part, mm, opt, opts.keep); err != nil {
			query.Iterators(slices.DeleteFunc(list[:i], func(itr query.Iterator) bool { return itr == nil })).Close()
			return nil, err
		}
	}
	return list, nil
}

// openOne opens an iterator that shares its work with no other: from the index or the files, where that suffices, and
// else the engine's.
func openOne(
	ctx context.Context, v Vector, part tsdb.Shards, mm *influxql.Measurement, opt query.IteratorOptions,
	keep aggregate.Keep,
) (query.Iterator, error) {
	switch {
	case mm.SystemIterator == "_series":
		return openSeriesList(ctx, part, opt)
	case mm.SystemIterator == "_fieldKeys" && !query.AuthorizerIsOpen(opt.Authorizer):
		return openFieldKeys(ctx, part, opt)
	case mm.SystemIterator == "_fieldKeys" && len(part) == 1:
		itr, err := part.CreateIterator(ctx, mm, opt)
		if keys, ok := itr.(query.FloatIterator); ok && err == nil {
			return &countedKeys{FloatIterator: keys, shard: part[0], share: budget.Of(ctx)}, nil
		}
		return itr, err
	}
	if v.On && len(part) == 1 {
		switch {
		case aggregate.CoversKeys(mm, opt):
			if keys, covered, err := aggregate.OpenKeys(ctx, part[0], mm, opt); err != nil || covered {
				return keys, err
			}
		case aggregate.CoversPoints(mm, opt, keep):
			if itr, covered, err := aggregate.OpenPoints(ctx, part[0], v.Bounds, mm, opt, keep); err != nil || covered {
				return itr, err
			}
		}
	}
	return openCounted(ctx, part, mm, opt)
}

// covers reports whether calls may be computed from arrays.
func (v Vector) covers(mm *influxql.Measurement, opts calls) bool {
	return v.On && !slices.ContainsFunc(opts.list, func(opt query.IteratorOptions) bool {
		return !aggregate.Covers(mm, opt)
	})
}
