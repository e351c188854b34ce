package reads

import (
	"slices"
	"sync"
	"time"
)

// trouble knows which nodes could not reach each other, and when; which were touched by a fault and have not
// recovered; and which lost their disks. The faults tell it, and answers are judged by it.
type trouble struct {
	mu      sync.Mutex
	apart   []*span
	touched []*span
	lost    map[string][]time.Time // by node: when its disk, the first, second and so on, was lost
}

// span is a time in which a node, or one of two, was in trouble.
type span struct {
	a, b     string // b is "" when a is cut off from all others
	from, to time.Time
	open     bool // it has not ended
}

func (s *span) overlaps(from, to time.Time) bool {
	return s.from.Before(to) && (s.open || s.to.After(from))
}

func newTrouble() *trouble { return &trouble{lost: make(map[string][]time.Time)} }

// part begins a time in which a reaches nobody, or with b, in which these two do not reach each other. end ends it.
func (t *trouble) part(a, b string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &span{a: a, b: b, from: time.Now(), open: true}
	t.apart = append(t.apart, s)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.open, s.to = false, time.Now()
	}
}

// touch says that a fault touches nodes; until they recover they count as touched.
func (t *trouble) touch(nodes ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range nodes {
		t.touched = append(t.touched, &span{a: n, from: time.Now(), open: true})
	}
}

// recovered ends the touches of a node that began before asked.
func (t *trouble) recovered(node string, asked, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.touched {
		if s.a == node && s.open && s.from.Before(asked) {
			s.open, s.to = false, now
		}
	}
}

// unrecovered are the nodes that were touched and have not recovered.
func (t *trouble) unrecovered() []string { return t.since(func(s *span) bool { return s.open }) }

// unwell are those, and the nodes of which the others may not have heard yet that they have recovered.
func (t *trouble) unwell() []string {
	now := time.Now()
	return t.since(func(s *span) bool { return s.open || s.to.After(now) })
}

func (t *trouble) since(which func(*span) bool) (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.touched {
		if which(s) && !slices.Contains(out, s.a) {
			out = append(out, s.a)
		}
	}
	return out
}

// reaches tells whether a node is not cut off just now.
func (t *trouble) reaches(node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.apart {
		if s.open && (s.a == node || s.b == node) {
			return false
		}
	}
	return true
}

// loseDisk says that all that a node knew is gone, or is what it knew long ago.
func (t *trouble) loseDisk(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost[node] = append(t.lost[node], time.Now())
}

// disk is the number of a node's disk: how many it has lost.
func (t *trouble) disk(node string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lost[node])
}

// heard is the latest time such that whatever a node with a disk knew then it could tell another one before
// the time at: after it, and before its disk was lost, the two reached each other for the whole of grace.
// lost tells whether that is over because the disk is gone.
func (t *trouble) heard(
	node string, disk int, other string, at time.Time, grace time.Duration,
) (known time.Time, lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := at
	if l := t.lost[node]; disk < len(l) && l[disk].Before(at) {
		end, lost = l[disk], true
	}
	// The spans are in the order in which they began; one that began earlier may end later.
	for moved := true; moved; {
		moved = false
		for i := len(t.apart) - 1; i >= 0; i-- {
			s := t.apart[i]
			if s.between(node, other) && s.overlaps(end.Add(-grace), end) {
				end, moved = s.from, true
			}
		}
	}
	return end.Add(-grace), lost
}

// between tells whether a span keeps two nodes apart; of one with itself, whether it is cut off from all.
func (s *span) between(n, o string) bool {
	if s.b == "" {
		return s.a == n || s.a == o
	}
	return n != o && (s.a == n && s.b == o || s.a == o && s.b == n)
}

// counts tells whether an answer of a node must be a good one: at least one of copies owners of every shard was
// touched by nothing, and the node itself was not cut off, from slack before the question to the answer.
func (t *trouble) counts(node string, copies int, from, to time.Time, slack time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	from = from.Add(-slack)
	for i := len(t.apart) - 1; i >= 0; i-- {
		if s := t.apart[i]; s.a == node && s.b == "" && s.overlaps(from, to) {
			return false
		}
	}
	hit := make(map[string]bool)
	for i := len(t.touched) - 1; i >= 0; i-- {
		if s := t.touched[i]; s.overlaps(from, to) {
			hit[s.a] = true
		}
	}
	return len(hit) < copies
}
