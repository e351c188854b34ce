package copystate

import (
	"math"
	"time"
)

// Beginning is what a node remembers of how its copy of a shard began. Comparing the beginnings of two copies shows
// whether one of them lacks older points that the other may have.
//
// All owners of a new shard begin it with its first writes, within seconds of each other. An owner that begins it much
// later had lost its copy, or was away when the shard was made. It has only what was written since. A beginning is in
// one of these states:
//
//	state        how it is reached                          what it means
//	FoundEqual   a comparison found the copy equal to       The copy had everything then, and writes, hinted
//	             the copies of all other owners             handoff and deletes have kept it complete since
//	LongAgo      the node has a note of the beginning,      A write began the copy, and nobody knows when
//	             but cannot read it
//	a time       a write began the copy (BegunAt)           The copy lacks what owners that began more than
//	                                                        TogetherWithin earlier got before that time
//	FromFiles    the copy was made from another owner's     The source may have got writes in the meantime: the
//	             files                                      copy lacks some until it is found equal
//
// A new beginning replaces an earlier state. A comparison that finds the copy equal to all others resets it to
// FoundEqual. When a copy begins twice before that, the later one of the two stays, and FromFiles is later than any
// time. A copy that a node does not have, and one from before nodes took notes, counts as FoundEqual.
//
// The value is the same in memory, in the note on disk and on the wire: FoundEqual is 0, FromFiles is the greatest
// integer, and everything between them is a time in nanoseconds.
type Beginning int64

// The states of a Beginning that are not a time.
const (
	FoundEqual Beginning = 0
	LongAgo    Beginning = 1
	FromFiles  Beginning = math.MaxInt64
)

// TogetherWithin is the time within which the owners of a new shard begin it.
const TogetherWithin = 10 * time.Second

// BegunAt is the beginning of a copy that a write began.
func BegunAt(t time.Time) Beginning { return Beginning(t.UnixNano()) }

// Time is when a write began the copy. It is false when no write did: the copy was found equal since, or was made from
// files.
func (b Beginning) Time() (time.Time, bool) {
	if b == FoundEqual || b == FromFiles {
		return time.Time{}, false
	}
	return time.Unix(0, int64(b)), true
}

// LaterThan reports whether a copy that began at b lacks what a copy that began at other may have.
func (b Beginning) LaterThan(other Beginning) bool {
	return b > other && (other == FoundEqual || b == FromFiles || b-other > Beginning(TogetherWithin))
}
