package campaign

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// key is a point without its value. A series belongs to one writer, which
// has one operation at a time, so the order of the operations on a key is defined.
type key struct {
	series string
	time   int64 // nanoseconds
}

// record is what the cluster said it did, and so what it must have at the end.
//
// An operation that was not acknowledged, and not surely refused before any node
// saw it, is in limbo: it may have been carried out, and may still be later, by
// a paused node or from a queue. A client that does not know the fate of a
// write cannot order anything after it; so a point in limbo is not written
// again, and a series with a delete in limbo is not used again. Everything
// else is strict: the last acknowledged operation on a key decides.
type record struct {
	mu     sync.Mutex
	rng    *rand.Rand
	start  time.Time
	points map[key]*point
	values map[int64]key // each value is written to one key, by one operation

	kept map[string]map[key]int64 // by node: what it had before the last repairs

	acknowledged, limbo, refused int // operations
	lastAck                      time.Time
	longestGap                   time.Duration // between acknowledged operations
}

// point is what is known of one key.
type point struct {
	present bool // the last acknowledged operation left it there
	value   int64
	limbo   []int64 // values that may be there instead
	gone    bool    // a delete in limbo covers it: it may be gone instead
	history []string
}

// historyLength is how many operations on a point are kept to tell of a failure.
const historyLength = 12

func newRecord(seed uint64) *record {
	now := time.Now()
	return &record{
		rng: rand.New(rand.NewPCG(seed, 1)), start: now, lastAck: now,
		points: make(map[key]*point), values: make(map[int64]key), kept: make(map[string]map[key]int64),
	}
}

func (r *record) at(k key) *point {
	p := r.points[k]
	if p == nil {
		p = &point{}
		r.points[k] = p
	}
	return p
}

func (r *record) note(p *point, format string, args ...any) {
	if len(p.history) == historyLength {
		p.history = slices.Delete(p.history, 0, 1)
	}
	p.history = append(p.history, fmt.Sprintf("%8.3fs ", time.Since(r.start).Seconds())+fmt.Sprintf(format, args...))
}

// issue returns a value that no key had before. Values are random, so that
// the newer of two is not the greater by rule: a merge that takes the greater is found out.
func (r *record) issue(k key) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		v := r.rng.Int64N(1<<53) - 1<<52 // any client's JSON can hold it
		if _, taken := r.values[v]; !taken {
			r.values[v] = k
			return v
		}
	}
}

// fate is what a client knows of its operation.
type fate int

const (
	acknowledged fate = iota
	limbo             // it may happen, or have happened
	refused           // no node has seen it
)

func (f fate) String() string { return [...]string{"acknowledged", "in limbo", "refused"}[f] }

func (r *record) count(f fate) {
	switch f {
	case acknowledged:
		r.acknowledged++
		now := time.Now()
		r.longestGap = max(r.longestGap, now.Sub(r.lastAck))
		r.lastAck = now
	case limbo:
		r.limbo++
	case refused:
		r.refused++
	}
}

// wrote records a batch of points through a node.
func (r *record) wrote(batch map[key]int64, f fate, node, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(f)
	for k, v := range batch {
		p := r.at(k)
		switch f {
		case acknowledged:
			p.present, p.value = true, v
		case limbo:
			p.limbo = append(p.limbo, v)
		}
		r.note(p, "write %d through %s: %v %s", v, node, f, why)
	}
}

// deleted records a delete of a series between two times, both included.
func (r *record) deleted(series string, from, to int64, f fate, node, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(f)
	for k, p := range r.points {
		if k.series != series || k.time < from || k.time > to {
			continue
		}
		switch f {
		case acknowledged:
			p.present = false
		case limbo:
			p.gone = true
		}
		r.note(p, "delete through %s: %v %s", node, f, why)
	}
}

// resting tells whether a key must not be used again.
func (r *record) resting(k key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.points[k]
	return p != nil && (len(p.limbo) > 0 || p.gone)
}

// check judges what an owner has for a key; problem is "" when all is well.
func (p *point) check(value int64, present bool) (problem string) {
	switch {
	case present && slices.Contains(p.limbo, value):
		return ""
	case present && p.present && value == p.value:
		return ""
	case !present && (!p.present || p.gone):
		return ""
	case !present:
		return fmt.Sprintf("LOST: acknowledged value %d is not there", p.value)
	case !p.present:
		return fmt.Sprintf("BACK: %d is there, though it was deleted or never acknowledged", value)
	}
	return fmt.Sprintf("STALE: %d is there, not the last acknowledged %d", value, p.value)
}

// keep takes what a node has at some time, for telling of a failure.
func (r *record) keep(node string, got map[key]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept[node] == nil {
		r.kept[node] = make(map[key]int64)
	}
	maps.Copy(r.kept[node], got)
}

// had tells what each node had of a key.
func (r *record) had(k key) string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(r.kept)) {
		if v, ok := r.kept[n][k]; ok {
			out = append(out, fmt.Sprintf("%s %d", n, v))
		} else {
			out = append(out, n+" nothing")
		}
	}
	return "before the last repairs: " + strings.Join(out, ", ")
}

// compare judges all that a node returned for the keys between two times, from
// included and to not, and returns up to limit problems in full, and how many there are.
func (r *record) compare(node string, got map[key]int64, from, to int64, limit int) (problems []string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	add := func(k key, what string, history []string) {
		if n++; n <= limit {
			problems = append(problems, fmt.Sprintf("%s: %s at %d: %s\n    %s", node, k.series, k.time, what, strings.Join(append(history, r.had(k)), "\n    ")))
		}
	}
	for k, v := range got {
		p := r.points[k]
		if p == nil {
			add(k, fmt.Sprintf("INVENTED: %d, and nothing was ever written there", v), nil)
			continue
		}
		if r.values[v] != k {
			add(k, fmt.Sprintf("INVENTED: %d was never written to this point", v), p.history)
			continue
		}
		if what := p.check(v, true); what != "" {
			add(k, what, p.history)
		}
	}
	for k, p := range r.points {
		if k.time < from || k.time >= to {
			continue
		}
		if _, ok := got[k]; ok {
			continue
		}
		if what := p.check(0, false); what != "" {
			add(k, what, p.history)
		}
	}
	return problems, n
}

// read judges a read during the faults, when an older value is no error:
// a value must at least have been written to its key.
func (r *record) read(got map[key]int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, v := range got {
		if r.values[v] != k {
			return fmt.Errorf("%s at %d reads as %d, which was never written there", k.series, k.time, v)
		}
	}
	return nil
}

// summary tells the figures.
func (r *record) summary() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	resting, present := 0, 0
	for _, p := range r.points {
		if len(p.limbo) > 0 || p.gone {
			resting++
		}
		if p.present {
			present++
		}
	}
	return fmt.Sprintf("%d operations acknowledged, %d in limbo, %d refused; longest time without an acknowledgement %v; %d points of which %d present and %d with an operation in limbo",
		r.acknowledged, r.limbo, r.refused, r.longestGap.Round(10*time.Millisecond), len(r.points), present, resting)
}
