package patch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"
)

const (
	blockPoints = 1000    // points of a block that this build writes
	maxPoints   = 1 << 20 // points of a block that this build reads
)

// ErrMalformed is returned for a block that does not decode.
var ErrMalformed = errors.New("malformed block")

// NewBlock encodes points of one series-field, ascending by time.
func NewBlock(series []byte, field string, v tsm1.Values) (Block, error) {
	data, err := v.Encode(nil)
	if err != nil {
		return Block{}, fmt.Errorf("encode %d points of %s %s: %w", len(v), series, field, err)
	}
	return Block{Series: series, Field: field, Data: data}, nil
}

// Decode returns the block's points; anything that is not one whole block is ErrMalformed.
func (b Block) Decode() (v tsm1.Values, err error) {
	// The engine's decoders trust their input: bytes from the network may make them panic.
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("%w of %s %s: %v", ErrMalformed, b.Series, b.Field, r)
		}
	}()
	if len(b.Data) == 0 {
		return nil, fmt.Errorf("%w of %s %s: empty", ErrMalformed, b.Series, b.Field)
	}
	n, err := tsm1.BlockCount(b.Data)
	if err != nil || n < 1 || n > maxPoints {
		return nil, fmt.Errorf("%w of %s %s: %d points", ErrMalformed, b.Series, b.Field, n)
	}
	v, err = tsm1.DecodeBlock(b.Data, nil)
	if err != nil {
		return nil, fmt.Errorf("%w of %s %s: %v", ErrMalformed, b.Series, b.Field, err)
	}
	for i := 1; i < len(v); i++ {
		if v[i].UnixNano() <= v[i-1].UnixNano() {
			return nil, fmt.Errorf("%w of %s %s: times do not ascend", ErrMalformed, b.Series, b.Field)
		}
	}
	return v, nil
}

// owned is a point and who holds it.
type owned struct {
	tsm1.Value
	owner int
}

// Rules decide where owners hold different values.
type Rules struct {
	// Absent owners do not take part. A value wins only with more votes than any other
	// could have with theirs: the majority may be with them, and a tie that is
	// decided without them may undo an acknowledged write.
	Absent int
	// WithoutVote are the owners, by owner, that may have lost newer values: theirs count where no other owner has one.
	// nil is none.
	WithoutVote []bool
	// MayHaveNewest are the owners, by owner, that missed writes. Each of them may be the only one that has the last
	// acknowledged value. The journals decide between that value and one of which nobody knows the version any more.
	// nil is none.
	MayHaveNewest []bool
	// MayDecide reports whether a conflict of values, by its fingerprint, may be decided now. nil is always. One that
	// may not be decided may be a write that is under way.
	MayDecide func(fingerprint uint64) bool
}

// Decision is a point that owners held with different values.
type Decision struct {
	Series, Field string
	Time          int64  // nanoseconds
	Value         string // that all have now, unless it is Open
	Why           string // it was chosen, or why none was, for people
	Open          bool   // nothing was chosen
	Held          []Held // by owners that have the point
}

// Held is the value that one owner held.
type Held struct {
	Owner   int // its place among those that were merged
	Value   string
	Version uint64 // with which it was written; 0 is not known, and Uncertain while it is being written
	Bound   uint64 // where Version is 0, the greatest that it can be; 0 is not known
}

// Why a value was chosen, or none was.
const (
	WhyNewer    = "it was written last"
	WhyMajority = "most owners have it"
	WhyLikely   = "it was probably written last"
	WhyOrder    = "nothing says which is newer: the greater in a fixed order"
	WhyWhole    = "the other copies lack newer writes"
	WhyAbsent   = "an owner that does not take part may decide otherwise"
	WhyHot      = "it may be a write on its way"
)

// maxDecisions is how many a Merged lists.
const maxDecisions = 20

// Merged is what owners lack to be equal.
type Merged struct {
	Lacking        [][]Block  // by owner: points that it lacks or holds otherwise
	Points         []int      // by owner: their number
	ValueConflicts int        // timestamps with different values that were decided
	Decided        []Decision // the first of them
	Open           int        // and that were not
	Undecided      []Decision // the first of them
	Outdated       []Decision // the first that only owners WithoutVote hold otherwise, which is no conflict
}

// Merge is MergeValues of blocks.
func Merge(owners [][]Block, rules Rules) (m Merged, err error) {
	var (
		series []byte
		field  string
		all    = make([]tsm1.Values, len(owners))
	)
	for i, list := range owners {
		for _, b := range list {
			if series == nil {
				series, field = b.Series, b.Field
			} else if !bytes.Equal(series, b.Series) || field != b.Field {
				return m, fmt.Errorf("blocks of %s %s and %s %s do not merge", series, field, b.Series, b.Field)
			}
			vs, err := b.Decode()
			if err != nil {
				return m, err
			}
			all[i] = append(all[i], vs...)
		}
	}
	return MergeValues(series, field, all, rules)
}

