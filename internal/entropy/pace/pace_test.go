package pace

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// spend is how long a number of stints of a millisecond take.
func spend(t *testing.T, p *Pace, stints int) time.Duration {
	t.Helper()
	begun := time.Now()
	for range stints {
		if err := p.Rest(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(begun)
}

func TestWorkRestsWhileThereAreRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int64
		p := New(requests.Load)
		time.Sleep(look + 1)
		if d := spend(t, p, 100); d != 0 {
			t.Errorf("without a request 100 ms of work rest for %v", d)
		}
		if d := spend(t, nil, 100); d != 0 {
			t.Errorf("without a pace 100 ms of work rest for %v", d)
		}
		requests.Add(1)
		time.Sleep(look + 1)
		got := spend(t, p, 20)
		want := time.Duration(19 * float64(time.Millisecond) / float64(p.limiter.Limit()) * 1e9) // the first one is free
		if got < want*9/10 || got > want*11/10 {
			t.Errorf("beside requests 20 ms of work take %v, want about %v", got, want)
		}
		time.Sleep(quiet + look)
		if p.Busy() {
			t.Error("it is busy long after the last request")
		}
	})
}

func TestStintEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int64
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(With(t.Context(), New(func() int64 { return requests.Add(1) })))
		defer cancel(nil)
		s := Begin(ctx)
		for range 10 {
			time.Sleep(look + 1)
			if err := s.Rest(); err != nil {
				t.Fatal(err)
			}
		}
		cancel(stop)
		if err := s.Rest(); !errors.Is(err, stop) {
			t.Error(err)
		}
		s = Begin(t.Context())
		if err := s.Rest(); err != nil || Of(t.Context()) != nil {
			t.Error("without a pace: ", err)
		}
	})
}
