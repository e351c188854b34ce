package reads

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"concord/test/history"
)

// record is what the cluster acknowledged, and when, and through which node. It judges answers by it.
//
// Every point is written once: a point that an answer lacks was lost or hidden, never replaced. An operation
// that was neither acknowledged nor surely refused is in limbo: it may have been carried out, and may still be.
//
// It has more than 15 fields: the last five count for the line that ends a campaign.
type record struct {
	trouble *trouble
	grace   time.Duration // how long a delivery may be in flight, and the news of it

	mu     sync.Mutex
	rng    *rand.Rand
	clock  history.Clock
	series map[place][]*point // in order of time
	placed map[window][]place // those of an hour
	recent []*point           // acknowledged last
	oldest int                // index in recent of the oldest

	excused map[verdict]map[*point]bool // that an answer that tells each point lacked, or had

	acknowledged, limbo, refused int // operations
	lastAck                      time.Time
	longestGap                   time.Duration // between acknowledged operations
	points                       int
}

// window is an hour of a database, which is a shard group.
type window struct {
	db   string
	hour int
}

// place is what a series has in one hour, so in one shard.
type place struct {
	window
	series string
}

// fate is what a client knows of its operation.
type fate = history.Fate

const (
	underWay     = history.UnderWay
	limbo        = history.Limbo
	refused      = history.Refused
	acknowledged = history.Acknowledged
)

// member is a node with a disk: with another one it knows nothing of what it said before.
type member struct {
	node string
	disk int
}

func (m member) String() string {
	if m.disk == 0 {
		return m.node
	}
	return fmt.Sprintf("%s (disk %d)", m.node, m.disk+1)
}

// point is one point and what is known of it.
type point struct {
	place
	time  int64
	value int64

	history history.Point
	write   *history.Op

	written fate
	level   string
	through member
	at      time.Time // when it was acknowledged

	deleting time.Time // when a delete of it was sent, zero for none
	deleted  time.Time // when that was acknowledged, zero for not
	deleter  member
}

func newRecord(seed uint64, t *trouble, grace time.Duration) *record {
	return &record{
		trouble: t, grace: grace, rng: rand.New(rand.NewPCG(seed, 1)), lastAck: time.Now(),
		series: make(map[place][]*point), placed: make(map[window][]place),
		excused: map[verdict]map[*point]bool{young: {}, cutOff: {}, diskLost: {}, deleteNew: {}},
	}
}

const recentLength = 512

// issue makes the next n points of a series in an hour that begins at some time. They are under way.
func (r *record) issue(at place, begin int64, n int, level string, through member) (out []*point) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := begin
	if r.series[at] == nil {
		r.placed[at.window] = append(r.placed[at.window], at)
	}
	if all := r.series[at]; len(all) > 0 {
		last = all[len(all)-1].time
	}
	op := r.clock.Begin()
	for range n {
		last += int64(1+r.rng.IntN(40)) * int64(10*time.Millisecond)
		if last >= begin+int64(time.Hour) {
			break
		}
		p := &point{place: at, time: last, value: r.rng.Int64N(1 << 40), level: level, through: through, write: op}
		p.history.Add(op, history.Value(p.value))
		r.series[at] = append(r.series[at], p)
		out = append(out, p)
	}
	r.points += len(out)
	return out
}

// wrote says what came of the write of points.
func (r *record) wrote(batch []*point, f fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(f)
	now := time.Now()
	if len(batch) > 0 {
		r.clock.End(batch[0].write, f)
	}
	for _, p := range batch {
		p.written, p.at = f, now
		if f != acknowledged {
			continue
		}
		if len(r.recent) < recentLength {
			r.recent = append(r.recent, p)
		} else {
			r.recent[r.oldest] = p
			r.oldest = (r.oldest + 1) % recentLength
		}
	}
}

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

// deletion is a delete of points next to each other that has begun.
type deletion struct {
	op    *history.Op
	batch []*point
}

