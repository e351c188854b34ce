package distquery

import (
	"encoding/binary"
	"math"

	"github.com/influxdata/influxdb/pkg/estimator/hll"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"github.com/zeebo/xxh3"

	"concord/internal/budget"
)

// held is what functions keep of the points of an iterator. The points of a window are given back at its end. It has
// many fields because each point changes the counts of its window, of its tags and of its values, and functions keep
// different parts of a point.
type held struct {
	share     *budget.Share
	opt       query.IteratorOptions // with the windows of the function
	all       bool                  // all points are kept; else, with distinct, one of each value
	distinct  bool
	value     bool  // the value of a point is looked at
	aux       []int // and these of its further values
	size      int64 // of a kept point
	most      int64 // points of a series in a group that are kept; 0 is no limit
	filled    int64 // time between two points when the engine fills in what is missing; 0 when it does not
	fillCount bool  // of count(), which is 0 where nothing is
	set       int64 // bytes for each tag set

	name       string
	tags       string              // of the last point
	group      string              // that they are in
	start, end int64               // of the window
	begun      bool                // there was a point
	sets       map[string]struct{} // that were seen; nil where those of one set come together
	series     map[string]struct{} // of the window, of which the filled points are counted

	run    int64               // points of the tags
	n      int64               // points of the window
	bytes  int64               // of these, and of the long strings of distinct()
	short  int64               // bytes of all short strings of distinct()
	long   map[uint64]struct{} // hashes of its long strings
	values *hll.Plus           // what it gets, beyond few; nil while it got no more
	due    int64               // bytes that were not taken
	taken  int64
}

const (
	longString = 1 << 10 // bytes
	fewValues  = 1 << 10 // points of a window that are not told apart
	// valuePrecision makes the estimate of the values right within some 3 %.
	valuePrecision = 10
)

// fills reports whether the engine adds points of windows that have none.
func (h *held) fills() bool {
	switch h.opt.Fill {
	case influxql.NumberFill, influxql.PreviousFill, influxql.LinearFill:
		return true
	case influxql.NullFill:
		return h.fillCount
	}
	return false
}

// next counts a point.
func (h *held) next(f fields, hash uint64, text string) error {
	if id := f.tags.ID(); !h.begun || id != h.tags || f.name != h.name || f.time < h.start || f.time >= h.end {
		if err := h.begin(f, id); err != nil {
			return err
		}
	}
	if h.run++; h.most > 0 && h.run > h.most || !h.all && !h.distinct {
		return nil
	}
	h.n++
	before := h.bytes
	if h.all {
		h.bytes += h.size + int64(len(text))
		for _, i := range h.aux {
			if i < len(*f.aux) {
				s, _ := (*f.aux)[i].(string)
				h.bytes += int64(len(s))
			}
		}
	} else {
		h.note(f, hash, text)
	}
	if h.due += h.bytes - before; h.due >= partStep || h.distinct && h.n%fewValues == 0 {
		h.due = 0
		return h.take(h.total())
	}
	return nil
}

// begin begins another window, or another series of a group.
func (h *held) begin(f fields, id string) error {
	group := h.group
	if !h.begun || id != h.tags {
		group = f.tags.Subset(h.opt.Dimensions).ID()
	}
	sameGroup := h.begun && group == h.group && f.name == h.name
	same := sameGroup && f.time >= h.start && f.time < h.end
	if id != h.tags || f.name != h.name {
		h.run = 0
	}
	h.begun, h.name, h.tags, h.group = true, f.name, id, group
	if h.set > 0 {
		n := h.set
		if h.sets == nil && sameGroup {
			n = 0
		} else if h.sets != nil {
			key := f.name + "\x00" + id
			if _, seen := h.sets[key]; seen {
				n = 0
			} else {
				h.sets[key] = struct{}{}
				n += costOfName + int64(len(key))
			}
		}
		if err := h.share.Grow(n); err != nil {
			return err
		}
	}
	if !same {
		if err := h.take(0); err != nil {
			return err
		}
		h.n, h.bytes, h.short, h.due, h.series, h.long = 0, 0, 0, 0, nil, nil
		h.values = nil
		h.start, h.end = h.opt.Window(f.time)
	}
	if h.filled == 0 {
		return nil
	}
	if _, seen := h.series[id]; seen {
		return nil
	}
	if h.series == nil {
		h.series = make(map[string]struct{})
	}
	h.series[id] = struct{}{}
	h.bytes += h.size * h.windows(f.time)
	return h.take(h.total())
}

