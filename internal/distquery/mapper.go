package distquery

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// Metadata is what queries need to know of the cluster.
type Metadata interface {
	NodeID() uint64
	State() *cluster.State
	// CatchUpWithOthers makes State as new as other nodes are known to have it, or returns that it is behind.
	CatchUpWithOthers(ctx context.Context) error
	Database(name string) *emeta.DatabaseInfo
	RetentionPolicy(database, policy string) (*emeta.RetentionPolicyInfo, error)
	ShardGroupsByTimeRange(database, policy string, min, max time.Time) ([]emeta.ShardGroupInfo, error)
}

// ShardMapper is the engine's query.ShardMapper over the whole cluster.
type ShardMapper struct {
	// silence is how long a node may give no sign of life before another is asked, or, after its first point, the
	// query fails.
	silence time.Duration
	whole   Whole  // which copies may be read
	vector  Vector // how aggregates are answered

	// Of the statement.
	report    *Report                   // nil for none
	statement string                    // that nodes may begin; empty for none
	paths     *paths                    // of EXPLAIN; nil for others
	keeps     map[string]aggregate.Keep // which points of a field suffice
	share     *budget.Share             // of this node's memory
	holds     holding                   // what its functions keep
	compiles  *influxql.SelectStatement // it, or what it explains; nil for others
	ending    context.Context           // ends with the statement; nil for that of each iterator
	handed    *handedOut                // to close what is left of it; nil for none

	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
}

// NewShardMapper returns the mapper of a node.
func NewShardMapper(d Deps) *ShardMapper {
	return &ShardMapper{
		silence: askTimeout, whole: d.Whole, vector: d.Vector, meta: d.Meta, store: d.Store, pool: d.Pool,
	}
}

// For returns the mapper for one statement, which notes in the report what it could not read whole.
func (e *ShardMapper) For(report *Report) *ShardMapper {
	one := *e
	one.report = report
	return &one
}

// context is ctx, and ends with the statement.
func (e *ShardMapper) context(ctx context.Context) context.Context {
	return endingWith(ctx, e.ending)
}

// endingWith is ctx, and ends with the statement; nil is for one that ends with ctx itself.
func endingWith(ctx, statement context.Context) context.Context {
	if statement == nil {
		statement = ctx
	}
	return endingContext{Context: statement, values: ctx}
}

// endingContext ends as its Context does, and has the values of another one.
type endingContext struct {
	context.Context
	values context.Context
}

func (c endingContext) Err() error { return interrupted(c.Context) }

func (c endingContext) Value(key any) any { return c.values.Value(key) }

func (e *ShardMapper) newOwned() *owned { return newOwned(e.meta, e.pool, e.whole, e.report) }

// MapShards maps sources to local shards and to owners of all others.
func (e *ShardMapper) MapShards(sources influxql.Sources, t influxql.TimeRange,
	opt query.SelectOptions) (query.ShardGroup, error) {
	user, err := restrict.From(opt.Authorizer)
	if err != nil {
		return nil, err
	}
	m := &mapping{
		e: e, user: user, sources: make(map[coordinator.Source]*source),
		min: time.Unix(0, t.MinTimeNano()), max: time.Unix(0, t.MaxTimeNano()), ahead: &ahead{},
	}
	m.schemas = schemas{
		e: e, min: m.min, max: m.max, series: opt.MaxSeriesN, ahead: m.ahead, of: make(map[schemaKey]*schema),
	}
	err = e.mapShards(m, sources)
	if err == nil {
		err = m.countCompiled(e.compiles, e.share)
	}
	if err != nil {
		m.ahead.close()
		return nil, err
	}
	return m, nil
}

func (e *ShardMapper) mapShards(m *mapping, sources influxql.Sources) error {
	for _, s := range sources {
		switch s := s.(type) {
		case *influxql.Measurement:
			key := sourceOf(s)
			if _, ok := m.sources[key]; !ok {
				groups, err := e.meta.ShardGroupsByTimeRange(s.Database, s.RetentionPolicy, m.min, m.max)
				if err != nil {
					return err
				}
				others := e.newOwned()
				others.allowed = m.user.Reads(s.Database)
				m.sources[key] = newSource(others, e.store, groups)
			}
			// MapType cannot fail, and a field of unknown type is left out of the answer without a word.
			if src := m.source(s); src != nil && s.SystemIterator == "" {
				if err := m.schemas.get(s, src).err; err != nil {
					return err
				}
			}
		case *influxql.SubQuery:
			if err := e.mapShards(m, s.Statement.Sources); err != nil {
				return err
			}
		}
	}
	return nil
}

func sourceOf(mm *influxql.Measurement) coordinator.Source {
	return coordinator.Source{Database: mm.Database, RetentionPolicy: mm.RetentionPolicy}
}

// source is the shards of one retention policy.
type source struct {
	groups [][]uint64      // shards by shard group, in the order of time
	local  map[uint64]bool // shards that this node answers for
	others *owned          // all others
}

