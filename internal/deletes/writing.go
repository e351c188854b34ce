package deletes

import (
	"slices"
	"sync"
)

// writing is the writes to a database that are under way. A wait for those that run now does not keep others from
// beginning. One of them may wait in the engine until a long delete has run, and the others must not queue behind it.
type writing struct {
	held sync.RWMutex // for reading while a write begins, and for writing while none may begin

	mu    sync.Mutex
	since []*sync.WaitGroup // groups of writes, by when they began: await waits for all groups, and begins a new one
}

// begin is called before points are written, and end after it.
func (w *writing) begin() (end func()) {
	w.held.RLock()
	defer w.held.RUnlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.since) == 0 {
		w.since = append(w.since, new(sync.WaitGroup))
	}
	last := w.since[len(w.since)-1]
	last.Add(1)
	return last.Done
}

// await returns when the writes that run now have ended.
func (w *writing) await() {
	w.mu.Lock()
	before := slices.Clone(w.since)
	w.since = append(w.since, new(sync.WaitGroup))
	w.mu.Unlock()
	for _, writes := range before {
		writes.Wait()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = slices.DeleteFunc(w.since, func(g *sync.WaitGroup) bool { return slices.Contains(before, g) })
}

// hold waits until the writes that run now have ended. No other begins until release is called.
func (w *writing) hold() (release func()) {
	w.held.Lock()
	w.await()
	return w.held.Unlock
}
