package pace

import (
	"context"

	"golang.org/x/time/rate"
)

// Limit bounds the bytes a second that a node reads and sends for repairs. It can be changed at any time.
type Limit struct{ limiter *rate.Limiter }

// NewLimit returns a limit of so many bytes a second; 0 is none.
func NewLimit(bytes uint64) *Limit {
	return &Limit{rate.NewLimiter(limitAndBurst(bytes))}
}

// limitAndBurst allows as much at once as in a second, and 1 MiB at least.
func limitAndBurst(bytes uint64) (rate.Limit, int) {
	if bytes == 0 {
		return rate.Inf, 0
	}
	return rate.Limit(bytes), int(max(bytes, 1<<20))
}

// Set changes the limit.
func (l *Limit) Set(bytes uint64) {
	limit, burst := limitAndBurst(bytes)
	l.limiter.SetBurst(burst)
	l.limiter.SetLimit(limit)
}

// Bytes is the limit in bytes a second; 0 is none.
func (l *Limit) Bytes() uint64 {
	if limit := l.limiter.Limit(); limit != rate.Inf {
		return uint64(limit)
	}
	return 0
}

// Wait waits until n bytes may be read or sent. When ctx ends, it returns the cause.
func (l *Limit) Wait(ctx context.Context, n int) error {
	for n > 0 {
		if l.limiter.Limit() == rate.Inf {
			return ctx.Err()
		}
		part := min(n, max(l.limiter.Burst(), 1))
		if err := l.limiter.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue // the burst was made smaller meanwhile
		}
		n -= part
	}
	return ctx.Err()
}
