package httpapi

import (
	"math"
	"sync"
	"time"
)

const (
	// loadPart is the length of the parts in which the load is counted.
	loadPart = 30 * time.Second
	// LoadParts are kept: an hour.
	LoadParts = 120

	// Times of answers are counted in classes. Each is longer than the one before by a fourth root of two, so a
	// percentile is at most 19 % too high.
	shortest     = 64 * time.Microsecond
	timeClasses  = 96
	classesTwice = 4 // classes until the time has doubled
)

// Load is what clients asked of this node in the last hour, in parts of half a minute. The zero value is ready.
type Load struct {
	now func() time.Time // time.Now when nil

	mu      sync.Mutex
	written func() int64 // how many points clients have written so far; nil for not known
	current int64        // number of the part that is counted, since the epoch
	points  int64        // that had been written when it began
	writes  times
	queries times
	ended   [LoadParts]Part // by number
}

// times counts how long answers took.
type times struct {
	n       int64
	classes [timeClasses]uint32
}

// Part is the load of a part of the hour.
type Part struct {
	Start              time.Time
	Length             time.Duration
	Writes, Queries    int64 // requests
	Points             int64 // in the writes
	WriteP99, QueryP99 time.Duration
}

// add counts an answer.
func (t *times) add(took time.Duration) {
	class := 0
	if took > shortest {
		class = int(math.Ceil(math.Log2(float64(took)/float64(shortest)) * classesTwice))
	}
	t.n++
	t.classes[min(class, timeClasses-1)]++
}

// p99 is a time within which 99 % of the answers came; 0 when there was none.
func (t *times) p99() time.Duration {
	if t.n == 0 {
		return 0
	}
	left := t.n / 100 // so many may take longer
	for class := timeClasses - 1; class > 0; class-- {
		if left -= int64(t.classes[class]); left < 0 {
			return time.Duration(float64(shortest) * math.Exp2(float64(class)/classesTwice))
		}
	}
	return shortest
}

// CountPoints has the load take the number of points from written, which tells how many clients have written so far.
func (l *Load) CountPoints(written func() int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written, l.points = written, written()
}

func (l *Load) time() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}

// wrote counts a write of a client, and asked counts a query.
func (l *Load) wrote(took time.Duration) { l.count(&l.writes, took) }
func (l *Load) asked(took time.Duration) { l.count(&l.queries, took) }

func (l *Load) count(t *times, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn()
	t.add(took)
}

// turn begins a new part when it is time. mu must be held.
func (l *Load) turn() {
	number := l.time().UnixNano() / int64(loadPart)
	if number == l.current {
		return
	}
	if l.current != 0 {
		l.ended[l.current%LoadParts] = l.part()
	}
	l.current, l.writes, l.queries = number, times{}, times{}
	if l.written != nil {
		l.points = l.written()
	}
}

// part is the part that is counted. mu must be held.
func (l *Load) part() Part {
	p := Part{
		Start: time.Unix(0, l.current*int64(loadPart)), Length: loadPart, Writes: l.writes.n, Queries: l.queries.n,
		WriteP99: l.writes.p99(), QueryP99: l.queries.p99(),
	}
	if l.written != nil {
		p.Points = max(l.written()-l.points, 0)
	}
	return p
}

// Parts are the last n parts that have ended, the oldest first. A part in which nothing was asked is zero.
func (l *Load) Parts(n int) []Part {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn()
	out := make([]Part, 0, n)
	for number := l.current - int64(min(n, LoadParts)); number < l.current; number++ {
		start := time.Unix(0, number*int64(loadPart))
		p := l.ended[((number%LoadParts)+LoadParts)%LoadParts]
		if !p.Start.Equal(start) {
			p = Part{Start: start, Length: loadPart}
		}
		out = append(out, p)
	}
	return out
}
