package distquery

import (
	"cmp"
	"context"
	"sync"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/rpc"
)

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

// schemas are the schemas that a statement asked for.
type schemas struct {
	e *ShardMapper

	mu sync.Mutex
	of map[schemaKey]*schema
}

// get asks for the schema of a measurement, over the shards of src, which is nil when there are none.
func (l *schemas) get(mm *influxql.Measurement, src *source) *schema {
	key := schemaKey{Source: sourceOf(mm), name: mm.Name}
	if mm.Regex != nil {
		key.regex = mm.Regex.Val.String()
	}
	l.mu.Lock()
	s := l.of[key]
	if s == nil {
		s = &schema{fields: make(map[string]influxql.DataType), dims: make(map[string]struct{})}
		l.of[key] = s
	}
	l.mu.Unlock()
	s.once.Do(func() { s.err = l.ask(mm, src, s) })
	return s
}

// ask fills s; of two types of a field the engine's order picks. The in-memory
// index is one for all shards of a database, so there the tags are those of
// the database: a tag is known at times at which no series has it.
func (l *schemas) ask(mm *influxql.Measurement, src *source, s *schema) error {
	if src == nil {
		return nil
	}
	all := src
	if l.e.store.EngineOptions.IndexVersion == tsdb.InmemIndexName {
		all = newDatabase(l.e.newOwned(), l.e.store, mm.Database)
	}
	if len(all.shards()) <= len(src.shards()) {
		return l.askSource(mm, src, false, s)
	}
	tags := make(chan error, 1)
	go func() { tags <- l.askSource(mm, all, true, s) }()
	return cmp.Or(l.askSource(mm, src, false, s), <-tags)
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
func (l *schemas) askSource(mm *influxql.Measurement, src *source, tagsOnly bool, s *schema) error {
	req, err := encodeOptions(mm, query.IteratorOptions{})
	if err != nil {
		return err
	}
	local, remote := src.split(src.shards())
	if tagsOnly {
		local = tagShards(l.e.store, local)
	}
	fields, dims, err := localShards(l.e.store, local, mm).FieldDimensions(mm)
	if err != nil {
		return err
	}
	if tagsOnly {
		fields = nil
	}
	if err := s.add(l.e.share, fields, dims); err != nil {
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
		return passed{r.Missing, r.Unfit}, s.add(l.e.share, fields, dims)
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
	s := m.schemas.get(mm, m.source(mm))
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
	s := m.schemas.get(mm, m.source(mm))
	if t, ok := s.fields[field]; ok {
		return t
	}
	if _, ok := s.dims[field]; ok {
		return influxql.Tag
	}
	return influxql.Unknown
}
