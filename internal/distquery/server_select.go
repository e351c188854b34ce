package distquery

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/restrict"
	"concord/internal/rpc"
	"concord/internal/statement"
)

// Select answers with the schema of a measurement, and streams the points of a statement when one request for
// iterators suffices for it.
func (s *Server) Select(r *rpc.SelectRequest, out rpc.Query_SelectServer) (err error) {
	defer s.guard(&err)
	ctx, end := s.begin(out.Context())
	defer end(&err)
	to := &sender{out: out}
	defer to.beat(s.beat)()
	answer, known, err := s.schema(ctx, r)
	if err != nil {
		return err
	}
	req := s.plan(ctx, r, answer, known)
	if err := to.send(&rpc.IteratorChunk{Schema: answer, Begun: req}); err != nil || req == nil {
		return err
	}
	return s.iterate(ctx, req, to)
}

// schema is what this node knows of a measurement, as an answer and as a schema.
func (s *Server) schema(ctx context.Context, r *rpc.SelectRequest) (*rpc.FieldDimensionsResponse, *schema, error) {
	mm, _, err := decode(r.Measurement)
	if err != nil {
		return nil, nil, err
	}
	answer, known := &rpc.FieldDimensionsResponse{}, newSchema()
	for _, part := range []struct {
		ids      []uint64
		tagsOnly bool
	}{{r.ShardIds, false}, {r.TagShardIds, true}} {
		ids, not := s.readable(ctx, part.ids, r.Incomplete)
		answer.Missing, answer.Unfit = append(answer.Missing, not.missing...), append(answer.Unfit, not.unfit...)
		if part.tagsOnly {
			ids = tagShards(s.store, ids)
		}
		fields, dims, err := dimensionsOf(ctx, s.store, ids, mm, restrict.Of(ctx))
		if err != nil {
			return nil, nil, failure(err)
		}
		if part.tagsOnly {
			fields = nil
		}
		if err := known.add(budget.Of(ctx), fields, dims); err != nil {
			return nil, nil, err
		}
	}
	for name, t := range known.fields {
		answer.Fields = append(answer.Fields, &rpc.FieldDimensionsResponse_Field{Name: []byte(name),
			DataType: int32(t)})
	}
	for d := range known.dims {
		answer.Dimensions = append(answer.Dimensions, []byte(d))
	}
	return answer, known, nil
}

// plan returns the one request that the asking node will make for a statement when all nodes have the schema of this
// one. It is nil when there would be several, and when the statement does not fit the schema.
func (s *Server) plan(
	ctx context.Context, r *rpc.SelectRequest, answer *rpc.FieldDimensionsResponse, known *schema,
) (req *rpc.IteratorRequest) {
	not := passed{answer.Missing, answer.Unfit}
	ids := slices.DeleteFunc(slices.Clone(r.ShardIds), not.has)
	text := string(r.Statement)
	if text == "" || len(ids) == 0 || statement.Peer.Query(text, nil) != nil {
		return nil
	}
	defer func() { // the asking node's engine will say what is wrong
		if p := recover(); p != nil {
			s.log.Warn("A statement of another node cannot be planned", zap.Any("panic", p))
			req = nil
		}
	}()
	parsed, err := influxql.ParseStatement(text)
	if err != nil {
		return nil
	}
	stmt, ok := parsed.(*influxql.SelectStatement)
	if !ok || textAhead(stmt) == "" || columnsOf(stmt, known.size()) > maxColumnsAhead {
		return nil
	}
	p := &planner{known: known, min: r.MinTime, max: r.MaxTime}
	compiled, err := query.Compile(stmt, query.CompileOptions{})
	if err != nil {
		return nil
	}
	prepared, err := compiled.Prepare(p, query.SelectOptions{MaxSeriesN: int(r.MaxSeriesN)})
	if err != nil {
		return nil
	}
	defer prepared.Close()
	cursor, err := prepared.Select(ctx)
	if err != nil {
		return nil
	}
	cursor.Close()
	return p.request(ids, aggregate.KeepOf(stmt))
}

// planner is a query.ShardMapper and its query.ShardGroup. It notes which iterators the engine asks for, and opens
// none.
type planner struct {
	known    *schema
	min, max int64 // of the statement, in which the asking node's clock has a part

	mu   sync.Mutex // the engine asks for several at once
	mm   *influxql.Measurement
	opts []query.IteratorOptions
}

// MapShards returns p.
func (p *planner) MapShards(influxql.Sources, influxql.TimeRange, query.SelectOptions) (query.ShardGroup, error) {
	return p, nil
}

// FieldDimensions is what this node knows.
func (p *planner) FieldDimensions(*influxql.Measurement) (map[string]influxql.DataType, map[string]struct{}, error) {
	fields, dims := p.known.copy()
	return fields, dims, nil
}

// MapType is what this node knows.
func (p *planner) MapType(_ *influxql.Measurement, field string) influxql.DataType {
	return p.known.typeOf(field)
}

// CreateIterator notes an iterator.
func (p *planner) CreateIterator(
	_ context.Context, mm *influxql.Measurement, opt query.IteratorOptions,
) (query.Iterator, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	opt.StartTime, opt.EndTime = p.min, p.max
	p.mm, p.opts = mm, append(p.opts, opt)
	return nil, nil
}

// IteratorCost is not asked for.
func (p *planner) IteratorCost(*influxql.Measurement, query.IteratorOptions) (query.IteratorCost, error) {
	return query.IteratorCost{}, nil
}

// Close frees nothing.
func (p *planner) Close() error { return nil }

// request is that for all iterators, nil when one does not suffice: only calls that share their work have one.
func (p *planner) request(ids []uint64, keeps map[string]aggregate.Keep) *rpc.IteratorRequest {
	if len(p.opts) == 0 {
		return nil
	}
	slices.SortFunc(p.opts, func(a, b query.IteratorOptions) int {
		return cmp.Compare(exprText(a), exprText(b))
	})
	opts := calls{list: p.opts, keep: keepFor(keeps, p.opts[0])}
	if len(p.opts) > 1 {
		first, err := common(p.mm, p.opts[0])
		if err != nil {
			return nil
		}
		for _, opt := range p.opts {
			if same, err := common(p.mm, opt); err != nil || same != first || !shareable(p.mm, opt) {
				return nil
			}
		}
	}
	req, err := opts.request(p.mm, ids)
	if err != nil {
		return nil
	}
	return req
}