// deleting picks a range of points of a series in an hour, and says that a delete of it is under way; the batch is
// empty when there is nothing to delete.
func (r *record) deleting(at place) (d deletion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.series[at]
	if len(all) == 0 {
		return d
	}
	from := r.rng.IntN(len(all))
	d = deletion{r.clock.Begin(), all[from:min(len(all), from+1+r.rng.IntN(12))]}
	now := time.Now()
	for _, p := range d.batch {
		p.history.Add(d.op, history.Outcome{})
		if p.deleting.IsZero() {
			p.deleting = now
		}
	}
	return d
}

// deleted says what came of a delete.
func (r *record) deleted(d deletion, f fate, through member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock.End(d.op, f)
	r.count(f)
	now := time.Now()
	for _, p := range d.batch {
		// A write in limbo may be carried out after the delete.
		if f == acknowledged && p.written == acknowledged && p.deleted.IsZero() && p.at.Before(now) {
			p.deleted, p.deleter = now, through
		}
	}
}

// some is an acknowledged point, mostly a new one; nil while there is none.
func (r *record) some(rng *rand.Rand) *point {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) == 0 {
		return nil
	}
	return r.recent[rng.IntN(len(r.recent))]
}

// verdict is what an answer may say of a point.
type verdict int

const (
	free      verdict = iota // it may be there or not
	young                    // the same, because it was acknowledged less than the grace ago
	cutOff                   // the same, because who acknowledged it could not tell the asked node
	diskLost                 // the same, because who acknowledged it lost its disk before it could tell anyone
	must                     // it must be there
	mustOwn                  // it must be there: the asked node itself acknowledged it
	gone                     // it must not be there
	deleteNew                // it was deleted, and that may not be known yet
)

func (v verdict) String() string {
	return [...]string{"free", "acknowledged less than the grace ago",
		"acknowledged by a node that could not reach the asked one since",
		"acknowledged by a node that lost its disk before it could tell the others",
		"must", "must", "gone", "deleted less than the grace ago, or by a node that could not reach the asked one since"}[v]
}

// asked is a question.
type asked struct {
	window
	copies    int    // that the database keeps of a shard
	series    string // "" for all
	from, to  int64  // times of points, to not included
	form      form
	width     int64 // of byTime
	statement string
	node      member
	sent, got time.Time
}

// form is how a question wants its answer.
type form int

const (
	raw      form = iota // each point
	total                // count and sum of all
	bySeries             // count and sum of each series
	byTime               // count and sum of each interval
	nested               // as total, out of a subquery by series
	forms
)

func (f form) String() string {
	return [...]string{"raw", "total", "by series", "by time", "nested"}[f]
}

// cell is a part of an answer that has its own count and sum: all, a series, or an interval.
type cell struct {
	series string
	from   int64
}

// tally is what a cell says.
type tally struct{ count, sum int64 }

// answer is what a node said: points when it was asked for them, else tallies.
type answer struct {
	points map[cell]int64 // values by series and time
	cells  map[cell]tally
}

// finding is a point, or some points of a cell, of which an answer says what it must not.
type finding struct {
	what   string // LACKING, BACK, INVENTED, TWICE, WRONG
	detail string
	point  *point // nil when only a cell is known
	count  int    // points that are concerned
}

