package handoff

import (
	"sync"
	"time"
)

// rest is the pause of one queue that does not get on, while the others do.
type rest struct {
	mu       sync.Mutex
	setbacks int       // failures in a row to get on
	until    time.Time // no attempt before this
	reported bool      // the setbacks were logged
}

// setback begins a rest, and returns how long it is.
func (r *rest) setback(least, most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := least
	for range r.setbacks {
		pause = min(2*pause, most)
	}
	r.setbacks++
	r.until = time.Now().Add(pause)
	return pause
}

// firstReport reports whether no setback was logged since the queue got on.
func (r *rest) firstReport() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.reported
	r.reported = true
	return first
}

// recovered ends the rest: the queue got on.
func (r *rest) recovered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setbacks, r.until, r.reported = 0, time.Time{}, false
}

// retry ends the rest, unless the queue rests for a fault of its own files.
func (r *rest) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.reported {
		r.setbacks, r.until = 0, time.Time{}
	}
}

// left is how long the queue rests yet.
func (r *rest) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.until)
}
