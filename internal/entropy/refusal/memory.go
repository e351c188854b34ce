package refusal

import (
	"slices"
	"sync"
	"time"
)

// believed is how long checks believe that an owner refuses what it refused in a repair: its settings may be others
// now.
const believed = time.Hour

// Memory remembers what repairs could not write, by shard, for the checks that follow.
type Memory struct {
	now func() time.Time

	mu sync.Mutex
	m  map[uint64]Left
}

// Left is what a repair could not write.
type Left struct {
	*Known
	Owners  []uint64 // that Known is about
	Lacks   []uint64 // copies.Set.Lacks of these owners when the repair began
	Message string   // for operators

	until time.Time
}

// NewMemory returns an empty memory.
func NewMemory(now func() time.Time) *Memory { return &Memory{now: now, m: make(map[uint64]Left)} }

// Keep remembers what the repair of a shard could not write.
func (m *Memory) Keep(shard uint64, left Left) {
	left.until = m.now().Add(believed)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.m[shard] = left
}

// Of returns what the last repair of a shard could not write to these owners.
func (m *Memory) Of(shard uint64, owners []uint64) (Left, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left, ok := m.m[shard]
	if ok && (!slices.Equal(left.Owners, owners) || m.now().After(left.until)) {
		delete(m.m, shard)
		return Left{}, false
	}
	return left, ok
}

// Forget forgets shards: what was refused may be accepted now, or they are gone.
func (m *Memory) Forget(which func(shard uint64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.m {
		if which(id) {
			delete(m.m, id)
		}
	}
}
