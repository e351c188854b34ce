package campaign

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"concord/test/history"
)

// key is a point without its value.
type key struct {
	series string
	time   int64 // nanoseconds
}

// record is what the cluster said it did, and so what it may have at the end.
//
// Each operation is noted when it begins and when its answer comes. A point may hold at the end what package history
// allows: the last of the acknowledged operations, any of the last ones that overlapped, or any in limbo. An
// operation is in limbo when it was not acknowledged, and not surely refused before any node saw it: it may have been
// carried out, and may still be later, by a paused node or from a queue. A point in limbo would be judged by less and
// less, so it is not written again, and a series with a delete in limbo is not used again.
type record struct {
	mu     sync.Mutex
	rng    *rand.Rand
	start  time.Time
	clock  history.Clock
	points map[key]*point
	values map[int64]key // each value is written to one key, by one operation
	// deletes are those of each series that may still take effect on a point that is written for the first time: they
	// are under way or in limbo.
	deletes map[string][]*deletion

	kept map[string]map[key]int64 // by node: what it had before the last repairs

	acknowledged, limbo, refused int // operations
	lastAck                      time.Time
	longestGap                   time.Duration // between acknowledged operations
}

// point is what is known of one key.
type point struct {
	history.Point
	notes []string // the last operations, to tell of a failure
}

// writing is a write that has begun.
type writing struct {
	op    *history.Op
	batch map[key]int64
}

// deletion is a delete of a series between two times, both included, that has begun.
type deletion struct {
	op       *history.Op
	series   string
	from, to int64
}

func (d *deletion) covers(k key) bool {
	return k.series == d.series && k.time >= d.from && k.time <= d.to
}

// notesKept is how many operations on a point are kept to tell of a failure.
const notesKept = 12

func newRecord(seed uint64) *record {
	now := time.Now()
	return &record{
		rng: rand.New(rand.NewPCG(seed, 1)), start: now, lastAck: now,
		points: make(map[key]*point), values: make(map[int64]key), kept: make(map[string]map[key]int64),
		deletes: make(map[string][]*deletion),
	}
}

// at returns the point of a key. A new one is told of the deletes that may still take effect on it.
func (r *record) at(k key) *point {
	p := r.points[k]
	if p == nil {
		p = &point{}
		r.points[k] = p
		for _, d := range r.deletes[k.series] {
			if d.covers(k) {
				p.Add(d.op, history.Outcome{})
			}
		}
	}
	return p
}

