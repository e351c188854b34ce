package aggregate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"

	"github.com/influxdata/influxdb/query"

	"concord/internal/entropy/scan"
)

const (
	maxPart = 64 // series that are read as one
	parts   = 16 // that a group has at least, when it has as many series
	ahead   = 1  // tasks for each worker that are done before they are asked for
)

// slots are what workers of all scans need to read: one for each processor.
var slots = make(chan struct{}, runtime.GOMAXPROCS(0))

// reading is the work of a scan: tasks, whose results are taken in their order.
type reading struct {
	cancel context.CancelFunc
	tasks  chan *task // in order, as far ahead as they may be done
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // of a worker at its end
}

// task is some series of one group, or all of several groups.
type task struct {
	spans []span
	done  chan struct{} // closed when the rest is set
	parts []*part
	err   error
}

// span is series of a group.
type span struct {
	group    int
	from, to int
	timeRange
}

// start begins to read.
func (s *Scan) start() {
	ctx, cancel := context.WithCancel(s.ctx)
	s.ctx = ctx
	n := min(cap(slots), s.series)
	s.trace()
	r := &reading{cancel: cancel, tasks: make(chan *task, ahead*n)}
	s.reading = r
	for i := range s.calls {
		s.views = append(s.views, newView(s, i))
	}
	s.open = len(s.views)
	work := make(chan *task)
	r.wg.Add(1 + n)
	go func() {
		defer r.wg.Done()
		defer close(r.tasks)
		defer close(work)
		for spans := range s.tasks() {
			t := &task{spans: spans, done: make(chan struct{})}
			for _, to := range []chan *task{r.tasks, work} {
				select {
				case to <- t:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	for range n {
		go func() {
			defer r.wg.Done()
			s.work(work)
		}()
	}
}

// next returns the next group with all of its windows, nil at the end.
func (s *Scan) next() (*part, error) {
	var whole *part
	for {
		if len(s.left) == 0 {
			t, ok := <-s.reading.tasks
			if !ok {
				break
			}
			select {
			case <-t.done:
			case <-s.ctx.Done():
				return nil, s.ended()
			}
			if t.err != nil {
				return nil, t.err
			}
			s.left = t.parts
		}
		if whole != nil && !s.left[0].continues(whole) {
			return whole, nil
		}
		p := s.left[0]
		s.left = s.left[1:]
		if whole == nil {
			whole = p
		} else if err := whole.join(s, p); err != nil {
			return nil, err
		}
	}
	if err := s.ended(); err != nil { // then there may be more
		return nil, err
	}
	if whole == nil {
		s.reading.wg.Wait()
		return nil, s.reading.err
	}
	return whole, nil
}

// tasks cuts the series of each group into tasks, and those with many windows also by time. How the series are cut
// depends on nothing but their number: so does the order in which floating-point numbers are added.
func (s *Scan) tasks() iter.Seq[[]span] {
	return func(yield func([]span) bool) {
		var small []span // groups of few series, which are one task
		n := 0
		flush := func() bool {
			all := small
			small, n = nil, 0
			return len(all) == 0 || yield(all)
		}
		for i, g := range s.groups {
			series := len(g.keys)
			if len(s.ranges) == 1 && series <= parts && len(s.groups) > parts {
				small = append(small, span{group: i, to: series, timeRange: s.ranges[0]})
				if n += series; n >= partOf(s.series) && !flush() {
					return
				}
				continue
			}
			if !flush() {
				return
			}
			for _, r := range s.ranges {
				for from := 0; from < series; from += partOf(series) {
					if !yield([]span{{group: i, from: from, to: min(from+partOf(series), series), timeRange: r}}) {
						return
					}
				}
			}
		}
		flush()
	}
}

// partOf is how many of n series are read as one.
func partOf(n int) int { return min(max(n/parts, 1), maxPart) }

// work does tasks until there are no more.
func (s *Scan) work(tasks <-chan *task) {
	var r *scan.Reader
	for t := range tasks {
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			t.err = s.ended()
			close(t.done)
			continue
		}
		if r == nil {
			r, t.err = scan.NewReader(s.ctx, s.shard)
		}
		if t.err == nil {
			t.parts, t.err = s.read(r, t.spans)
		}
		<-slots
		close(t.done)
	}
	if r == nil {
		return
	}
	for typ, n := range r.Decoded() {
		s.blocks[typ].Add(n)
	}
	if err := r.End(); err != nil {
		s.reading.mu.Lock()
		s.reading.err = errors.Join(s.reading.err, err)
		s.reading.mu.Unlock()
	}
}

// read reads the series of a task.
func (s *Scan) read(r *scan.Reader, spans []span) ([]*part, error) {
	list := make([]*part, 0, len(spans))
	for _, sp := range spans {
		g := &s.groups[sp.group]
		p := &part{span: sp, of: make(map[string]*bucket)}
		list = append(list, p)
		var key []byte
		for _, series := range g.keys[sp.from:sp.to] {
			if err := s.ended(); err != nil {
				return list, err
			}
			b, err := s.bucket(p, g, series)
			if err != nil {
				return list, err
			}
			key = append(key[:0], series...)
			for _, c := range b.columns {
				if err := c.read(r, key); err != nil {
					return list, fmt.Errorf("shard %d: %w", s.shard.ID(), err)
				}
			}
		}
	}
	return list, nil
}

// bucket returns the bucket of a part that a series belongs to.
func (s *Scan) bucket(p *part, g *group, series string) (*bucket, error) {
	if s.dims == nil {
		return p.bucket(s, g.tags)
	}
	tags := tagsOf(series)
	return p.bucket(s, tags.Subset(s.dims))
}

func (p *part) bucket(s *Scan, tags query.Tags) (*bucket, error) {
	if b := p.of[tags.ID()]; b != nil {
		return b, nil
	}
	if err := s.grow(p, costOfSink*int64(len(s.columns))); err != nil {
		return nil, err
	}
	b := &bucket{tags: tags, columns: make([]sink, len(s.columns))}
	for i, c := range s.columns {
		b.columns[i] = s.newSink(c, p)
	}
	p.buckets = append(p.buckets, b)
	p.of[tags.ID()] = b
	return b, nil
}

// continues reports whether a part is of the same group and time as another.
func (p *part) continues(o *part) bool { return p.group == o.group && p.timeRange == o.timeRange }

// join adds a part of the same group, whose series come later.
func (p *part) join(s *Scan, o *part) error {
	defer func() { s.grow(o, -o.size) }()
	for _, b := range o.buckets {
		to, err := p.bucket(s, b.tags)
		if err != nil {
			return err
		}
		for i, c := range b.columns {
			if err := to.columns[i].join(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// grow takes memory for a part.
func (s *Scan) grow(p *part, n int64) error {
	p.size += n
	return s.share.Grow(n)
}
