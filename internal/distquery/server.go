package distquery

import (
	"bufio"
	"context"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// chunkSize is how many bytes of points are sent at once.
const chunkSize = 64 << 10

// Server answers other nodes' queries from this node's shards.
type Server struct {
	rpc.UnimplementedQueryServer
	store *tsdb.Store
	log   *zap.Logger
}

// NewServer returns the server over store.
func NewServer(store *tsdb.Store, log *zap.Logger) *Server { return &Server{store: store, log: log} }

// guard turns a panic of the engine into an error of one call.
func (s *Server) guard(err *error) {
	if r := recover(); r != nil {
		s.log.Error("A query of another node panicked", zap.Any("panic", r), zap.Stack("stack"))
		*err = status.Errorf(codes.Internal, "panic: %v", r)
	}
}

// over maps one measurement to the asked shards that this node has.
func (s *Server) over(ids []uint64, encoded []byte) (*coordinator.LocalShardMapping, *influxql.Measurement, query.IteratorOptions, error) {
	mm, opt, err := decodeRequest(encoded)
	if err != nil {
		return nil, nil, opt, status.Error(codes.InvalidArgument, err.Error())
	}
	src := coordinator.Source{Database: mm.Database, RetentionPolicy: mm.RetentionPolicy}
	return &coordinator.LocalShardMapping{ShardMap: map[coordinator.Source]tsdb.ShardGroup{src: s.store.ShardGroup(ids)}}, mm, opt, nil
}

// CreateIterator streams the points of an iterator.
func (s *Server) CreateIterator(r *rpc.CreateIteratorRequest, stream rpc.Query_CreateIteratorServer) (err error) {
	defer s.guard(&err)
	m, mm, opt, err := s.over(r.ShardIds, r.Options)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	opt.InterruptCh = ctx.Done()
	itr, err := m.CreateIterator(ctx, mm, opt)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if itr == nil {
		return stream.Send(&rpc.CreateIteratorChunk{None: true})
	}
	defer itr.Close()
	typ, err := typeOf(itr)
	if err != nil {
		return err
	}
	stats := itr.Stats()
	if err := stream.Send(&rpc.CreateIteratorChunk{DataType: int32(typ), SeriesN: int64(stats.SeriesN), PointN: int64(stats.PointN)}); err != nil {
		return err
	}
	w := bufio.NewWriterSize(chunkWriter{stream}, chunkSize)
	if err := query.NewIteratorEncoder(w).EncodeIterator(itr); err != nil {
		return err
	}
	return w.Flush()
}

type chunkWriter struct {
	stream rpc.Query_CreateIteratorServer
}

func (w chunkWriter) Write(p []byte) (int, error) {
	// gRPC may keep the message after Send: it gets its own bytes.
	if err := w.stream.Send(&rpc.CreateIteratorChunk{Data: slices.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func typeOf(itr query.Iterator) (influxql.DataType, error) {
	switch itr.(type) {
	case query.FloatIterator:
		return influxql.Float, nil
	case query.IntegerIterator:
		return influxql.Integer, nil
	case query.UnsignedIterator:
		return influxql.Unsigned, nil
	case query.StringIterator:
		return influxql.String, nil
	case query.BooleanIterator:
		return influxql.Boolean, nil
	}
	return influxql.Unknown, fmt.Errorf("unknown iterator %T", itr)
}

// IteratorCost tells what an iterator would read.
func (s *Server) IteratorCost(_ context.Context, r *rpc.CreateIteratorRequest) (_ *rpc.IteratorCostResponse, err error) {
	defer s.guard(&err)
	m, mm, opt, err := s.over(r.ShardIds, r.Options)
	if err != nil {
		return nil, err
	}
	c, err := m.IteratorCost(mm, opt)
	if err != nil {
		return nil, err
	}
	return &rpc.IteratorCostResponse{
		NumShards: c.NumShards, NumSeries: c.NumSeries, CachedValues: c.CachedValues,
		NumFiles: c.NumFiles, BlocksRead: c.BlocksRead, BlockSize: c.BlockSize,
	}, nil
}

// FieldDimensions lists a measurement's fields and tags.
func (s *Server) FieldDimensions(_ context.Context, r *rpc.FieldDimensionsRequest) (_ *rpc.FieldDimensionsResponse, err error) {
	defer s.guard(&err)
	m, mm, _, err := s.over(r.ShardIds, r.Measurement)
	if err != nil {
		return nil, err
	}
	fields, dims, err := m.FieldDimensions(mm)
	if err != nil {
		return nil, err
	}
	resp := &rpc.FieldDimensionsResponse{Fields: make(map[string]int32, len(fields))}
	for k, t := range fields {
		resp.Fields[k] = int32(t)
	}
	for d := range dims {
		resp.Dimensions = append(resp.Dimensions, d)
	}
	return resp, nil
}

// MapType tells a field's type.
func (s *Server) MapType(_ context.Context, r *rpc.MapTypeRequest) (_ *rpc.MapTypeResponse, err error) {
	defer s.guard(&err)
	m, mm, _, err := s.over(r.ShardIds, r.Measurement)
	if err != nil {
		return nil, err
	}
	return &rpc.MapTypeResponse{DataType: int32(m.MapType(mm, r.Field))}, nil
}

func condition(text string) (influxql.Expr, error) {
	if text == "" {
		return nil, nil
	}
	e, err := influxql.ParseExpr(text)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "malformed condition: %v", err)
	}
	return e, nil
}

// MeasurementNames lists the measurements of a database on this node.
func (s *Server) MeasurementNames(ctx context.Context, r *rpc.SchemaRequest) (_ *rpc.MeasurementNamesResponse, err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return nil, err
	}
	names, err := s.store.MeasurementNames(ctx, query.OpenAuthorizer, r.Database, r.RetentionPolicy, cond)
	return &rpc.MeasurementNamesResponse{Names: names}, err
}

// TagKeys lists tag keys by measurement.
func (s *Server) TagKeys(ctx context.Context, r *rpc.SchemaRequest) (_ *rpc.TagKeysResponse, err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return nil, err
	}
	list, err := s.store.TagKeys(ctx, query.OpenAuthorizer, r.ShardIds, cond)
	if err != nil {
		return nil, err
	}
	resp := &rpc.TagKeysResponse{}
	for _, m := range list {
		resp.Measurements = append(resp.Measurements, &rpc.TagKeysResponse_Keys{Measurement: m.Measurement, Keys: m.Keys})
	}
	return resp, nil
}

// TagValues lists tag values by measurement.
func (s *Server) TagValues(ctx context.Context, r *rpc.SchemaRequest) (_ *rpc.TagValuesResponse, err error) {
	defer s.guard(&err)
	cond, err := condition(r.Condition)
	if err != nil {
		return nil, err
	}
	list, err := s.store.TagValues(ctx, query.OpenAuthorizer, r.ShardIds, cond)
	if err != nil {
		return nil, err
	}
	resp := &rpc.TagValuesResponse{}
	for _, m := range list {
		v := &rpc.TagValuesResponse_Values{Measurement: m.Measurement}
		for _, kv := range m.Values {
			v.Values = append(v.Values, &rpc.TagValuesResponse_KeyValue{Key: kv.Key, Value: kv.Value})
		}
		resp.Measurements = append(resp.Measurements, v)
	}
	return resp, nil
}

// Cardinality sends this node's sketches of a database.
func (s *Server) Cardinality(ctx context.Context, r *rpc.CardinalityRequest) (_ *rpc.CardinalityResponse, err error) {
	defer s.guard(&err)
	resp := &rpc.CardinalityResponse{}
	resp.Sketch, resp.TombstoneSketch, err = sketches(ctx, s.store, r.Database, r.Measurements)
	return resp, err
}
