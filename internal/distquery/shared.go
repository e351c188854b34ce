package distquery

import (
	"context"
	"fmt"
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
	ctx  context.Context
	src  *source
	mm   *influxql.Measurement
	opts calls
	list []deferred // of the calls

	opened bool
	err    error
}

// deferred is an iterator that is opened when it is first read.
type deferred interface {
	query.Iterator
	// become gives it what it reads from; nil is nothing.
	become(query.Iterator) error
}

// share notes a call. It is nil when the call cannot be opened with others.
func (m *mapping) share(
	ctx context.Context, src *source, mm *influxql.Measurement, opt query.IteratorOptions,
) (query.Iterator, error) {
	if !m.e.Vector.On || opt.SLimit != 0 || opt.SOffset != 0 || !aggregate.Covers(mm, opt) {
		return nil, nil
	}
	if err := m.e.share.Grow(costOfCall); err != nil {
		return nil, err
	}
	without := opt
	without.Expr = nil
	common, err := encodeOptions(mm, without)
	if err != nil {
		return nil, err
	}
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	set := m.shared.sets[string(common)]
	if set == nil {
		set = &callSet{ctx: ctx, src: src, mm: mm}
		if m.shared.sets == nil {
			m.shared.sets = make(map[string]*callSet)
		}
		m.shared.sets[string(common)] = set
	}
	itr := newDeferred(aggregate.TypeOf(opt.Expr), func() error { return m.openSet(set) }, ctx)
	set.opts.list = append(set.opts.list, opt)
	set.list = append(set.list, itr)
	return itr, nil
}

// openSet opens all calls that were noted: those of other sets are read next.
func (m *mapping) openSet(set *callSet) error {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	if set.opened {
		return set.err
	}
	var wg sync.WaitGroup
	for key, s := range m.shared.sets {
		delete(m.shared.sets, key)
		s.opened = true
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.err = m.openCalls(s)
		}()
	}
	wg.Wait()
	return set.err
}

func (m *mapping) openCalls(s *callSet) error {
	list, err := m.createIterators(s.ctx, s.src, s.mm, s.opts)
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
