// Package distquery answers queries over shards on any node: local shards
// locally, every other shard through one of its owners, another owner when
// that one fails before its first point.
package distquery

import (
	"cmp"
	"context"
	"errors"
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
	"concord/internal/rpc"
)

// Metadata is what queries need to know of the cluster.
type Metadata interface {
	NodeID() uint64
	State() *cluster.State
	Database(name string) *emeta.DatabaseInfo
	RetentionPolicy(database, policy string) (*emeta.RetentionPolicyInfo, error)
	ShardGroupsByTimeRange(database, policy string, min, max time.Time) ([]emeta.ShardGroupInfo, error)
}

// errAuthorizer is returned for grants finer than those of InfluxDB 1.x open source.
var errAuthorizer = errors.New("authorization by series is not supported across data nodes")

// ShardMapper is the engine's query.ShardMapper over the whole cluster.
type ShardMapper struct {
	// Silence is how long a node may give no sign of life before another is
	// asked, or, after its first point, the query fails.
	Silence time.Duration
	// Whole says which copies may be read.
	Whole Whole
	// Vector says how aggregates are answered.
	Vector Vector

	// Of the statement.
	report      *Report                   // nil for none
	paths       *paths                    // of EXPLAIN; nil for others
	keeps       map[string]aggregate.Keep // which points of a field suffice
	share       *budget.Share             // of this node's memory
	holdsPoints bool                      // it keeps the points of a window
	ending      context.Context           // ends with the statement; nil for that of each iterator

	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
}

// NewShardMapper returns a mapper for the node that store belongs to.
func NewShardMapper(meta Metadata, store *tsdb.Store, pool *rpc.Pool) *ShardMapper {
	return &ShardMapper{Silence: askTimeout, Vector: VectorOf(meta.State), meta: meta, store: store, pool: pool}
}

// For returns the mapper for one statement, which notes in the report what it could not read whole.
func (e *ShardMapper) For(report *Report) *ShardMapper {
	one := *e
	one.report = report
	return &one
}

// context is ctx, and ends with the statement.
func (e *ShardMapper) context(ctx context.Context) context.Context {
	if e.ending == nil {
		return ctx
	}
	return endingContext{Context: e.ending, values: ctx}
}

// endingContext ends as its Context does, and has the values of another one. The engine's context of a statement sets
// its error without a lock, so that only who waited for its end may read it.
type endingContext struct {
	context.Context
	values context.Context
}

func (c endingContext) Value(key any) any { return c.values.Value(key) }

func (e *ShardMapper) newOwned() *owned { return newOwned(e.meta, e.pool, e.Whole, e.report) }