// judge judges an answer without a warning. excused are the points that it lacks and may lack, by reason.
func (r *record) judge(q asked, a answer) (findings []finding, excused map[verdict]int, own int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	excused = make(map[verdict]int)
	heard := make(map[member]heard)
	cells := make(map[cell][]judged)
	seen := 0 // points of the answer that were written at some time
	for _, at := range r.places(q) {
		all := r.series[at]
		i := sort.Search(len(all), func(i int) bool { return all[i].time >= q.from })
		for ; i < len(all) && all[i].time < q.to; i++ {
			p := all[i]
			v := r.verdict(p, q, heard)
			if v == mustOwn {
				own++
			}
			if q.form != raw {
				c := q.cell(p)
				cells[c] = append(cells[c], judged{p, v})
				continue
			}
			value, there := a.points[cell{p.series, p.time}]
			if there {
				seen++
			}
			f, bad, mayBe := judgePoint(p, v, value, there)
			if bad {
				findings = append(findings, f)
			}
			if mayBe {
				excused[v]++
				r.excused[v][p] = true
			}
		}
	}
	if q.form == raw {
		if seen < len(a.points) {
			findings = append(findings, finding{
				"INVENTED", fmt.Sprintf("%d points were never written", len(a.points)-seen), nil, len(a.points) - seen,
			})
		}
		return findings, excused, own
	}
	for c := range a.cells {
		if cells[c] == nil {
			cells[c] = []judged{}
		}
	}
	for c, points := range cells {
		if f, ok := judgeCell(c, points, a.cells[c], excused); ok {
			findings = append(findings, f)
		}
	}
	return findings, excused, own
}

// judgePoint judges what an answer has of one point: bad is what it must not have, or lack; excused is what it need not
// have, or may have.
func judgePoint(p *point, v verdict, value int64, there bool) (f finding, bad, excused bool) {
	switch {
	case there && p.written == refused:
		return finding{"INVENTED", "the write was refused", p, 1}, true, false
	case there && value != p.value:
		return finding{"WRONG", fmt.Sprintf("it reads as %d", value), p, 1}, true, false
	case there && v == gone:
		return finding{"BACK", "it was deleted", p, 1}, true, false
	case !there && (v == must || v == mustOwn):
		return finding{"LACKING", "", p, 1}, true, false
	}
	return finding{}, false, !there && (v == young || v == cutOff || v == diskLost) || there && v == deleteNew
}

// judged is a point with its verdict.
type judged struct {
	*point
	verdict verdict
}

// judgeCell judges a count and a sum. Which points it lacks they do not say; excused points are counted only as far
// as they are lacked.
func judgeCell(c cell, points []judged, got tally, excused map[verdict]int) (finding, bool) {
	var least, most tally
	var first *point // one that must be there
	could := make(map[verdict]int)
	for _, p := range points {
		if p.verdict == must || p.verdict == mustOwn {
			least.add(p.value)
			if first == nil || p.verdict == mustOwn {
				first = p.point
			}
		}
		if p.verdict != gone && p.written != refused {
			most.add(p.value)
		}
		could[p.verdict]++
	}
	at := fmt.Sprintf("series %q from %d: %d points with the sum %d, want", c.series, c.from, got.count, got.sum)
	switch {
	case got.count < least.count:
		return finding{"LACKING", fmt.Sprintf("%s at least %d with the sum %d",
			at, least.count, least.sum), first, int(least.count - got.count)}, true
	case got.count > most.count:
		return finding{"BACK", fmt.Sprintf("%s at most %d", at, most.count), nil, int(got.count - most.count)}, true
	case got.count == least.count && least.count == most.count && got.sum != least.sum:
		return finding{"WRONG", fmt.Sprintf("%s the sum %d", at, least.sum), first, 1}, true
	}
	missed := int(most.count - got.count)
	for _, v := range []verdict{young, cutOff, diskLost} {
		n := min(missed, could[v])
		if n > 0 {
			excused[v] += n
		}
		missed -= n
	}
	return finding{}, false
}

// last judges a raw answer when all operations have ended. For each point, there must be a linear order of its write
// and its deletes that respects real time and ends in what the answer has. What is excused is left out: it is gone
// with a disk.
func (r *record) last(q asked, a answer) (findings []finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := make(map[member]heard)
	for _, at := range r.places(q) {
		for _, p := range r.series[at] {
			if p.time < q.from || p.time >= q.to {
				continue
			}
			switch r.verdict(p, q, known) {
			case young, cutOff, diskLost, deleteNew:
				continue
			}
			value, there := a.points[cell{p.series, p.time}]
			if has := (history.Outcome{Value: value, Present: there}); !p.history.Allows(has) {
				findings = append(findings, finding{
					"IN NO ORDER", fmt.Sprintf("it has %v, and may have %v", has, p.history.Allowed()), p, 1,
				})
			}
		}
	}
	return findings
}

