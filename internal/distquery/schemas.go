package distquery

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/budget"
	"concord/internal/restrict"
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

func newSchema() *schema {
	return &schema{fields: make(map[string]influxql.DataType), dims: make(map[string]struct{})}
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

// size is how many fields and tags there are.
func (s *schema) size() int { return len(s.fields) + len(s.dims) }

// copy returns the fields and tags: the engine adds to what it gets.
func (s *schema) copy() (map[string]influxql.DataType, map[string]struct{}) {
	return maps.Clone(s.fields), maps.Clone(s.dims)
}

// typeOf is the type of a field or tag.
func (s *schema) typeOf(name string) influxql.DataType {
	if t, ok := s.fields[name]; ok {
		return t
	}
	if _, ok := s.dims[name]; ok {
		return influxql.Tag
	}
	return influxql.Unknown
}

// schemas are the schemas that a statement asked for.
type schemas struct {
	e        *ShardMapper
	min, max time.Time // of the statement
	series   int       // which it may have; 0 is no limit
	ahead    *ahead

	mu sync.Mutex
	of map[schemaKey]*schema
}

// get asks for the schema of a measurement, over the shards of src.
func (l *schemas) get(mm *influxql.Measurement, src *source) *schema {
	key := schemaKey{Source: sourceOf(mm), name: mm.Name}
	if mm.Regex != nil {
		key.regex = mm.Regex.Val.String()
	}
	l.mu.Lock()
	s := l.of[key]
	if s == nil {
		s = newSchema()
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
	encoded, err := encodeOptions(mm, query.IteratorOptions{})
	if err != nil {
		return err
	}
	local, remote := src.split(src.shards())
	allowed := src.others.allowed
	if err := l.addLocal(mm, local, false, s, allowed); err != nil {
		return err
	}
	onlyTags := make(map[uint64]bool)
	if l.e.store.EngineOptions.IndexVersion == tsdb.InmemIndexName {
		rest := newDatabase(src.others, l.e.store, mm.Database, src.shards())
		mine, theirs := rest.split(rest.shards())
		if err := l.addLocal(mm, tagShards(l.e.store, mine), true, s, allowed); err != nil {
			return err
		}
		for _, id := range theirs {
			onlyTags[id] = true
		}
		src.others.askForNames(theirs)
		remote = append(remote, theirs...) // behind the others, which so go to the nodes that will be asked for points
	}
	ctx := l.e.context(context.Background()) // the engine's interface has none here
	return src.others.each(ctx, remote, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		req := &rpc.SelectRequest{Measurement: encoded, Incomplete: p.incomplete}
		for _, id := range ids {
			if onlyTags[id] {
				req.TagShardIds = append(req.TagShardIds, id)
			} else {
				req.ShardIds = append(req.ShardIds, id)
			}
		}
		r, err := l.askNode(ctx, p, req)
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

// addLocal adds to s what shards of this node know of a measurement.
func (l *schemas) addLocal(
	mm *influxql.Measurement, ids []uint64, tagsOnly bool, s *schema, allowed *restrict.Filter,
) error {
	fields, dims, err := dimensionsOf(budget.With(l.e.context(context.Background()), l.e.share), l.e.store, ids, mm,
		allowed)
	if err != nil {
		return err
	}
	if tagsOnly {
		fields = nil
	}
	return s.add(l.e.share, fields, dims)
}

// askNode asks a node for the schema. Unless it reads copies that are not whole, it begins to send points at once.
func (l *schemas) askNode(
	ctx context.Context, p peer, req *rpc.SelectRequest,
) (*rpc.FieldDimensionsResponse, error) {
	if l.e.statement != "" && len(req.ShardIds) > 0 && !p.incomplete {
		req.Statement = []byte(l.e.statement)
		req.MinTime, req.MaxTime, req.MaxSeriesN = l.min.UnixNano(), l.max.UnixNano(), int64(l.series)
	}
	r, err := l.ahead.ask(ctx, l.e, p, req)
	if status.Code(err) == codes.Unimplemented {
		return askFormer(ctx, p, req)
	}
	return r, err
}

// askFormer asks a node of a former build for the schema.
func askFormer(ctx context.Context, p peer, req *rpc.SelectRequest) (*rpc.FieldDimensionsResponse, error) {
	all := &rpc.FieldDimensionsResponse{}
	for _, part := range []*rpc.FieldDimensionsRequest{
		{ShardIds: req.ShardIds},
		{ShardIds: req.TagShardIds, TagsOnly: true},
	} {
		if len(part.ShardIds) == 0 {
			continue
		}
		part.Measurement, part.Incomplete = req.Measurement, req.Incomplete
		r, err := p.FieldDimensions(ctx, part)
		if err != nil {
			return nil, err
		}
		proto.Merge(all, r)
	}
	return all, nil
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
	src := m.source(mm)
	if src == nil {
		return nil, nil, nil
	}
	s := m.schemas.get(mm, src)
	if s.err != nil {
		return nil, nil, s.err
	}
	fields, dims := s.copy()
	return fields, dims, nil
}

// MapType is the type of a field or tag over all shards, as the engine tells it of one.
func (m *mapping) MapType(mm *influxql.Measurement, field string) influxql.DataType {
	src := m.source(mm)
	if src == nil {
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
	return m.schemas.get(mm, src).typeOf(field)
}