// MergeValues is Join and Merge of points of which no owner knows a version.
func MergeValues(series []byte, field string, owners []tsm1.Values, rules Rules) (Merged, error) {
	return Join(series, field, owners, rules).Merge(nil)
}

// Joined are the points of one series-field that owners hold.
type Joined struct {
	// Differing are the times at which owners hold different values, but for those that may be on their way. Versions
	// of them help Merge.
	Differing []int64

	series []byte
	field  string
	rules  Rules
	owners int
	all    []owned        // by time
	open   map[int64]bool // times of values that may be on their way
}

// Join joins all owners' points of one series-field, each ascending by time.
func Join(series []byte, field string, owners []tsm1.Values, rules Rules) Joined {
	j := Joined{series: series, field: field, rules: rules, owners: len(owners), open: make(map[int64]bool)}
	for i, vs := range owners {
		for _, v := range vs {
			j.all = append(j.all, owned{v, i})
		}
	}
	slices.SortStableFunc(j.all, func(a, b owned) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	for vs := range byTime(j.all) {
		if !differ(vs) {
			continue
		}
		hot := rules.MayDecide != nil && differ(rules.voting(vs))
		if hot && !rules.MayDecide(fingerprint(series, field, vs)) {
			j.open[vs[0].UnixNano()] = true
		} else {
			j.Differing = append(j.Differing, vs[0].UnixNano())
		}
	}
	return j
}

// Merge decides what all owners are to hold. The result has every timestamp that any owner has. Where owners hold
// different values, the one that is known to be the newest wins, else the one that most hold. On a tie, and where a
// node went down that may have had the newest alone (Rules.MayHaveNewest), it is the one that was probably written
// last. Else it is the greater in the order of encodings. What the rules do not let it decide is left as it is.
// versions is nil for none. While owners are absent, being the newest is not enough to win: an absent owner may have a
// newer value. But no other value wins over the newest.
func (j Joined) Merge(versions *Versions) (m Merged, err error) {
	m.Lacking, m.Points = make([][]Block, j.owners), make([]int, j.owners)
	need := make([]lacking, j.owners)
	same := make([]bool, j.owners) // owner i holds the winning value
	for vs := range byTime(j.all) {
		conflict, won := true, true
		newest, version := versions.newest(vs)
		best, why := newest, WhyNewer
		if newest == nil || j.rules.Absent > 0 {
			best, conflict, won, why = vote(j.rules.voting(vs), j.rules.Absent, versions)
			won = won && (newest == nil || Same(newest, best))
			if newest == nil && differ(vs) && versions.forgotten(vs, best) {
				if last := versions.likely(j.rules.mayHaveNewest(vs)); last != nil && !Same(last, best) {
					best, conflict, won, why = last, true, j.rules.Absent == 0, WhyLikely
				}
			}
		}
		switch hot := j.open[vs[0].UnixNano()]; {
		case conflict && hot, versions.changing(vs[0].UnixNano()):
			m.Open++
			m.Undecided = j.list(m.Undecided, vs, versions, nil, WhyHot)
			continue
		case !won && differ(vs): // those without a vote may have what an absent owner has
			m.Open++
			m.Undecided = j.list(m.Undecided, vs, versions, nil, WhyAbsent)
			continue
		case conflict:
			m.ValueConflicts++
			m.Decided = j.list(m.Decided, vs, versions, best, why)
		case j.rules.WithoutVote != nil && differ(vs):
			m.Outdated = j.list(m.Outdated, vs, versions, best, WhyWhole)
		}
		clear(same)
		want := canonical(best)
		for _, v := range vs {
			same[v.owner] = bytes.Equal(canonical(v.Value), want)
		}
		for i := range j.owners {
			if same[i] {
				continue
			}
			v := version
			// Of an owner of an earlier build, what differs may be a write that is on its way.
			if v == 0 && (conflict || j.rules.MayDecide == nil || versions.changingKnown()) {
				v = versions.replaced(i, best.UnixNano())
			}
			need[i].add(best, v)
			need[i].assumed = need[i].assumed || v != version // then v is that of the value that the owner has now
		}
	}
	for i, n := range need {
		m.Points[i] = len(n.values)
		if m.Lacking[i], err = n.blocks(j.series, j.field); err != nil {
			return m, err
		}
	}
	return m, nil
}

// list adds what became of the values of one timestamp to a list, unless that is full. best is nil when they stay as
// they are.
func (j Joined) list(to []Decision, vs []owned, versions *Versions, best tsm1.Value, why string) []Decision {
	if len(to) == maxDecisions {
		return to
	}
	d := Decision{Series: string(j.series), Field: j.field, Time: vs[0].UnixNano(), Why: why, Open: best == nil}
	if best != nil {
		d.Value = shown(best)
	}
	for _, v := range vs {
		h := Held{Owner: v.owner, Value: shown(v.Value)}
		if versions != nil {
			var known bool
			h.Version, known = versions.Known[v.owner][v.UnixNano()]
			failed := versions.failed(v.owner, v.UnixNano())
			switch {
			case !known:
				h.Bound = versions.bound(v.owner)
			case h.Version == Uncertain && failed == Uncertain: // its journal cannot be read
				h.Version = 0
			case h.Version == Uncertain && failed != 0:
				h.Version, h.Bound = 0, failed
			}
		}
		d.Held = append(d.Held, h)
	}
	return append(to, d)
}

// byTime iterates over the values of each time.
func byTime(all []owned) iter.Seq[[]owned] {
	return func(yield func([]owned) bool) {
		for from := 0; from < len(all); {
			to := from + 1
			for to < len(all) && all[to].UnixNano() == all[from].UnixNano() {
				to++
			}
			if !yield(all[from:to]) {
				return
			}
			from = to
		}
	}
}

// differ reports whether not all values are the same.
func differ(vs []owned) bool {
	return slices.ContainsFunc(vs[1:], func(v owned) bool { return !Same(v.Value, vs[0].Value) })
}

// lacking are points that an owner lacks.
type lacking struct {
	values   tsm1.Values
	versions []uint64 // by value; nil while none is known
	assumed  bool     // as Block has it
}

func (l *lacking) add(v tsm1.Value, version uint64) {
	if version != 0 && l.versions == nil {
		l.versions = make([]uint64, len(l.values))
	}
	l.values = append(l.values, v)
	if l.versions != nil {
		l.versions = append(l.versions, version)
	}
}

func (l *lacking) blocks(series []byte, field string) (out []Block, err error) {
	for from := 0; from < len(l.values); from += blockPoints {
		to := min(from+blockPoints, len(l.values))
		b, err := NewBlock(series, field, l.values[from:to])
		if err != nil {
			return nil, err
		}
		if l.versions != nil {
			b.Versions, b.Assumed = l.versions[from:to], l.assumed
		}
		out = append(out, b)
	}
	return out, nil
}

// votes reports whether an owner has a vote.
func (r Rules) votes(owner int) bool { return r.WithoutVote == nil || !r.WithoutVote[owner] }

// voting are the values of owners that have a vote, or all when there are no others.
func (r Rules) voting(vs []owned) []owned {
	var out []owned
	for _, v := range vs {
		if r.votes(v.owner) {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return vs
	}
	return out
}

// mayHaveNewest are the values of owners that have a vote or MayHaveNewest. There are none when nobody has the latter.
func (r Rules) mayHaveNewest(vs []owned) (out []owned) {
	some := false
	for _, v := range vs {
		newest := r.MayHaveNewest != nil && r.MayHaveNewest[v.owner]
		if some = some || newest; newest || r.votes(v.owner) {
			out = append(out, v)
		}
	}
	if !some {
		return nil
	}
	return out
}

// vote picks among the values of one timestamp. It is won when absent owners
// could not change it. versions help where votes are tied.
func vote(vs []owned, absent int, versions *Versions) (best tsm1.Value, differ, won bool, why string) {
	votes, second := 0, 0
	var code []byte
	for _, v := range vs {
		c, n := canonical(v.Value), votesFor(v.Value, vs)
		differ = differ || n < len(vs)
		switch {
		case best != nil && bytes.Equal(c, code): // the code of the empty string is empty, too
		case n > votes || (n == votes && bytes.Compare(c, code) > 0):
			best, votes, second, code = v.Value, n, votes, c
		default:
			second = max(second, n)
		}
	}
	if why = WhyMajority; votes == second {
		why = WhyOrder
		tied := slices.DeleteFunc(slices.Clone(vs), func(v owned) bool { return votesFor(v.Value, vs) < votes })
		if last := versions.likely(tied); last != nil {
			best, why = last, WhyLikely
		}
	}
	return best, differ, absent == 0 || votes > second+absent, why
}

func votesFor(value tsm1.Value, vs []owned) (n int) {
	for _, v := range vs {
		if Same(v.Value, value) {
			n++
		}
	}
	return n
}

// fingerprint is a hash of a conflict of values: where, and who holds what.
func fingerprint(series []byte, field string, vs []owned) uint64 {
	var h xxh3.Hasher
	number := func(n uint64) { h.Write(binary.BigEndian.AppendUint64(nil, n)) }
	number(uint64(len(series)))
	h.Write(series)
	h.WriteString(field)
	number(uint64(vs[0].UnixNano()))
	for _, v := range vs {
		number(uint64(v.owner))
		c := canonical(v.Value)
		number(uint64(len(c)))
		h.Write(c)
	}
	return h.Sum64()
}
