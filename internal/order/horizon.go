package order

import (
	"slices"
	"time"
)

// horizon says from which version on a journal knows all writes. files.mu guards it.
type horizon struct {
	begins  Version // no write from before the journal was opened has a greater one
	loaded  Version // the greatest that was on disk when the journal was opened
	since   Version // writes up to this version may be forgotten, although the floor is lower
	dropped Version // the greatest that was forgotten below the floor, or is about to be
	stored  forgot  // what is on disk of since and dropped
	leases  []lease // what is not to be forgotten below the floor, the oldest first

	forgotAll bool // it is not known what was forgotten before the journal was opened
}

// lease keeps the journal from forgetting what is above a version, and what was written since, until a time.
type lease struct {
	from  Version
	below Version // what is above this version is kept; smaller than from when a write with a smaller version came since
	until time.Time
}

// leaseStep is how far apart two leases are at least. One that is nearer to the last one makes that one longer.
const leaseStep = time.Second

// Keep keeps the journal from forgetting what is above a version, for some time. It is false when some of that may be
// forgotten already. Past MaxDisk the journal forgets all the same.
func (j *Journal) Keep(from Version, how time.Duration) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	known := j.keep(from, how)
	for v := range j.inFlight {
		j.wrote(v)
	}
	return known
}

func (h *horizon) keep(from Version, how time.Duration) bool {
	now := time.Now()
	until := now.Add(how)
	h.endLeases(now)
	if l := h.leaseOf(from); l == nil {
		h.leases = append(h.leases, lease{from, from, until})
	} else if l.until.Before(until) {
		l.until = until
	}
	return h.forgotten() <= from
}

// leaseOf returns a lease that keeps what is above a version, and not much more. It is nil when there is none.
func (h *horizon) leaseOf(from Version) *lease {
	for i, l := range slices.Backward(h.leases) {
		if l.from <= from && from.Time().Sub(l.from.Time()) < leaseStep {
			return &h.leases[i]
		}
	}
	return nil
}

// wrote notes a write that has begun. A repair that has a lease may have read its points before. Where the clock of the
// write's node is behind, its version is not above the lease.
func (h *horizon) wrote(v Version) {
	for i := range h.leases {
		if l := &h.leases[i]; v <= l.from {
			l.below = min(l.below, v-1)
		}
	}
}

// forgotten is the greatest version that the journal may have forgotten, or never knew.
func (h *horizon) forgotten() Version { return max(h.begins, h.loaded, h.since, h.dropped) }

// endLeases ends the leases whose time is over.
func (h *horizon) endLeases(now time.Time) {
	left := h.leases[:0]
	for _, l := range h.leases {
		if l.until.After(now) {
			left = append(left, l)
		}
	}
	h.leases = left
}

// leased lowers a floor to what leases keep.
func (h *horizon) leased(floor Version) Version {
	h.endLeases(time.Now())
	for _, l := range h.leases {
		floor = min(floor, l.below+1)
	}
	return floor
}
