package distquery

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/aggregate"
)

// The engine asks for the iterator of each call of a statement by itself, and reads none before it has all of them. So
// calls that may share their work, because they differ in nothing but the function and the field, are only noted at
// first. All of them are opened together when the first one is read.

// shared are the calls of a statement that are not opened yet.
type shared struct {
	mu   sync.Mutex
	sets map[string]*callSet // by what their calls have in common
}

// callSet is calls that are opened together.
type callSet struct {
	reading
	list  []deferred // of its calls
	texts []string   // of these

	opened bool
	err    error
}

// deferred is an iterator that is opened when it is first read.
type deferred interface {
	query.Iterator
	// become gives it what it reads from; nil is nothing.
	become(query.Iterator) error
}

// byText orders the calls of a set by their text. The engine asks for them in any order.
type byText struct{ *callSet }

func (s byText) Len() int           { return len(s.list) }
func (s byText) Less(i, j int) bool { return s.texts[i] < s.texts[j] }
func (s byText) Swap(i, j int) {
	s.list[i], s.list[j] = s.list[j], s.list[i]
	s.opts.list[i], s.opts.list[j] = s.opts.list[j], s.opts.list[i]
	s.texts[i], s.texts[j] = s.texts[j], s.texts[i]
}

// exprText is the text of what an iterator is asked for, empty when that is whole points.
func exprText(opt query.IteratorOptions) string {
	if opt.Expr == nil {
		return ""
	}
	return opt.Expr.String()
}

// shareable reports whether a call can be opened with others.
func (e *ShardMapper) shareable(mm *influxql.Measurement, opt query.IteratorOptions) bool {
	return e.vector.On && shareable(mm, opt)
}

func shareable(mm *influxql.Measurement, opt query.IteratorOptions) bool {
	return opt.SLimit == 0 && opt.SOffset == 0 && aggregate.Covers(mm, opt)
}

// common is what calls have in common that are opened together.
func common(mm *influxql.Measurement, opt query.IteratorOptions) (string, error) {
	opt.Expr = nil
	b, err := encodeOptions(mm, opt)
	return string(b), err
}

// note takes a call, and returns its iterator.
func (s *shared) note(r *reading) (query.Iterator, error) {
	if err := r.e.share.Grow(costOfCall); err != nil {
		return nil, err
	}
	opt := r.opts.list[0]
	key, err := common(r.mm, opt)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.sets[key]
	if set == nil {
		set = &callSet{reading: *r.with(calls{})}
		if s.sets == nil {
			s.sets = make(map[string]*callSet)
		}
		s.sets[key] = set
	}
	itr := newDeferred(aggregate.TypeOf(opt.Expr), func() error { return s.open(set) }, r.ctx)
	set.opts.list = append(set.opts.list, opt)
	set.list, set.texts = append(set.list, itr), append(set.texts, exprText(opt))
	return itr, nil
}

// open opens all calls that were noted: those of other sets are read next.
func (s *shared) open(set *callSet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set.opened {
		return set.err
	}
	var wg sync.WaitGroup
	for key, other := range s.sets {
		delete(s.sets, key)
		other.opened = true
		wg.Add(1)
		go func() {
			defer wg.Done()
			other.err = other.begin()
		}()
	}
	wg.Wait()
	set.ahead.close()
	return set.err
}

// waiting reports whether calls were noted that are not opened.
func (s *shared) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sets) > 0
}

func (s *callSet) begin() error {
	sort.Sort(byText{s})
	if err := s.ctx.Err(); err != nil {
		return err
	}
	list, err := s.iterators()
	for i, itr := range list {
		if failed := s.list[i].become(itr); failed != nil {
			err = failed
		}
	}
	return err
}

// newDeferred returns an iterator of a type.
func newDeferred(typ influxql.DataType, open func() error, statement context.Context) deferred {
	switch typ {
	case influxql.Float:
		return &deferredOf[query.FloatPoint]{open: open, statement: statement}
	case influxql.Integer:
		return &deferredOf[query.IntegerPoint]{open: open, statement: statement}
	case influxql.Unsigned:
		return &deferredOf[query.UnsignedPoint]{open: open, statement: statement}
	case influxql.String:
		return &deferredOf[query.StringPoint]{open: open, statement: statement}
	}
	return &deferredOf[query.BooleanPoint]{open: open, statement: statement}
}

type deferredOf[P any] struct {
	open      func() error
	statement context.Context
	ready     bool // open was called

	mu     sync.Mutex // Stats is called by the statement's monitor
	from   points[P]
	closed bool
}

func (d *deferredOf[P]) become(itr query.Iterator) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if itr == nil {
		return nil
	}
	from, ok := itr.(points[P])
	if !ok {
		itr.Close()
		return fmt.Errorf("an iterator of points of type %T was expected, and not %T", *new(P), itr)
	}
	if d.closed {
		return from.Close()
	}
	d.from = from
	return nil
}

func (d *deferredOf[P]) Next() (*P, error) {
	if !d.ready {
		d.ready = true
		if err := d.open(); err != nil {
			return nil, abort(d.statement, err)
		}
	}
	d.mu.Lock()
	from := d.from
	d.mu.Unlock()
	if from == nil {
		return nil, nil
	}
	return from.Next()
}

func (d *deferredOf[P]) Stats() query.IteratorStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from == nil {
		return query.IteratorStats{}
	}
	return d.from.Stats()
}

func (d *deferredOf[P]) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.from == nil {
		return nil
	}
	return d.from.Close()
}
