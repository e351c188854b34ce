package distquery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/pkg/tracing"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/copystate"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

const (
	chunkSize = 32 << 10 // bytes of points sent at once
	chunkLen  = 4096     // elements of a list sent at once
)

// Server answers other nodes' queries from this node's shards. It has many methods because each RPC is one.
type Server struct {
	rpc.UnimplementedQueryServer

	beat  time.Duration // between two signs of life of an iterator
	chunk int           // how many bytes of points are sent at once

	whole    Whole          // which copies may be read
	budget   *budget.Budget // the memory of this node for queries; nil is no limit
	vector   Vector         // how aggregates are answered
	sketches *Sketches      // that estimate the number of series

	store *tsdb.Store
	log   *zap.Logger
}

// NewServer returns the server of a node, which asks no others.
func NewServer(d Deps) *Server {
	return &Server{
		beat: time.Second, chunk: chunkSize,
		whole: d.Whole, budget: d.Budget, vector: d.Vector, sketches: d.Sketches, store: d.Store, log: d.Log,
	}
}

// guard turns a panic of the engine into an error of one call.
func (s *Server) guard(err *error) {
	if r := recover(); r != nil {
		s.log.Error("A query of another node panicked", zap.Any("panic", r), zap.Stack("stack"))
		*err = status.Errorf(codes.Internal, "panic: %v", r)
	}
}

// begin opens the share of memory of one question. The context that it returns carries the share, and ends when the
// budget ends the question. end must be deferred with the question's error.
func (s *Server) begin(ctx context.Context) (_ context.Context, end func(*error)) {
	if s.budget == nil {
		return ctx, func(*error) {}
	}
	share := s.budget.Open()
	ctx, cancel := context.WithCancelCause(budget.With(ctx, share))
	stop := share.OnEnd(func(err error) { cancel(err) })
	return ctx, func(err *error) {
		if over := share.Err(); over != nil && *err != nil {
			*err = overBudget(over)
		}
		stop()
		cancel(nil)
		share.Close()
	}
}

