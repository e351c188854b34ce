// Package pace holds background work back while its node serves clients.
//
// On few processors it is not bytes that writes wait for behind a repair, but processors: a comparison reads and hashes
// without a pause, and whoever becomes runnable meanwhile waits for a slice of the scheduler. So all background work of
// a node together gets a small share of the processors, in short stints, as long as there are requests, and all that it
// can take when there are none.
package pace

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// Share is the part of the processors that background work gets while there are requests.
	Share = 1. / 20

	look  = 100 * time.Millisecond // how often requests are looked for
	quiet = time.Second            // without a request, after which there are none
	stint = time.Millisecond       // of work at a time; what takes longer waited for something else
)

// Pace is that of one node. The nil Pace holds nothing back.
type Pace struct {
	requests func() int64
	limiter  *rate.Limiter // of nanoseconds of work

	begun  time.Time
	looked atomic.Int64 // when, since begun
	seen   atomic.Int64 // requests then
	busy   atomic.Int64 // until when, since begun
}

// New returns the pace of a node that has served as many requests of clients as requests returns.
func New(requests func() int64) *Pace {
	return &Pace{
		requests: requests, begun: time.Now(),
		limiter: rate.NewLimiter(rate.Limit(Share*float64(runtime.GOMAXPROCS(0))*1e9), int(stint)),
	}
}

// Busy tells whether there was a request of late.
func (p *Pace) Busy() bool {
	if p == nil {
		return false
	}
	now := time.Since(p.begun)
	if last := p.looked.Load(); now-time.Duration(last) > look && p.looked.CompareAndSwap(last, int64(now)) {
		if n := p.requests(); p.seen.Swap(n) != n {
			p.busy.Store(int64(now + quiet))
		}
	}
	return int64(now) < p.busy.Load()
}

// Rest is called after so much work, and waits for as long as it takes until more is due.
func (p *Pace) Rest(ctx context.Context, worked time.Duration) error {
	if !p.Busy() || worked <= 0 {
		return nil
	}
	return p.limiter.WaitN(ctx, int(min(worked, stint)))
}

type contextKey struct{}

// With makes p the pace of what is done under ctx.
func With(ctx context.Context, p *Pace) context.Context {
	if p == nil || Of(ctx) != nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, p)
}

// Of is the pace of what is done under ctx, nil when there is none.
func Of(ctx context.Context) *Pace {
	p, _ := ctx.Value(contextKey{}).(*Pace)
	return p
}

// Stint is work that goes on.
type Stint struct {
	ctx   context.Context
	pace  *Pace
	since time.Time
}

// Begin begins work under ctx.
func Begin(ctx context.Context) Stint {
	s := Stint{ctx: ctx, pace: Of(ctx)}
	s.Resume()
	return s
}

// Resume goes on with the work after something else was done.
func (s *Stint) Resume() {
	if s.pace != nil { // else nobody wants to know the time, which costs as much as a small block
		s.since = time.Now()
	}
}

// Rest is to be called every hundred microseconds of work or so. It returns the cause when ctx is done.
func (s *Stint) Rest() (err error) {
	if s.pace != nil {
		err = s.pace.Rest(s.ctx, time.Since(s.since))
		s.since = time.Now()
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return err
}