// MapShards maps sources to local shards and to owners of all others.
func (e *ShardMapper) MapShards(sources influxql.Sources, t influxql.TimeRange, opt query.SelectOptions) (query.ShardGroup, error) {
	if !query.AuthorizerIsOpen(opt.Authorizer) {
		return nil, errAuthorizer
	}
	m := &mapping{
		e: e, store: e.store, silence: e.Silence,
		sources: make(map[coordinator.Source]*source), schemas: make(map[schemaKey]*schema),
		min: time.Unix(0, t.MinTimeNano()), max: time.Unix(0, t.MaxTimeNano()),
	}
	if err := e.mapShards(m, sources); err != nil {
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
				m.sources[key] = newSource(e.newOwned(), e.store, groups)
			}
			// MapType cannot fail, and a field of unknown type is left out of the answer without a word.
			if s.SystemIterator == "" {
				if err := m.schema(s).err; err != nil {
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

// newDatabase is all shards of a database.
func newDatabase(others *owned, store *tsdb.Store, db string) *source {
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
	store    *tsdb.Store
	silence  time.Duration
	sources  map[coordinator.Source]*source
	min, max time.Time // the statement's time range

	mu      sync.Mutex
	schemas map[schemaKey]*schema

	shared shared
}

// source returns the shards of a measurement, nil when there are none.
func (m *mapping) source(mm *influxql.Measurement) *source {
	if s := m.sources[sourceOf(mm)]; s != nil && len(s.groups) > 0 {
		return s
	}
	return nil
}

type schemaKey struct {
	coordinator.Source
	name, regex string
}

// schema is the fields and tags of a measurement over all shards. It is asked
// for once in a statement: every field's type comes from it.
type schema struct {
	once   sync.Once
	err    error
	mu     sync.Mutex // while nodes are asked
	fields map[string]influxql.DataType
	dims   map[string]struct{}
}

func (m *mapping) schema(mm *influxql.Measurement) *schema {
	key := schemaKey{Source: sourceOf(mm), name: mm.Name}
	if mm.Regex != nil {
		key.regex = mm.Regex.Val.String()
	}
	m.mu.Lock()
	s := m.schemas[key]
	if s == nil {
		s = &schema{fields: make(map[string]influxql.DataType), dims: make(map[string]struct{})}
		m.schemas[key] = s
	}
	m.mu.Unlock()
	s.once.Do(func() { s.err = m.ask(mm, s) })
	return s
}

// ask fills s; of two types of a field the engine's order picks. The in-memory
// index is one for all shards of a database, so there the tags are those of
// the database: a tag is known at times at which no series has it.
func (m *mapping) ask(mm *influxql.Measurement, s *schema) error {
	src := m.source(mm)
	if src == nil {
		return nil
	}
	all := src
	if m.store.EngineOptions.IndexVersion == tsdb.InmemIndexName {
		all = newDatabase(m.e.newOwned(), m.store, mm.Database)
	}
	if len(all.shards()) <= len(src.shards()) {
		return m.askSource(mm, src, false, s)
	}
	tags := make(chan error, 1)
	go func() { tags <- m.askSource(mm, all, true, s) }()
	return cmp.Or(m.askSource(mm, src, false, s), <-tags)
}

// add takes over what one node knows.
func (s *schema) add(share *budget.Share, fields map[string]influxql.DataType, dims map[string]struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.fields) + len(s.dims)
	for name, typ := range fields {
		if s.fields[name].LessThan(typ) {
			s.fields[name] = typ
		}
	}
	for d := range dims {
		s.dims[d] = struct{}{}
	}
	if err := share.Grow(costOfField * int64(len(s.fields)+len(s.dims)-before)); err != nil {
		return overBudget(err)
	}
	return nil
}

// askSource adds to s what is known of a measurement on all nodes of a source.
func (m *mapping) askSource(mm *influxql.Measurement, src *source, tagsOnly bool, s *schema) error {
	req, err := encodeOptions(mm, query.IteratorOptions{})
	if err != nil {
		return err
	}
	local, remote := src.split(src.shards())
	if tagsOnly {
		local = tagShards(m.store, local)
	}
	fields, dims, err := localShards(m.store, local, mm).FieldDimensions(mm)
	if err != nil {
		return err
	}
	if tagsOnly {
		fields = nil
	}
	if err := s.add(m.e.share, fields, dims); err != nil {
		return err
	}
	// The engine's interface has no context here: KILL QUERY waits for askTimeout at most.
	return src.others.each(context.Background(), remote, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		r, err := p.FieldDimensions(ctx, &rpc.FieldDimensionsRequest{ShardIds: ids, Measurement: req, TagsOnly: tagsOnly, Incomplete: p.incomplete})
		if err != nil {
			return passed{}, err
		}
		fields, dims := make(map[string]influxql.DataType, len(r.Fields)), make(map[string]struct{}, len(r.Dimensions))
		for _, f := range r.Fields {
			fields[string(f.Name)] = influxql.DataType(f.DataType)
		}
		for _, d := range r.Dimensions {
			dims[string(d)] = struct{}{}
		}
		return passed{r.Missing, r.Unfit}, s.add(m.e.share, fields, dims)
	})
}

// tagShards are those of a node's shards of one database that are enough to
// know the tags of all: an index in memory is one for all shards that have it.
// A database may have thousands of shards, and every statement asks.
func tagShards(store *tsdb.Store, ids []uint64) []uint64 {
	var enough []uint64
	inmem := false
	for _, id := range ids {
		sh := store.Shard(id)
		if sh == nil {
			continue
		}
		if sh.IndexType() == tsdb.InmemIndexName {
			if inmem {
				continue
			}
			inmem = true
		}
		enough = append(enough, id)
	}
	return enough
}

// FieldDimensions joins the fields and tags of all shards.
func (m *mapping) FieldDimensions(mm *influxql.Measurement) (map[string]influxql.DataType, map[string]struct{}, error) {
	if m.source(mm) == nil {
		return nil, nil, nil
	}
	s := m.schema(mm)
	if s.err != nil {
		return nil, nil, s.err
	}
	fields, dims := make(map[string]influxql.DataType, len(s.fields)), make(map[string]struct{}, len(s.dims))
	for k, t := range s.fields { // copies: the engine adds to what it gets
		fields[k] = t
	}
	for d := range s.dims {
		dims[d] = struct{}{}
	}
	return fields, dims, nil
}

// MapType is the type of a field or tag over all shards, as the engine tells it of one.
func (m *mapping) MapType(mm *influxql.Measurement, field string) influxql.DataType {
	if m.source(mm) == nil {
		return influxql.Unknown
	}
	switch field {
	case "_name", "_tagKey", "_tagValue", "_seriesKey":
		return influxql.String
	}
	switch mm.SystemIterator + "." + field {
	case "_fieldKeys.fieldKey", "_fieldKeys.fieldType", "_series.key", "_tagKeys.tagKey":
		return influxql.String
	}
	if mm.SystemIterator != "" {
		return influxql.Unknown
	}
	s := m.schema(mm)
	if t, ok := s.fields[field]; ok {
		return t
	}
	if _, ok := s.dims[field]; ok {
		return influxql.Tag
	}
	return influxql.Unknown
}

// IteratorCost adds the costs of all shards.
func (m *mapping) IteratorCost(mm *influxql.Measurement, opt query.IteratorOptions) (query.IteratorCost, error) {
	src := m.source(mm)
	if src == nil {
		return query.IteratorCost{}, nil
	}
	opt = m.clip(opt)
	m.e.paths.note(m.e.Vector, mm, opt, m.keep(opt))
	req, err := encodeOptions(mm, opt)
	if err != nil {
		return query.IteratorCost{}, err
	}
	local, remote := src.split(src.shards())
	cost, err := localShards(m.store, local, mm).IteratorCost(mm, opt)
	if err != nil {
		return cost, err
	}
	var mu sync.Mutex
	err = src.others.each(context.Background(), remote, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
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

// Close has nothing to free: iterators that were made live on.
func (m *mapping) Close() error { return nil }

// clip narrows the time range to that of the statement, as the engine does locally.
func (m *mapping) clip(opt query.IteratorOptions) query.IteratorOptions {
	opt.StartTime = max(opt.StartTime, m.min.UnixNano())
	opt.EndTime = min(opt.EndTime, m.max.UnixNano())
	return opt
}

// localShards are some shards of this node, with the engine's own code over them.
func localShards(store *tsdb.Store, ids []uint64, mm *influxql.Measurement) *coordinator.LocalShardMapping {
	return &coordinator.LocalShardMapping{ShardMap: map[coordinator.Source]tsdb.ShardGroup{sourceOf(mm): store.ShardGroup(ids)}}
}