// failure tells the asking node whether another owner may do better: not when
// the query itself is at fault.
func failure(err error) error {
	if err == nil || status.Code(err) != codes.Unknown {
		return err
	}
	for _, here := range []error{
		tsdb.ErrShardDisabled, tsdb.ErrEngineClosed, tsdb.ErrStoreClosed, tsdb.ErrShardNotFound,
		tsdb.ErrShardDeletion, tsdb.ErrIndexClosing, tsdb.ErrSeriesFileClosed, context.Canceled,
		context.DeadlineExceeded,
	} {
		if errors.Is(err, here) {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
	if errors.As(err, new(*fs.PathError)) || isDamage(err) {
		return status.Error(codes.DataLoss, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// decode reads what every question about a measurement has.
func decode(encoded []byte) (*influxql.Measurement, query.IteratorOptions, error) {
	mm, opt, err := decodeOptions(encoded)
	if err != nil {
		err = status.Error(codes.InvalidArgument, err.Error())
	}
	return mm, opt, err
}

// readable tells which of the asked shards this node reads, and which it does not: it does not have them, or its
// copies are not whole. When the answer may be incomplete it reads all that it has.
func (s *Server) readable(ctx context.Context, asked []uint64, incomplete bool) (ids []uint64, not passed) {
	var unfit map[uint64]copystate.Unfit
	if !incomplete {
		unfit = s.whole.unfit(ctx, asked)
	}
	for _, id := range asked {
		exists := s.store.Shard(id) != nil
		if u, bad := unfit[id]; bad {
			not.unfit = append(not.unfit, &rpc.Unfit{ShardId: id, Reason: u.Reason, Readable: u.Readable && exists,
				Rank: uint32(u.Rank)})
		} else if exists {
			ids = append(ids, id)
		} else {
			not.missing = append(not.missing, id)
		}
	}
	return ids, not
}

// CreateIterator streams the points of an iterator. It ends when its caller
// does: the stream's context interrupts the engine.
func (s *Server) CreateIterator(r *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) (err error) {
	defer s.guard(&err)
	ctx, end := s.begin(out.Context())
	defer end(&err)
	to := &sender{out: out}
	defer to.beat(s.beat)()
	return s.iterate(ctx, r, to)
}

// iterate sends the points that a request asks for.
func (s *Server) iterate(ctx context.Context, r *rpc.IteratorRequest, to *sender) error {
	mm, opt, err := decode(r.Options)
	if err != nil {
		return err
	}
	ctx, trace, span, err := traced(ctx, r.Span)
	if err != nil {
		return err
	}
	if err := budget.Of(ctx).Grow(costOfStream); err != nil {
		return overBudget(err)
	}
	opt.InterruptCh, opt.Authorizer = ctx.Done(), restrict.Of(ctx).Authorizer()
	if err := budget.Of(ctx).Grow(costOfCall * int64(len(r.MoreCalls))); err != nil {
		return overBudget(err)
	}
	opts, err := callsOf(opt, r)
	if err != nil {
		return err
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	v := s.vector
	v.On = v.On && !r.Incomplete // of a copy that is known to be damaged, the engine reads what is sound
	ins, missing, err := openShards(ctx, s.store, v, ids, mm, opts)
	if err != nil {
		return failure(err)
	}
	list, err := joinShards(ins, mm, opts, r)
	if err != nil {
		return failure(err)
	}
	closeAll := sync.OnceFunc(func() { list.Close() })
	defer closeAll()
	not.removed(missing)
	open := &rpc.IteratorChunk{Open: true, Missing: not.missing, Unfit: not.unfit, Series: ins[0].series}
	if open.DataType, open.MoreTypes, err = typesOf(list); err != nil {
		return err
	}
	to.count(list)
	defer to.count(nil)
	if err := s.stream(ctx, to, open, list); err != nil || trace == nil {
		return err
	}
	closeAll() // which completes the engine's spans
	span.Finish()
	b, err := trace.MarshalBinary()
	if err != nil {
		return err
	}
	return to.send(&rpc.IteratorChunk{Trace: b})
}

// callsOf are the calls of a request.
func callsOf(opt query.IteratorOptions, r *rpc.IteratorRequest) (calls, error) {
	opts := oneCall(opt)
	opts.keep = aggregate.Keep{Name: string(r.Keep), N: int(r.KeepN)}
	for _, text := range r.MoreCalls {
		more := opt
		expr, err := parseExpr(text)
		if err != nil {
			return calls{}, status.Errorf(codes.InvalidArgument, "malformed call: %v", err)
		}
		more.Expr = expr
		opts.list = append(opts.list, more)
	}
	return opts, nil
}

// stream sends what the iterators of the calls are, and then their points.
func (s *Server) stream(ctx context.Context, to *sender, open *rpc.IteratorChunk, list maybe) error {
	if err := to.send(open); err != nil {
		return err
	}
	if err := s.encodeAll(to, list); isDamage(err) {
		return failure(err)
	} else if err != nil {
		return err
	}
	return ctx.Err() // an interrupted iterator ends as a finished one does
}

// maybe is iterators of calls, nil where no point can match.
type maybe []query.Iterator

func (m maybe) Close() {
	for _, itr := range m {
		if itr != nil {
			itr.Close()
		}
	}
}

// joinShards returns the iterator of each call over all shards.
func joinShards(ins []inputs, mm *influxql.Measurement, opts calls, r *rpc.IteratorRequest) (maybe, error) {
	list := make(maybe, len(ins))
	for i := range ins {
		in := &ins[i]
		switch {
		case !r.ByShard:
			var err error
			if list[i], err = in.merge(mm, opts.list[i], false); err != nil {
				list.Close()
				closeAll(ins[i+1:])
				return nil, err
			}
			list[i] = firstSeries(list[i], mm, opts.list[i])
		case len(in.list) == 1 && len(r.ShardIds) == 1:
			list[i] = in.list[0].Iterator
		default:
			list[i] = byShard(in.list, opts.list[i], false, nil)
		}
	}
	return list, nil
}

// typesOf returns the types of the first iterator and of the others.
func typesOf(list maybe) (first int32, more []int32, err error) {
	types := make([]int32, len(list))
	for i, itr := range list {
		if itr == nil {
			continue
		}
		typ, err := typeOf(itr)
		if err != nil {
			return 0, nil, err
		}
		types[i] = int32(typ)
	}
	return types[0], types[1:], nil
}

// encodeAll sends the points of all calls, beside each other: whoever receives them reads all calls at the same speed.
func (s *Server) encodeAll(to *sender, list maybe) error {
	var g errgroup.Group
	for call, itr := range list {
		if itr == nil {
			continue
		}
		send := func(chunk []byte) error { return to.points(call, chunk) }
		run := func() (err error) {
			defer s.guard(&err)
			return (&encoder{size: s.chunk, send: send}).encode(itr)
		}
		if len(list) == 1 {
			return run()
		}
		g.Go(run)
	}
	return g.Wait()
}

// traced continues the trace of the asking node, when there is one.
func traced(ctx context.Context, parent []byte) (context.Context, *tracing.Trace, *tracing.Span, error) {
	if len(parent) == 0 {
		return ctx, nil, nil, nil
	}
	var sc tracing.SpanContext
	if err := sc.UnmarshalBinary(parent); err != nil {
		return nil, nil, nil, status.Errorf(codes.InvalidArgument, "malformed span: %v", err)
	}
	trace, span := tracing.NewTraceFromSpan("remote_iterator", sc)
	return tracing.NewContextWithSpan(tracing.NewContextWithTrace(ctx, trace), span), trace, span, nil
}

// sender sends points, and signs of life with the counters so far.
type sender struct {
	mu   sync.Mutex // a stream takes one Send at a time
	out  rpc.Query_CreateIteratorServer
	list maybe // counted; nil before they are there and after their end
	sent bool  // something, since the last beat
}

func (s *sender) count(list maybe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = list
}

func (s *sender) send(c *rpc.IteratorChunk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(c)
}

func (s *sender) sendLocked(c *rpc.IteratorChunk) error {
	if int(c.Call) < len(s.list) && s.list[c.Call] != nil {
		n := s.list[c.Call].Stats()
		c.SeriesN, c.PointN = int64(n.SeriesN), int64(n.PointN)
	}
	s.sent = true
	return s.out.Send(c)
}

// points sends a chunk of points of a call, which is gRPC's from then on.
func (s *sender) points(call int, chunk []byte) error {
	return s.send(&rpc.IteratorChunk{Points: chunk, Call: uint32(call)})
}

// beat sends a sign of life whenever nothing else was sent, until the returned function.
func (s *sender) beat(every time.Duration) (stop func()) {
	return beat(every, func() (err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.sent {
			err = s.sendLocked(&rpc.IteratorChunk{})
		}
		s.sent = false
		return err
	})
}

// beat calls sign again and again until it fails or the returned function is called.
func beat(every time.Duration, sign func() error) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			if err := sign(); err != nil {
				return // the stream is over, as whoever sends on it will notice
			}
		}
	}()
	return func() { close(end); <-ended }
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
func (s *Server) IteratorCost(ctx context.Context, r *rpc.IteratorRequest) (_ *rpc.IteratorCostResponse, err error) {
	defer s.guard(&err)
	mm, opt, err := decode(r.Options)
	if err != nil {
		return nil, err
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	allowed := restrict.Of(ctx)
	opt.Authorizer = allowed.Authorizer()
	c, err := costOf(ctx, s.store, ids, mm, opt, allowed)
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.IteratorCostResponse{
		NumShards: c.NumShards, NumSeries: c.NumSeries, CachedValues: c.CachedValues,
		NumFiles: c.NumFiles, BlocksRead: c.BlocksRead, BlockSize: c.BlockSize, Missing: not.missing, Unfit: not.unfit,
	}, nil
}

// TagSets streams the groups that an iterator would have.
func (s *Server) TagSets(r *rpc.IteratorRequest, out rpc.Query_TagSetsServer) (err error) {
	defer s.guard(&err)
	mm, opt, err := decode(r.Options)
	if err != nil {
		return err
	}
	opt.InterruptCh, opt.Authorizer = out.Context().Done(), restrict.Of(out.Context()).Authorizer()
	ids, not := s.readable(out.Context(), r.ShardIds, r.Incomplete)
	sets, missing, err := shardTagSets(s.store, ids, mm, opt)
	if err != nil {
		return failure(err)
	}
	not.removed(missing)
	if err := out.Send(&rpc.TagSetsChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	for part := range slices.Chunk(sets, chunkLen) {
		if err := out.Send(&rpc.TagSetsChunk{TagSets: part}); err != nil {
			return err
		}
	}
	return nil
}

// FieldDimensions lists a measurement's fields and tags.
func (s *Server) FieldDimensions(ctx context.Context, r *rpc.FieldDimensionsRequest) (_ *rpc.FieldDimensionsResponse,
	err error) {
	defer s.guard(&err)
	mm, _, err := decode(r.Measurement)
	if err != nil {
		return nil, err
	}
	ids, not := s.readable(ctx, r.ShardIds, r.Incomplete)
	resp := &rpc.FieldDimensionsResponse{Missing: not.missing, Unfit: not.unfit}
	if r.TagsOnly {
		ids = tagShards(s.store, ids)
	}
	ctx, end := s.begin(ctx)
	defer end(&err)
	fields, dims, err := dimensionsOf(ctx, s.store, ids, mm, restrict.Of(ctx))
	if err != nil {
		return nil, failure(err)
	}
	if r.TagsOnly {
		fields = nil
	}
	if err := budget.Of(ctx).Grow(costOfField * int64(len(fields)+len(dims))); err != nil {
		return nil, overBudget(err)
	}
	for name, t := range fields {
		resp.Fields = append(resp.Fields, &rpc.FieldDimensionsResponse_Field{Name: []byte(name), DataType: int32(t)})
	}
	for d := range dims {
		resp.Dimensions = append(resp.Dimensions, []byte(d))
	}
	return resp, nil
}
