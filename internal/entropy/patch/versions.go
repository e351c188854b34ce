package patch

import (
	"bytes"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Versions are what owners know of the order in which points of one series-field were written.
type Versions struct {
	// Known has versions by time, by owner. A point that is not in it has none that is known.
	Known []map[int64]uint64
	// Since, by owner, is a version that those which are not known are not above.
	Since []uint64
	// Written has, by time, by owner, the greatest version with which a point was written for certain. A write that
	// failed may have replaced it since, so that its version is not known. After a crash, the journal may have a write
	// that the engine does not have.
	Written []map[int64]uint64
	// Forgot, by owner, is a version that those of points which Written lacks are not above, if the journal is right.
	// Unsettled is for an owner that does not tell.
	Forgot []uint64
}

// Unsettled is the version of a point that is being written, or was when it was looked at: nothing follows from it.
const Unsettled = ^uint64(0)

// bound is a version that those of an owner which are not known are not above, 0 when there is none.
func (v *Versions) bound(owner int) uint64 {
	if v.Since[owner] == Unsettled {
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

// newest returns the value of one timestamp that was written after all others, and its version. It is nil when that is
// not known, or all are equal.
func (v *Versions) newest(vs []owned) (best tsm1.Value, version uint64, why string) {
	if v == nil {
		return nil, 0, ""
	}
	best, version = last(vs, v.Known, v.Since)
	return best, version, WhyNewer
}

// likely returns the value that was written after all others if the journals of their owners are right. It is nil when
// they do not say.
func (v *Versions) likely(vs []owned) tsm1.Value {
	if v == nil {
		return nil
	}
	best, _ := last(vs, v.Written, v.Forgot)
	return best
}

// last returns the value of one timestamp that was written after all others, as versions say, by time, by owner. since,
// by owner, is a version that those which are not known are not above.
func last(vs []owned, versions []map[int64]uint64, since []uint64) (best tsm1.Value, version uint64) {
	// A value was written at least at the greatest version that is known of it, and at most at that of an owner
	// that does not know.
	type span struct {
		value     tsm1.Value
		from, end uint64
	}
	var spans []span
	for _, o := range vs {
		from, known := versions[o.owner][o.UnixNano()]
		end := from
		if from == Unsettled {
			return nil, 0
		}
		if !known {
			end = since[o.owner]
		}
		i := 0
		for i < len(spans) && !bytes.Equal(canonical(spans[i].value), canonical(o.Value)) {
			i++
		}
		if i == len(spans) {
			spans = append(spans, span{value: o.Value})
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
	Versions []uint64 // by point; 0 where it is not known, and Unsettled while the point is being written
	Since    uint64   // a version that is not known is not above it
	Written  []uint64 // by point: as in Versions; 0 for none, and nil for a node that does not tell
	Forgot   uint64   // as in Versions, where the node tells Written
	// Clock is the version of now, from before the points were looked up. For a minute the node knows what is written
	// after it. 0 is for a node that cannot tell.
	Clock uint64
}
