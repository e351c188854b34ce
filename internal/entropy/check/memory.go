package check

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// memory is what the checks found of each shard, and what the next check of it needs to know. It has many
// methods because each is a short one under the same lock.
type memory struct {
	now func() time.Time

	mu      sync.Mutex
	results map[uint64]entropy.ShardStatus
	since   map[uint64]time.Time // of results: when the shard was first found to differ
	last    map[uint64]*lastCheck
	partial map[uint64]bool // at the last check an owner was away, or hinted handoff had writes for a copy

	compared map[uint64]time.Time // when the contents of a shard were last found equal or not
	began    time.Time
	full     time.Time // when the last check of all shards ended
}

func newMemory(now func() time.Time) *memory {
	return &memory{
		now: now, results: make(map[uint64]entropy.ShardStatus), since: make(map[uint64]time.Time),
		last: make(map[uint64]*lastCheck), partial: make(map[uint64]bool), compared: make(map[uint64]time.Time),
		began: now(),
	}
}

// differs keeps what is wrong with a shard. mu must be held.
func (m *memory) differs(shard uint64, st entropy.ShardStatus) {
	m.results[shard] = st
	if _, ok := m.since[shard]; !ok {
		m.since[shard] = m.now()
	}
}

// agrees forgets what was wrong with a shard. mu must be held.
func (m *memory) agrees(shard uint64) {
	delete(m.results, shard)
	delete(m.since, shard)
}

// lastCheck is what the checker remembers of a shard.
type lastCheck struct {
	owners []uint64          // the reachable ones
	lacks  []uint64          // copies.Set.Lacks; nil when no copy lacked anything
	states []entropy.Version // at the last conclusive check, for owners; nil if there was none
	// A window of a shard that is being written counts when it differs in the same way
	// at lookAgain, up to the same time.
	until     int64
	lookAgain time.Time // zero when there is no mismatch to look at again
	seen      *found    // with lookAgain
}

// Results are what the checks found of live shards, by ascending ID.
func (m *memory) Results(live map[uint64]cluster.Shard) (out []entropy.ShardStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.results {
		if _, ok := live[id]; ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b entropy.ShardStatus) int { return cmpIDs(a.ID, b.ID) })
	return out
}

func cmpIDs(a, b uint64) int { return cmp.Compare(a, b) }

// Status is what the checks found of a shard, empty for nothing.
func (m *memory) Status(shard uint64) entropy.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results[shard].Status
}

// Forget forgets what is known of a shard, because another node checks it for example.
func (m *memory) Forget(shard uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(shard)
}

// forget is Forget. mu must be held.
func (m *memory) forget(shard uint64) {
	m.agrees(shard)
	delete(m.last, shard)
	delete(m.partial, shard)
	delete(m.compared, shard)
}

// reached notes at the beginning of a check whether all that a shard is to have could be compared.
func (m *memory) reached(shard uint64, all bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partial[shard] = !all
}

// Repaired forgets what was found of a shard: a repair has made the copies equal.
func (m *memory) Repaired(shard uint64) {
	m.Forget(shard)
	m.noteCompared(shard)
}

// noteCompared notes that the contents of a shard were found equal or not.
func (m *memory) noteCompared(shard uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compared[shard] = m.now()
}

// Compared is when the contents of a shard were last found equal or not, here or by a repair; zero for never.
func (m *memory) Compared(shard uint64) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.compared[shard]
}

// noteFull notes that a check of all shards has ended.
func (m *memory) noteFull() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = m.now()
}

// LastFull is when the last check of all shards ended; zero for never.
func (m *memory) LastFull() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full
}

// InConflict keeps that a repair ended with points that owners refuse.
func (m *memory) InConflict(shard uint64, message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.differs(shard, entropy.ShardStatus{ID: shard, Status: entropy.Conflict, Message: message})
}

// forgetGone forgets shards that are gone.
func (m *memory) forgetGone(gone func(shard uint64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ids := range []iter.Seq[uint64]{
		maps.Keys(m.results), maps.Keys(m.last), maps.Keys(m.partial), maps.Keys(m.compared),
	} {
		for id := range ids {
			if gone(id) {
				m.forget(id)
			}
		}
	}
}

// keep keeps what a check found, nil for nothing. It returns whether that is news, and what was remembered before.
func (m *memory) keep(shard uint64, result *entropy.ShardStatus, check *lastCheck) (news bool, before *lastCheck) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before = m.last[shard]
	m.last[shard] = check
	if check.lookAgain.IsZero() {
		m.compared[shard] = m.now()
	}
	if result == nil {
		m.agrees(shard)
		return false, before
	}
	old, had := m.results[shard]
	m.differs(shard, *result)
	return !had || old != *result, before
}

// compareAnew forgets which contents of shards were compared.
func (m *memory) compareAnew(which func(shard uint64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, l := range m.last {
		if which(id) {
			l.states = nil
		}
	}
}

// lastOf is what is remembered of a shard when the same owners were reached.
func (m *memory) lastOf(set copies.Set) lastCheck {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.last[set.Shard.ID]; l != nil && slices.Equal(l.owners, set.Owners()) {
		return *l
	}
	return lastCheck{owners: set.Owners()}
}

// lookAgain sets what is remembered of a shard that is to be looked at again.
func (m *memory) lookAgain(shard uint64, check *lastCheck) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[shard] = check
}

// nextLook is when the first shard is to be looked at again, the zero time for none.
func (m *memory) nextLook() (first time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.last {
		if !l.lookAgain.IsZero() && (first.IsZero() || l.lookAgain.Before(first)) {
			first = l.lookAgain
		}
	}
	return first
}

// lookDue reports whether a shard is to be looked at again now.
func (m *memory) lookDue(shard uint64, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.last[shard]
	return l != nil && !l.lookAgain.IsZero() && !l.lookAgain.After(now)
}

// postpone puts off the second look at a shard that was due at a check, and that the check could not compare. One that
// stays due would have the shard checked without pause.
func (m *memory) postpone(shard uint64, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.last[shard]; l != nil && !l.lookAgain.IsZero() && !l.lookAgain.After(m.now()) {
		l.lookAgain = until
	}
}
