package budget

import (
	"context"
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestTheLargestQueryEnds(t *testing.T) {
	t.Parallel()
	b := New(1000)
	large, small := b.Open(), b.Open()
	defer large.Close()
	defer small.Close()
	ended := make(chan error, 1)
	defer large.OnEnd(func(err error) { ended <- err })()
	if err := errors.Join(large.Grow(900), small.Grow(100)); err != nil {
		t.Fatal(err)
	}
	if err := small.Grow(1); err != nil {
		t.Errorf("the small query: %v", err)
	}
	if err := <-ended; !errors.Is(err, ErrExceeded) || !errors.Is(large.Err(), ErrExceeded) {
		t.Errorf("the large query ended with %v", err)
	}
	if err := large.Grow(1); !errors.Is(err, ErrExceeded) {
		t.Errorf("the large query goes on: %v", err)
	}
	if b.Used() != 101 || b.exceeded.Load() != 1 || small.Err() != nil {
		t.Errorf("%d bytes used, %d ended, the small query %v", b.Used(), b.exceeded.Load(), small.Err())
	}
	if err := small.Grow(1000); !errors.Is(err, ErrExceeded) {
		t.Errorf("now it is the large one: %v", err)
	}
}

func TestWhatAClosedQueryHeldIsFree(t *testing.T) {
	t.Parallel()
	b := New(1000)
	for range 10 {
		s := b.Open()
		if err := s.Grow(900); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s.Close()
		if err := s.Grow(900); err != nil {
			t.Errorf("after Close: %v", err)
		}
	}
	if b.Used() != 0 || b.exceeded.Load() != 0 {
		t.Errorf("%d bytes used, %d ended", b.Used(), b.exceeded.Load())
	}
}

func TestNoBudgetIsNoLimit(t *testing.T) {
	t.Parallel()
	var b *Budget
	s := b.Open()
	defer s.Close()
	if err := s.Grow(1 << 60); err != nil || s.Err() != nil || Of(context.Background()).Grow(1) != nil {
		t.Error(err)
	}
	if ctx := With(context.Background(), New(1).Open()); Of(ctx).Grow(2) == nil {
		t.Error("the context does not carry its share")
	}
}

// TestNothingLeaks grows and closes from several goroutines, and ends queries meanwhile.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := New(rapid.Int64Range(1, 1000).Draw(t, "max"))
		grow := rapid.SliceOfN(rapid.Int64Range(-50, 400), 1, 50).Draw(t, "grow")
		var wg sync.WaitGroup
		for range 4 {
			s := b.Open()
			for range 2 {
				wg.Go(func() {
					for _, n := range grow {
						s.Grow(n)
					}
				})
			}
			wg.Go(s.Close)
		}
		wg.Wait()
		if b.Used() != 0 {
			t.Fatalf("%d bytes used", b.Used())
		}
	})
}
