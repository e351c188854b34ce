package distquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/pkg/tracing"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/rpc"
)

// stream is the points of a remote iterator. Its node gives signs
// of life while it computes; a node that falls silent has failed. Only an end
// that the node declared is one. Close frees the node.
type stream struct {
	addr    string
	query   context.Context // of the statement
	ctx     context.Context // of the stream
	cancel  context.CancelCauseFunc
	chunks  rpc.Query_CreateIteratorClient
	silence time.Duration
	share   *budget.Share // of the statement

	mu    sync.Mutex // of what follows; while a chunk is awaited, too
	calls []streamedCall
	ended int   // calls that are closed
	err   error // that ended it
}

// streamedCall is what a stream has of one call.
type streamedCall struct {
	seriesN, pointN atomic.Int64 // as the node counts them
	waiting         [][]byte     // chunks that came before they were asked for
	closed          bool
}

// openStream starts a remote iterator, which lives as long as the statement.
func (r *reading) openStream(asking context.Context, p peer, req *rpc.IteratorRequest) (*stream, error) {
	if span := tracing.SpanFromContext(r.ctx); span != nil {
		b, err := span.Context().MarshalBinary()
		if err != nil {
			return nil, err
		}
		req.Span = b
	}
	return startStream(r.ctx, asking, r.e.silence, p,
		func(ctx context.Context) (rpc.Query_CreateIteratorClient, error) {
			return p.CreateIterator(ctx, req)
		})
}

