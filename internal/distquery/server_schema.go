package distquery

import (
	"context"
	"regexp"
	"slices"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

func condition(text []byte) (influxql.Expr, error) {
	e, err := decodeCondition(text)
	if err != nil {
		err = status.Error(codes.InvalidArgument, err.Error())
	}
	return e, err
}

// MeasurementNames lists the measurements of shards at once, for nodes of a former build.
func (s *Server) MeasurementNames(
	ctx context.Context, r *rpc.SchemaRequest,
) (_ *rpc.MeasurementNamesResponse, err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return nil, err
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	resp := &rpc.MeasurementNamesResponse{Missing: not.missing, Unfit: not.unfit}
	ctx, end := s.begin(ctx)
	defer end(&err)
	if resp.Names, err = measurementNames(ctx, s.store, restrict.Of(ctx), ids, cond); err != nil {
		return nil, failure(err)
	}
	for _, text := range r.More {
		if cond, err = condition(text); err != nil {
			return nil, err
		}
		names, err := measurementNames(ctx, s.store, restrict.Of(ctx), ids, cond)
		if err != nil {
			return nil, failure(err)
		}
		resp.More = append(resp.More, &rpc.MeasurementNamesResponse_Names{Names: names})
	}
	return resp, nil
}

// TagKeys lists tag keys by measurement.
func (s *Server) TagKeys(ctx context.Context, r *rpc.SchemaRequest) (_ *rpc.TagKeysResponse, err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return nil, err
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	resp := &rpc.TagKeysResponse{Missing: not.missing, Unfit: not.unfit}
	ctx, end := s.begin(ctx)
	defer end(&err)
	list, err := tagKeys(ctx, s.store, restrict.Of(ctx), ids, cond)
	if err == nil {
		err = budget.Of(ctx).Grow(keysSize(list))
	}
	if err != nil {
		return nil, failure(err)
	}
	for _, m := range list {
		k := &rpc.TagKeysResponse_Keys{Measurement: []byte(m.Measurement)}
		for _, key := range m.Keys {
			k.Keys = append(k.Keys, []byte(key))
		}
		resp.Measurements = append(resp.Measurements, k)
	}
	return resp, nil
}

// Measurements streams the measurements of shards that at least one of the conditions selects.
func (s *Server) Measurements(r *rpc.SchemaRequest, out rpc.Query_MeasurementsServer) (err error) {
	defer s.guard(&err)
	var questions []influxql.Expr
	for _, text := range append([][]byte{r.Condition}, r.More...) {
		q, err := condition(text)
		if err != nil {
			return err
		}
		questions = append(questions, q)
	}
	ids, not := s.readable(out.Context(), r.ShardIds, r.Incomplete)
	ctx, end := s.begin(out.Context())
	defer end(&err)
	to := &signed[rpc.MeasurementsChunk]{to: out.Send}
	defer beat(s.beat, to.sign)()
	if err := to.send(&rpc.MeasurementsChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	list := listMeasurements(ctx, s.store, restrict.Of(ctx), ids, questions, bounded(r.Most))
	return s.sendList(list, func(part []entry) error {
		c := &rpc.MeasurementsChunk{}
		for _, e := range part {
			c.Names = append(c.Names, []byte(e.measurement))
			if len(questions) > 1 {
				c.Selected = append(c.Selected, &rpc.Selected{By: e.selected})
			}
		}
		return to.send(c)
	})
}

// TagValues streams tag values by measurement.
func (s *Server) TagValues(r *rpc.SchemaRequest, out rpc.Query_TagValuesServer) (err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return err
	}
	ids, not := s.readable(out.Context(), r.ShardIds, r.Incomplete)
	ctx, end := s.begin(out.Context())
	defer end(&err)
	to := &signed[rpc.TagValuesChunk]{to: out.Send}
	defer beat(s.beat, to.sign)()
	if err := to.send(&rpc.TagValuesChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	list := listTagValues(ctx, s.store, restrict.Of(ctx), ids, cond, bounded(r.Most))
	return s.sendList(list, func(part []entry) error {
		c := &rpc.TagValuesChunk{}
		var last *rpc.TagValuesChunk_Values
		for _, e := range part {
			if last == nil || string(last.Measurement) != e.measurement {
				last = &rpc.TagValuesChunk_Values{Measurement: []byte(e.measurement)}
				c.Measurements = append(c.Measurements, last)
			}
			last.Values = append(last.Values, &rpc.TagValuesChunk_KeyValue{Key: []byte(e.Key), Value: []byte(e.Value)})
		}
		return to.send(c)
	})
}

// bounded is how many entries are asked for, as a number that has room for more.
func bounded(most uint64) int {
	if most > mostKept {
		return 0
	}
	return int(most)
}

// sendList sends a list in parts, each as large as the Chunk of the server or chunkLen entries long.
func (s *Server) sendList(list schemaList, send func(part []entry) error) error {
	var part []entry
	size := 0
	for e, err := range list {
		if err != nil {
			return failure(err)
		}
		part = append(part, e)
		size += len(e.measurement) + len(e.Key) + len(e.Value)
		if size < s.chunk && len(part) < chunkLen {
			continue
		}
		if err := send(part); err != nil {
			return err
		}
		part, size = part[:0], 0
	}
	if len(part) == 0 {
		return nil
	}
	return send(part)
}

// SeriesSketch tells how many series shards have, and, unless the count alone is asked for, which ones, about. Nobody
// asks it for a user with restrictions.
func (s *Server) SeriesSketch(ctx context.Context, r *rpc.SchemaRequest) (_ *rpc.SeriesSketchResponse, err error) {
	defer s.guard(&err)
	if restrict.Of(ctx) != nil {
		return nil, status.Error(codes.InvalidArgument, "there is no sketch of some series")
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	resp := &rpc.SeriesSketchResponse{Missing: not.missing, Unfit: not.unfit}
	if r.Count {
		series, _, err := seriesOf(s.store, ids)
		if err != nil {
			return nil, failure(err)
		}
		resp.Count = series.Cardinality()
		return resp, nil
	}
	n, hashes, counts, err := s.sketches.of(ctx, s.store, ids)
	if err != nil {
		return nil, failure(err)
	}
	resp.Count, resp.Hashes = n, hashes
	if counts != nil {
		if resp.Sketch, err = counts.MarshalBinary(); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// SeriesHashes streams the hashes of the series of shards.
func (s *Server) SeriesHashes(r *rpc.SchemaRequest, out rpc.Query_SeriesHashesServer) (err error) {
	defer s.guard(&err)
	ids, not := s.readable(out.Context(), r.ShardIds, r.Incomplete)
	if err := out.Send(&rpc.SeriesHashesChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	ctx, end := s.begin(out.Context())
	defer end(&err)
	hashes, err := seriesHashes(ctx, s.store, restrict.Of(ctx), ids)
	if err != nil {
		return failure(err)
	}
	for part := range slices.Chunk(hashes, chunkLen) {
		if err := out.Send(&rpc.SeriesHashesChunk{Hashes: part}); err != nil {
			return err
		}
	}
	return nil
}

// measurementNames lists the measurements of shards on this node, sorted.
func measurementNames(
	ctx context.Context, store *tsdb.Store, allowed *restrict.Filter, ids []uint64, cond influxql.Expr,
) ([][]byte, error) {
	is, err := indexesOf(store, ids)
	if err != nil || len(is.Indexes) == 0 {
		return nil, err
	}
	if allowed != nil {
		cond = influxql.RewriteExpr(influxql.CloneExpr(cond), hasAllowedTag)
	}
	names, err := is.MeasurementNamesByExpr(allowed.Authorizer(), cond)
	if err != nil {
		return nil, err
	}
	return names, budget.Of(ctx).Grow(namesSize(names))
}

var anyValue = regexp.MustCompile(`(?s).+`)

// hasAllowedTag asks for a value where a question is whether a measurement has a tag: the engine looks then whether an
// allowed series has both, and else whether the measurement has an allowed series and any series the tag.
func hasAllowedTag(e influxql.Expr) influxql.Expr {
	b, ok := e.(*influxql.BinaryExpr)
	if !ok || b.Op != influxql.NEQ {
		return e
	}
	if v, ok := b.RHS.(*influxql.StringLiteral); !ok || v.Val != "" {
		return e
	}
	if tag, ok := b.LHS.(*influxql.VarRef); !ok || tag.Val == "_name" {
		return e
	}
	return &influxql.BinaryExpr{Op: influxql.EQREGEX, LHS: b.LHS, RHS: &influxql.RegexLiteral{Val: anyValue}}
}

// tagKeys lists the tag keys of shards on this node that the user may see. The engine also names measurements without
// any.
func tagKeys(
	ctx context.Context, store *tsdb.Store, allowed *restrict.Filter, ids []uint64, cond influxql.Expr,
) ([]tsdb.TagKeys, error) {
	list, err := store.TagKeys(ctx, allowed.Authorizer(), ids, cond)
	if allowed != nil {
		list = slices.DeleteFunc(list, func(m tsdb.TagKeys) bool { return len(m.Keys) == 0 })
	}
	return list, err
}

// The sizes of what the index returns: it knows them no earlier, and has most of it in memory anyway.

func namesSize(names [][]byte) (n int64) {
	for _, name := range names {
		n += costOfName + int64(len(name))
	}
	return n
}

func keysSize(list []tsdb.TagKeys) (n int64) {
	for _, m := range list {
		for _, k := range m.Keys {
			n += costOfName + int64(len(k))
		}
	}
	return n
}

// seriesHashes hashes the keys of the live series of shards on this node that the user may see, sorted, each once.
func seriesHashes(
	ctx context.Context, store *tsdb.Store, allowed *restrict.Filter, ids []uint64,
) ([]uint64, error) {
	all, file, err := seriesOf(store, ids)
	if err != nil || file == nil {
		return nil, err
	}
	return hashesOf(ctx, file, allowedSeries(file, all, allowed))
}

// hashesOf hashes the keys of series, sorted, each once.
func hashesOf(ctx context.Context, file *tsdb.SeriesFile, all *tsdb.SeriesIDSet) ([]uint64, error) {
	defer file.Retain()()
	if err := budget.Of(ctx).Grow(2 * 8 * int64(all.Cardinality())); err != nil {
		return nil, err
	}
	hashes := make([]uint64, 0, all.Cardinality())
	for i, id := range all.Slice() {
		if i%chunkLen == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if key := file.SeriesKey(id); len(key) > 0 {
			hashes = append(hashes, xxh3.Hash(key))
		}
	}
	slices.Sort(hashes)
	return slices.Compact(hashes), nil
}