func (r *record) note(p *point, format string, args ...any) {
	if len(p.notes) == notesKept {
		p.notes = slices.Delete(p.notes, 0, 1)
	}
	p.notes = append(p.notes, fmt.Sprintf("%8.3fs ", time.Since(r.start).Seconds())+fmt.Sprintf(format, args...))
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

func (r *record) count(f history.Fate) {
	switch f {
	case history.Acknowledged:
		r.acknowledged++
		now := time.Now()
		r.longestGap = max(r.longestGap, now.Sub(r.lastAck))
		r.lastAck = now
	case history.Limbo:
		r.limbo++
	case history.Refused:
		r.refused++
	}
}

// beginWrite records that a batch of points is about to be sent to a node.
func (r *record) beginWrite(batch map[key]int64, node string) *writing {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &writing{r.clock.Begin(), batch}
	for k, v := range batch {
		p := r.at(k)
		p.Add(w.op, history.Value(v))
		r.note(p, "write %d through %s begins", v, node)
	}
	return w
}

// endWrite records what became of a write.
func (r *record) endWrite(w *writing, f history.Fate, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock.End(w.op, f)
	r.count(f)
	for k, v := range w.batch {
		r.note(r.at(k), "write %d: %v %s", v, f, why)
	}
}

// beginDelete records that a delete of a series between two times, both included, is about to be sent to a node.
func (r *record) beginDelete(series string, from, to int64, node string) *deletion {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &deletion{r.clock.Begin(), series, from, to}
	r.deletes[series] = append(r.deletes[series], d)
	for k, p := range r.points {
		if d.covers(k) {
			p.Add(d.op, history.Outcome{})
			r.note(p, "delete through %s begins", node)
		}
	}
	return d
}

// endDelete records what became of a delete.
func (r *record) endDelete(d *deletion, f history.Fate, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock.End(d.op, f)
	r.count(f)
	if f != history.Limbo {
		r.deletes[d.series] = slices.DeleteFunc(r.deletes[d.series], func(o *deletion) bool { return o == d })
	}
	for k, p := range r.points {
		if d.covers(k) {
			r.note(p, "delete: %v %s", f, why)
		}
	}
}

// resting tells whether a key must not be used again.
func (r *record) resting(k key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.points[k]
	return p != nil && p.InLimbo()
}

// check judges what an owner has for a key; problem is "" when all is well.
func (p *point) check(has history.Outcome) (problem string) {
	allowed := p.Allowed()
	gone := slices.Contains(allowed, history.Outcome{})
	switch {
	case slices.Contains(allowed, has):
		return ""
	case !has.Present:
		return fmt.Sprintf("LOST: it is not there, and should be one of %v", allowed)
	case gone && len(allowed) == 1:
		return fmt.Sprintf("BACK: %v is there, though it was deleted or never acknowledged", has)
	}
	return fmt.Sprintf("STALE: %v is there, and it should be one of %v", has, allowed)
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
	add := func(k key, what string, notes []string) {
		if n++; n <= limit {
			lines := append(slices.Clone(notes), r.had(k))
			problems = append(problems, fmt.Sprintf("%s: %s at %d: %s\n    %s",
				node, k.series, k.time, what, strings.Join(lines, "\n    ")))
		}
	}
	for k, v := range got {
		p := r.points[k]
		if p == nil {
			add(k, fmt.Sprintf("INVENTED: %d, and nothing was ever written there", v), nil)
			continue
		}
		if r.values[v] != k {
			add(k, fmt.Sprintf("INVENTED: %d was never written to this point", v), p.notes)
			continue
		}
		if what := p.check(history.Value(v)); what != "" {
			add(k, what, p.notes)
		}
	}
	for k, p := range r.points {
		if k.time < from || k.time >= to {
			continue
		}
		if _, ok := got[k]; ok {
			continue
		}
		if what := p.check(history.Outcome{}); what != "" {
			add(k, what, p.notes)
		}
	}
	return problems, n
}

// differences lists where two owners do not have the same, up to limit of them, and counts them all.
func (r *record) differences(a, b string, inA, inB map[key]int64, limit int) (problems []string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(inA)
	maps.Copy(all, inB)
	outcome := func(got map[key]int64, k key) history.Outcome {
		v, ok := got[k]
		return history.Outcome{Value: v, Present: ok}
	}
	for k := range all {
		hasA, hasB := outcome(inA, k), outcome(inB, k)
		if hasA == hasB {
			continue
		}
		if n++; n > limit {
			continue
		}
		var notes []string
		if p := r.points[k]; p != nil {
			notes = p.notes
		}
		problems = append(problems, fmt.Sprintf("DIFFERENT: %s at %d: %s has %v, %s has %v\n    %s",
			k.series, k.time, a, hasA, b, hasB, strings.Join(append(slices.Clone(notes), r.had(k)), "\n    ")))
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
		if p.InLimbo() {
			resting++
		}
		if !p.Allows(history.Outcome{}) {
			present++
		}
	}
	return fmt.Sprintf("%d operations acknowledged, %d in limbo, %d refused; ", r.acknowledged, r.limbo, r.refused) +
		fmt.Sprintf("longest time without an acknowledgement %v; ", r.longestGap.Round(10*time.Millisecond)) +
		fmt.Sprintf("%d points of which %d surely present and %d with an operation in limbo", len(r.points), present,
			resting)
}