// startStream starts a stream with call. It lives as long as statement; while it is started also asking can end it.
func startStream(
	statement, asking context.Context, silence time.Duration, p peer,
	call func(context.Context) (rpc.Query_CreateIteratorClient, error),
) (*stream, error) {
	share := budget.Of(statement)
	if err := share.Grow(costOfStream); err != nil {
		return nil, overBudget(err)
	}
	ctx, cancel := context.WithCancelCause(statement)
	s := &stream{addr: p.addr, query: statement, ctx: ctx, cancel: cancel, silence: silence, share: share}
	defer s.endWith(asking)()
	var err error
	if s.chunks, err = call(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// endWith ends the stream when asking ends, until stop is called.
func (s *stream) endWith(asking context.Context) (stop func() bool) {
	return context.AfterFunc(asking, func() { s.cancel(asking.Err()) })
}

// await waits for the first chunk that is wanted, and skips signs of life. The stream ends when there is none.
func (s *stream) await(asking context.Context, wanted func(*rpc.IteratorChunk) bool) (*rpc.IteratorChunk, error) {
	defer s.endWith(asking)()
	for {
		c, err := s.next()
		if err == io.EOF {
			err = errors.New("it closed the answer without sending anything")
		}
		if err != nil {
			s.Close()
			return nil, err
		}
		if wanted(c) {
			return c, nil
		}
	}
}

// next waits for a chunk. The error is the node's, or that of the statement
// when it was ended here.
func (s *stream) next() (*rpc.IteratorChunk, error) {
	c, err := listen(s.ctx, s.cancel, s.silence, s.chunks.Recv)
	if err == nil {
		if int(c.Call) < len(s.calls) {
			s.calls[c.Call].seriesN.Store(c.SeriesN)
			s.calls[c.Call].pointN.Store(c.PointN)
		}
		return c, nil
	}
	defer s.Close()
	if s.query.Err() != nil {
		return nil, s.query.Err()
	}
	return nil, err
}

// more is the next chunk of points of a call, empty after the last one. What comes of other calls is kept for them.
func (s *stream) more(call int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := &s.calls[call]
	for len(of.waiting) == 0 {
		if s.err == io.EOF || of.closed {
			return nil, nil
		} else if s.err != nil {
			return nil, s.err
		}
		s.err = s.read()
	}
	b := of.waiting[0]
	of.waiting = of.waiting[1:]
	s.share.Grow(-int64(len(b)))
	return b, nil
}

// read takes the next chunk.
func (s *stream) read() error {
	c, err := s.next()
	switch {
	case err == io.EOF || err != nil && s.query.Err() != nil:
		return err
	case err != nil:
		return &streamError{fmt.Sprintf("data node %s failed during the query: %s", s.addr, rpc.Message(err)), err}
	case int(c.Call) >= len(s.calls):
		return fmt.Errorf("data node %s sends points of call %d of %d", s.addr, c.Call, len(s.calls))
	case len(c.Trace) > 0:
		if err := s.merge(c.Trace); err != nil {
			return fmt.Errorf("trace of data node %s: %w", s.addr, err)
		}
	case len(c.Points) > 0 && !s.calls[c.Call].closed:
		s.calls[c.Call].waiting = append(s.calls[c.Call].waiting, c.Points)
		if err := s.share.Grow(int64(len(c.Points))); err != nil {
			return overBudget(err)
		}
	}
	return nil
}

// end is for a call whose points nobody wants any more. With the last one the stream ends.
func (s *stream) end(call int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := &s.calls[call]
	if of.waiting = nil; !of.closed {
		of.closed = true
		s.ended++
	}
	if s.ended == len(s.calls) {
		s.Close()
	}
}

// streamError is an error of a node during a query, for people.
type streamError struct {
	message string
	cause   error // as gRPC has it
}

func (e *streamError) Error() string { return e.message }
func (e *streamError) Unwrap() error { return e.cause }

// merge adds the trace of the node to the statement's.
func (s *stream) merge(b []byte) error {
	trace := tracing.TraceFromContext(s.query)
	if trace == nil {
		return nil
	}
	var t tracing.Trace
	if err := t.UnmarshalBinary(b); err != nil {
		return err
	}
	trace.Merge(&t)
	return nil
}

func (s *stream) Close() error {
	s.cancel(context.Canceled)
	return nil
}

// points is an iterator of one type of point.
type points[P any] interface {
	query.Iterator
	Next() (*P, error)
}

// newRemoteIterator reads the typed points of one call from a stream. again is asked for
// another iterator over the same shards when the stream fails before its first point.
func newRemoteIterator(
	s *stream, call int, typ influxql.DataType, again func(why error) (query.Iterator, error),
) (query.Iterator, error) {
	switch typ {
	case influxql.Float:
		return remote(s, call, fillFloat, again), nil
	case influxql.Integer:
		return remote(s, call, fillInteger, again), nil
	case influxql.Unsigned:
		return remote(s, call, fillUnsigned, again), nil
	case influxql.String:
		return remote(s, call, fillString, again), nil
	case influxql.Boolean:
		return remote(s, call, fillBoolean, again), nil
	}
	return nil, fmt.Errorf("data node %s sends points of unknown type %d", s.addr, typ)
}

func remote[P any](
	s *stream, call int, fill func(*decoder, *P), again func(error) (query.Iterator, error),
) query.Iterator {
	next := func() ([]byte, error) { return s.more(call) }
	itr := &streamed[P]{decoded[P]{decoder: decoder{next: next}, fill: fill}, s, call}
	return moving[P](s.query, itr, retryable, again)
}

// streamed is an iterator over a stream, whose counters are those of its node
// at this moment, also while the node computes.
type streamed[P any] struct {
	decoded[P]
	stream *stream
	call   int
}

func (i *streamed[P]) Stats() query.IteratorStats {
	c := &i.stream.calls[i.call]
	return query.IteratorStats{SeriesN: int(c.seriesN.Load()), PointN: int(c.pointN.Load())}
}

func (i *streamed[P]) Close() error {
	i.stream.end(i.call)
	return nil
}

// shard is that of the last point, 0 when the node does not tell.
func (i *streamed[P]) shard() uint64 { return i.decoder.shard }

// movingIterator moves to other owners when it fails before its first point;
// after it, points could be lost or doubled, so the query fails.
type movingIterator[P any] struct {
	statement context.Context
	movable   func(error) bool // other owners may do better
	again     func(why error) (query.Iterator, error)
	begun     bool

	mu      sync.Mutex // Stats is called by the statement's monitor
	current points[P]  // nil after a move to where nothing matches
}

func moving[P any](
	statement context.Context, from points[P], movable func(error) bool, again func(error) (query.Iterator, error),
) *movingIterator[P] {
	return &movingIterator[P]{statement: statement, current: from, movable: movable, again: again}
}

func (r *movingIterator[P]) Next() (*P, error) {
	r.mu.Lock()
	current := r.current
	r.mu.Unlock()
	if current == nil {
		return nil, nil
	}
	p, err := current.Next()
	if err != nil && !r.begun && r.statement.Err() == nil && r.movable(err) {
		p, err = r.move(current, err)
	}
	r.begun = true
	if err != nil {
		return nil, abort(r.statement, err)
	}
	return p, nil
}

// move goes on with other owners.
func (r *movingIterator[P]) move(from points[P], why error) (*P, error) {
	from.Close()
	itr, err := r.again(why)
	if err != nil {
		return nil, err
	}
	to, ok := itr.(points[P])
	if itr != nil && !ok {
		itr.Close()
		return nil, fmt.Errorf("two owners of a shard have different types of a field: %T and %T", from, itr)
	}
	r.mu.Lock()
	r.current = to
	r.mu.Unlock()
	if to == nil {
		return nil, nil
	}
	return to.Next()
}

// abort ends the statement with err, and returns when it has ended: a sorted
// merge of the engine drops an input that fails, and the answer would go on
// and end well with less than there is.
func abort(statement context.Context, err error) error {
	if m := query.MonitorFromContext(statement); m != nil {
		m.Monitor(func(<-chan struct{}) error { return err })
		<-statement.Done()
	}
	return err
}

// shard is called between calls of Next, the only one that changes current.
func (r *movingIterator[P]) shard() uint64 {
	if s, ok := r.current.(sharded); ok {
		return s.shard()
	}
	return 0
}

func (r *movingIterator[P]) Stats() query.IteratorStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return query.IteratorStats{}
	}
	return r.current.Stats()
}

func (r *movingIterator[P]) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return nil
	}
	return r.current.Close()
}
