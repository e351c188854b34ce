// Package budget bounds the memory that the queries of a node may hold together.
//
// Whatever grows with the data that a query reads takes its bytes from the query's share before or as soon as it holds
// them: iterators that are opened, points that a function keeps, rows of the answer. The sizes are estimates. They are
// taken per series, per block or per row, never per point, so that counting costs nothing that can be measured.
//
// When the budget is used up, the query that holds most is ended. That is usually the one that asks for more. When it
// is another one, the query that asks goes on: nothing but the largest query fails.
package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
)

// ErrExceeded is wrapped by the error of a query that was ended.
var ErrExceeded = errors.New("the query needs more memory than [cluster] max-query-memory")

// Budget is what all queries of a node may hold together. A nil budget is unlimited.
type Budget struct {
	max  int64
	used atomic.Int64

	mu     sync.Mutex
	shares map[*Share]struct{} // of queries that have not ended

	exceeded atomic.Int64 // queries that were ended
}

// New returns a budget of some bytes.
func New(max int64) *Budget { return &Budget{max: max, shares: make(map[*Share]struct{})} }

// Used is how many bytes all queries hold now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Statistics are `queryMemory`.
func (b *Budget) Statistics(tags map[string]string) []models.Statistic {
	if b == nil {
		return nil
	}
	return []models.Statistic{{Name: "queryMemory", Tags: tags, Values: map[string]any{
		"bytes": b.Used(), "limitBytes": b.max, "queriesEnded": b.exceeded.Load(),
	}}}
}

// Share is what one query holds. A nil share is unlimited.
type Share struct {
	budget *Budget
	ended  context.Context // when the query was ended, with the reason as its cause
	end    context.CancelCauseFunc

	mu   sync.Mutex
	held int64
	left bool // the budget no longer counts it
}

// Open begins a query, which Close ends.
func (b *Budget) Open() *Share {
	if b == nil {
		return nil
	}
	s := &Share{budget: b}
	s.ended, s.end = context.WithCancelCause(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shares[s] = struct{}{}
	return s
}

// Close gives back all that the query holds.
func (s *Share) Close() {
	if s == nil {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.leave()
	s.end(nil)
}

// leave takes a share out of the budget and returns what it held. The budget's mu must be held.
func (s *Share) leave() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left {
		s.left = true
		delete(s.budget.shares, s)
		s.budget.used.Add(-s.held)
	}
	return s.held
}

// Grow takes n more bytes; a negative n gives them back. After an error, which is that of Err, the query must end.
func (s *Share) Grow(n int64) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	if s.left {
		s.mu.Unlock()
		return s.Err()
	}
	s.held += n
	full := s.budget.used.Add(n) > s.budget.max && n > 0
	s.mu.Unlock()
	if !full {
		return nil
	}
	s.budget.reclaim()
	return s.Err()
}

// Held is what the query holds now.
func (s *Share) Held() int64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// reclaim ends the largest queries until the rest is within the budget. What they hold is no longer counted from then
// on, though it takes them a moment to stop.
func (b *Budget) reclaim() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.used.Load() > b.max && len(b.shares) > 0 {
		var most *Share
		for s := range b.shares {
			if most == nil || s.Held() > most.Held() {
				most = s
			}
		}
		b.exceeded.Add(1)
		most.end(fmt.Errorf("%w: it needs %s, and all queries together may take %s",
			ErrExceeded, size(most.leave()), size(b.max)))
	}
}

// Err is why the query was ended, nil when it was not.
func (s *Share) Err() error {
	if s == nil || s.ended.Err() == nil {
		return nil
	}
	if err := context.Cause(s.ended); errors.Is(err, ErrExceeded) {
		return err
	}
	return nil
}

// OnEnd runs f in its own goroutine when the query is ended because of the budget, until stop is called.
func (s *Share) OnEnd(f func(error)) (stop func() bool) {
	if s == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(s.ended, func() {
		if err := s.Err(); err != nil {
			f(err)
		}
	})
}

// Left is how many bytes the query could still take.
func (s *Share) Left() int64 {
	if s == nil {
		return 1 << 62
	}
	return max(0, s.budget.max-s.Held())
}

func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d kB", n>>10)
	}
	return fmt.Sprintf("%d MB", n>>20)
}

type key struct{}

// With returns a context that carries a share.
func With(ctx context.Context, s *Share) context.Context { return context.WithValue(ctx, key{}, s) }

// Of is the share of a context, nil for none.
func Of(ctx context.Context) *Share {
	s, _ := ctx.Value(key{}).(*Share)
	return s
}
