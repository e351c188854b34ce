package patch

import (
	"bytes"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Versions are what owners know of the order in which points of one series-field were written.
type Versions struct {
	// Known has versions by time, by owner. A point that is not in it has none that is known.
	Known []map[int64]uint64
	// Since, by owner, is the greatest that a version can be which is not in Known.
	Since []uint64
	// Written has, by time, by owner, the greatest version with which a point was written for certain. A write that
	// failed may have replaced it since, so that its version is not known. After a crash, the journal may have a write
	// that the engine does not have.
	Written []map[int64]uint64
	// Forgot, by owner, is a version that those of points which Written lacks are not above, if the journal is right.
	// Uncertain is for an owner that does not tell.
	Forgot []uint64
	// Failed has, by time, by owner, the greatest version of a write that failed. The owner may have that one, or what
	// was there before.
	Failed []map[int64]uint64
	// Changing has the times of points that an owner has written since they were read, or is writing. What was read of
	// them may be outdated by a write that is acknowledged. So nothing is decided about them.
	Changing map[int64]bool
	// ChangingKnown is whether all owners say which points they are writing. Those of an earlier build do not.
	ChangingKnown bool
}

// Uncertain is the version of a point that is being written, was written after it was read, or whose last write failed.
// Nothing follows from it.
const Uncertain = ^uint64(0)

// bound is a version that those of an owner which are not known are not above, 0 when there is none.
func (v *Versions) bound(owner int) uint64 {
	if v.Since[owner] == Uncertain {
		return 0
	}
	return v.Since[owner]
}

// replaced is a version that the value of an owner at a time is not below, 0 when none is known. A winner of which no
// version is known is written with it: so it replaces this value, and nothing that was written since.
func (v *Versions) replaced(owner int, t int64) uint64 {
	if v == nil {
		return 0
	}
	return v.Written[owner][t]
}

// failed is the version of a write of an owner at a time that failed, 0 for none.
func (v *Versions) failed(owner int, t int64) uint64 {
	if v.Failed == nil {
		return 0
	}
	return v.Failed[owner][t]
}

// changing reports whether a point is in Changing.
func (v *Versions) changing(t int64) bool { return v != nil && v.Changing[t] }

// changingKnown reports ChangingKnown.
func (v *Versions) changingKnown() bool { return v != nil && v.ChangingKnown }

// newest returns the value of one timestamp that was written after all others, and its version. It is nil when that is
// not known, or all are equal.
func (v *Versions) newest(vs []owned) (best tsm1.Value, version uint64) {
	if v == nil {
		return nil, 0
	}
	return last(vs, func(o owned) (from, end uint64) {
		from, known := v.Known[o.owner][o.UnixNano()]
		if !known {
			return 0, v.Since[o.owner]
		}
		failed := v.failed(o.owner, o.UnixNano())
		if from != Uncertain || failed == 0 {
			return from, from
		}
		if from = v.Written[o.owner][o.UnixNano()]; from <= v.Since[o.owner] {
			from = 0 // the engine may lack that write
		}
		// It has the value of the write that failed, or an older one. If it had that of the write that failed, no other
		// owner could have a different value of that version. So its value counts as older than the version.
		return from, failed - 1
	})
}

// forgotten reports whether no owner of a value knows with which version it wrote it: it is from before all that the
// journals know.
func (v *Versions) forgotten(vs []owned, value tsm1.Value) bool {
	return v != nil && !slices.ContainsFunc(vs, func(o owned) bool {
		return v.Written[o.owner][o.UnixNano()] != 0 && Same(o.Value, value)
	})
}

// likely returns the value that was written after all others if the journals of their owners are right. It is nil when
// they do not say.
func (v *Versions) likely(vs []owned) tsm1.Value {
	if v == nil {
		return nil
	}
	best, _ := last(vs, func(o owned) (from, end uint64) {
		if from, known := v.Written[o.owner][o.UnixNano()]; known {
			return from, from
		}
		return 0, v.Forgot[o.owner]
	})
	return best
}

// last returns the value of one timestamp that was written after all others. span is between which versions an owner
// wrote its own. From is Uncertain when that cannot be told.
func last(vs []owned, span func(owned) (from, end uint64)) (best tsm1.Value, version uint64) {
	// A value was written at least at the greatest version that is known of it, and at most at that of an owner
	// that does not know.
	type written struct {
		value     tsm1.Value
		from, end uint64
	}
	var spans []written
	for _, o := range vs {
		from, end := span(o)
		if from == Uncertain {
			return nil, 0
		}
		i := 0
		for i < len(spans) && !bytes.Equal(canonical(spans[i].value), canonical(o.Value)) {
			i++
		}
		if i == len(spans) {
			spans = append(spans, written{value: o.Value})
		}
		spans[i].from, spans[i].end = max(spans[i].from, from), max(spans[i].end, end)
	}
	if len(spans) < 2 {
		return nil, 0
	}
	for i, s := range spans {
		newest := true
		for k, other := range spans {
			newest = newest && (k == i || s.from > other.end)
		}
		if newest {
			return s.value, s.from
		}
	}
	return nil, 0
}

// PointVersions is what a node says of the versions of points.
type PointVersions struct {
	Versions []uint64 // by point; 0 where it is not known, and Uncertain
	Since    uint64   // a version that is not known is not above it
	Written  []uint64 // by point: as in Versions; 0 for none, and nil for a node that does not tell
	Forgot   uint64   // as in Versions, where the node tells Written
	Failed   []uint64 // by point: as in Versions; 0 for none, and nil for a node that does not tell
	// Clock is the version of now, from before the points were looked up. For a minute the node knows what is written
	// after it. 0 is for a node that cannot tell.
	Clock uint64
}