// windows is how many points the engine fills in for a series whose first one is at t, at most.
func (h *held) windows(t int64) int64 {
	from, to := max(h.start, h.opt.StartTime), min(h.end-1, h.opt.EndTime)
	if h.opt.StartTime == influxql.MinTime {
		from = t
	}
	if from > to {
		return 0
	}
	n := (to - from) / h.filled
	if h.most > 0 {
		n = min(n, h.most)
	}
	return min(n, 1<<40) // far from an overflow
}

// note notes what distinct() keeps of a point.
func (h *held) note(f fields, hash uint64, text string) {
	if h.value {
		hash = h.add(hash, text)
	} else {
		hash = 0
		for _, i := range h.aux {
			if i < len(*f.aux) {
				hash = h.addAny(hash, (*f.aux)[i])
			}
		}
		if len(h.aux) == 0 { // of tags, or of what a call returns
			hash = xxh3.HashString(h.tags)
		}
	}
	if h.n <= fewValues {
		return
	}
	if h.values == nil {
		h.values, _ = hll.NewPlus(valuePrecision) // the error is of a precision out of range
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], hash)
	h.values.Add(b[:])
}

// add counts a text, and returns the hash of a value.
func (h *held) add(hash uint64, text string) uint64 {
	if text == "" {
		return hash
	}
	hash = xxh3.HashStringSeed(text, hash)
	if len(text) < longString {
		h.short += int64(len(text))
		return hash
	}
	if _, seen := h.long[hash]; !seen {
		if h.long == nil {
			h.long = make(map[uint64]struct{})
		}
		h.long[hash] = struct{}{}
		h.bytes += int64(len(text))
	}
	return hash
}

// addAny is add for a further value of a point.
func (h *held) addAny(hash uint64, v any) uint64 {
	switch v := v.(type) {
	case float64:
		return mix(hash, math.Float64bits(v))
	case int64:
		return mix(hash, uint64(v))
	case uint64:
		return mix(hash, v)
	case string:
		return h.add(hash, v)
	case bool:
		if v {
			return mix(hash, 1)
		}
	}
	return mix(hash, 0)
}

// total is what the window holds.
func (h *held) total() int64 {
	if h.all || h.n == 0 {
		return h.bytes
	}
	values := min(h.n, fewValues)
	if h.values != nil {
		values += int64(h.values.Count())
	}
	return h.bytes + values*(h.size+h.short/h.n)
}

// take makes what was taken from the share this many bytes.
func (h *held) take(all int64) error {
	n := all - h.taken
	if n == 0 {
		return nil
	}
	h.taken = all
	return h.share.Grow(n)
}

// mix is a hash of a value, after what is hashed before.
func mix(hash, v uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return xxh3.HashSeed(b[:], hash)
}

// heldOf counts the points of an iterator.
type heldOf[P any] struct {
	points[P]
	held
	of   func(*P) fields
	look func(*P) (hash uint64, text string) // of the value
}

func newHeld[P any](
	itr points[P], h held, of func(*P) fields, look func(*P) (uint64, string),
) *heldOf[P] {
	return &heldOf[P]{points: itr, held: h, of: of, look: look}
}

// Next returns the next point, when it is counted.
func (h *heldOf[P]) Next() (*P, error) {
	p, err := h.points.Next()
	if p == nil || err != nil {
		return nil, err
	}
	var (
		hash uint64
		text string
	)
	if h.value {
		hash, text = h.look(p)
	}
	if err := h.next(h.of(p), hash, text); err != nil {
		return nil, err
	}
	return p, nil
}
