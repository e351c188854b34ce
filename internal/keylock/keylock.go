// Package keylock has a lock for each key.
package keylock

import "sync"

// Locks are read-write locks by key. The zero value works. A lock is never removed: the keys are to be few.
type Locks[K comparable] struct {
	locks sync.Map // *sync.RWMutex by key
}

// Of returns the lock of a key, the same one each time.
func (l *Locks[K]) Of(key K) *sync.RWMutex {
	if m, ok := l.locks.Load(key); ok {
		return m.(*sync.RWMutex)
	}
	m, _ := l.locks.LoadOrStore(key, new(sync.RWMutex))
	return m.(*sync.RWMutex)
}