func (t *tally) add(v int64) { t.count++; t.sum += v }

// cell is that of a point.
func (q asked) cell(p *point) cell {
	switch q.form {
	case bySeries:
		return cell{series: p.series}
	case byTime:
		return cell{from: p.time - p.time%q.width}
	}
	return cell{}
}

// places are those that a question is about.
func (r *record) places(q asked) []place {
	if q.series != "" {
		return []place{{q.window, q.series}}
	}
	return r.placed[q.window]
}

// heard is up to when the asked node can know what another one acknowledged.
type heard struct {
	known time.Time
	lost  bool
}

func (r *record) verdict(p *point, q asked, known map[member]heard) verdict {
	told := func(by member) heard {
		h, ok := known[by]
		if !ok {
			h.known, h.lost = r.trouble.heard(by.node, by.disk, q.node.node, q.sent, r.grace)
			known[by] = h
		}
		return h
	}
	if !p.deleting.IsZero() && p.deleting.Before(q.got) {
		switch {
		case p.deleted.IsZero() || p.deleted.After(q.sent):
			return free
		case p.deleted.After(told(p.deleter).known):
			return deleteNew
		}
		return gone
	}
	if p.written != acknowledged || p.at.After(q.sent) {
		return free
	}
	if p.through == q.node {
		return mustOwn
	}
	h := told(p.through)
	switch {
	case !p.at.After(h.known):
		return must
	case p.at.After(q.sent.Add(-r.grace)):
		return young
	case !h.lost:
		return cutOff
	case p.level == "all" || p.level == "quorum" && q.copies == 2:
		return must // every owner had it: no disk takes it along
	}
	return diskLost
}

// tell is what is known of a point, for a reader of a failure; start is that of the campaign. The record's mu is held.
func (p *point) tell(start time.Time) string {
	s := fmt.Sprintf("%s, hour %d, series %s, time %d, value %d: write at %s through %v %v at %.3fs",
		p.db, p.hour, p.series, p.time, p.value, p.level, p.through, p.written, p.at.Sub(start).Seconds())
	if !p.deleting.IsZero() {
		s += fmt.Sprintf("; delete sent at %.3fs", p.deleting.Sub(start).Seconds())
	}
	if !p.deleted.IsZero() {
		s += fmt.Sprintf(", acknowledged through %v at %.3fs", p.deleter, p.deleted.Sub(start).Seconds())
	}
	return s
}

// hours are those of a database that have points.
func (r *record) hours(db string) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []int
	for w := range r.placed {
		if w.db == db {
			out = append(out, w.hour)
		}
	}
	slices.Sort(out)
	return out
}

// summary tells the figures.
func (r *record) summary() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := fmt.Sprintf("%d operations acknowledged, %d in limbo, %d refused, on %d points; longest time without an "+
		"acknowledgement %v",
		r.acknowledged, r.limbo, r.refused, r.points, r.longestGap.Round(10*time.Millisecond))
	for v := range r.excused {
		if n := len(r.excused[v]); n > 0 {
			s += fmt.Sprintf("; %d points %v were lacked or there, and excused", n, v)
		}
	}
	return s
}

// tell joins what findings say, up to limit of them.
func (r *record) tell(findings []finding, start time.Time, limit int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for i, f := range findings {
		if i == limit {
			fmt.Fprintf(&b, "\n    and %d more like these", len(findings)-limit)
			break
		}
		fmt.Fprintf(&b, "\n    %s %d", f.what, f.count)
		if f.detail != "" {
			fmt.Fprintf(&b, ": %s", f.detail)
		}
		if f.point != nil {
			fmt.Fprintf(&b, "; for one, %s", f.point.tell(start))
		}
	}
	return b.String()
}
