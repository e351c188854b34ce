package handoff

import (
	"sync"
	"time"
)

// rest is the pause of a node that takes nothing, or of one queue that does not get on while the others do.
type rest struct {
	mu       sync.Mutex
	setbacks int       // failures in a row to get on
	until    time.Time // no attempt before this
	back     bool      // the node was heard of, and has not taken anything since
	reported bool      // the setbacks were logged
}

// backPause is the first pause of a node that was heard of, where retry-interval is not shorter. Such a node may refuse
// for some moments what it takes later: it may have to hear from other nodes first.
const backPause = 500 * time.Millisecond

// setback begins a rest, and returns how long it is. file is for a fault of the queue's own files.
func (r *rest) setback(least, most time.Duration, file bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := least
	if r.back && !file {
		pause = min(least, backPause)
	}
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

// recovered ends the rest: the node or the queue got on.
func (r *rest) recovered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setbacks, r.until, r.back, r.reported = 0, time.Time{}, false, false
}

// retry ends the rest, since the node was heard of, unless a queue rests for a fault of its own files.
func (r *rest) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.reported {
		r.setbacks, r.until, r.back = 0, time.Time{}, true
	}
}

// left is how long the queue rests yet.
func (r *rest) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.until)
}