func newSource(others *owned, store *tsdb.Store, groups []emeta.ShardGroupInfo) *source {
	s := &source{local: make(map[uint64]bool), others: others}
	var all []emeta.ShardInfo
	for _, g := range groups {
		ids := make([]uint64, 0, len(g.Shards))
		for _, sh := range g.Shards {
			ids = append(ids, sh.ID)
		}
		s.groups = append(s.groups, ids)
		all = append(all, g.Shards...)
	}
	for _, id := range others.add(all, store) {
		s.local[id] = true
	}
	return s
}

// newDatabase is all shards of a database without some of them.
func newDatabase(others *owned, store *tsdb.Store, db string, without []uint64) *source {
	leave := make(map[uint64]bool, len(without))
	for _, id := range without {
		leave[id] = true
	}
	var all []emeta.ShardInfo
	if info := others.state.Data.Database(db); info != nil {
		for _, rp := range info.RetentionPolicies {
			for _, g := range rp.ShardGroups {
				if !g.Deleted() {
					all = append(all, g.Shards...)
				}
			}
		}
	}
	all = slices.DeleteFunc(all, func(sh emeta.ShardInfo) bool { return leave[sh.ID] })
	return newSource(others, store, []emeta.ShardGroupInfo{{Shards: all}})
}

func infoOf(sh cluster.Shard) emeta.ShardInfo {
	info := emeta.ShardInfo{ID: sh.ID}
	for _, id := range sh.Owners {
		info.Owners = append(info.Owners, emeta.ShardOwner{NodeID: id})
	}
	return info
}

// split tells local shards from those of others.
func (s *source) split(ids []uint64) (local, remote []uint64) {
	for _, id := range ids {
		if s.local[id] {
			local = append(local, id)
		} else {
			remote = append(remote, id)
		}
	}
	return local, remote
}

func (s *source) shards() []uint64 {
	var ids []uint64
	for _, g := range s.groups {
		ids = append(ids, g...)
	}
	return ids
}

// mapping is a query.ShardGroup: the shards of one statement.
type mapping struct {
	e        *ShardMapper
	user     *restrict.User // nil for one without restrictions
	sources  map[coordinator.Source]*source
	min, max time.Time // the statement's time range
	schemas  schemas
	ahead    *ahead
	shared   shared
}

// source returns the shards of a measurement, nil when there are none.
func (m *mapping) source(mm *influxql.Measurement) *source {
	if s := m.sources[sourceOf(mm)]; s != nil && len(s.groups) > 0 {
		return s
	}
	return nil
}

// IteratorCost adds the costs of all shards.
func (m *mapping) IteratorCost(mm *influxql.Measurement, opt query.IteratorOptions) (query.IteratorCost, error) {
	src := m.source(mm)
	if src == nil {
		return query.IteratorCost{}, nil
	}
	opt = m.clip(opt)
	opt.Authorizer = src.others.allowed.Authorizer()
	m.e.paths.note(m.e.vector, mm, opt, keepFor(m.e.keeps, opt))
	req, err := encodeOptions(mm, opt)
	if err != nil {
		return query.IteratorCost{}, err
	}
	local, remote := src.split(src.shards())
	cost, err := costOf(m.e.context(context.Background()), m.e.store, local, mm, opt, src.others.allowed)
	if err != nil {
		return cost, err
	}
	var mu sync.Mutex
	err = src.others.each(context.Background(), remote,
		func(ctx context.Context, p peer, ids []uint64) (passed, error) {
			r, err := p.IteratorCost(ctx, &rpc.IteratorRequest{ShardIds: ids, Options: req, Incomplete: p.incomplete})
			if err != nil {
				return passed{}, err
			}
			mu.Lock()
			defer mu.Unlock()
			cost = cost.Combine(query.IteratorCost{
				NumShards: r.NumShards, NumSeries: r.NumSeries, CachedValues: r.CachedValues,
				NumFiles: r.NumFiles, BlocksRead: r.BlocksRead, BlockSize: r.BlockSize,
			})
			return passed{r.Missing, r.Unfit}, nil
		})
	return cost, err
}

// Close frees what no iterator will read. Iterators that were made live on.
func (m *mapping) Close() error {
	if !m.shared.waiting() {
		m.ahead.close()
	}
	return nil
}

// clip narrows the time range to that of the statement, as the engine does locally.
func (m *mapping) clip(opt query.IteratorOptions) query.IteratorOptions {
	opt.StartTime = max(opt.StartTime, m.min.UnixNano())
	opt.EndTime = min(opt.EndTime, m.max.UnixNano())
	return opt
}

// localShards are some shards of this node, with the engine's own code over them.
func localShards(store *tsdb.Store, ids []uint64, mm *influxql.Measurement) *coordinator.LocalShardMapping {
	shards := map[coordinator.Source]tsdb.ShardGroup{sourceOf(mm): store.ShardGroup(ids)}
	return &coordinator.LocalShardMapping{ShardMap: shards}
}
