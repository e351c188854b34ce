package order

import "time"

// horizon says from which version on a journal knows all writes. files.mu guards it.
type horizon struct {
	begins  Version // no write from before the journal was opened has a greater one
	loaded  Version // the greatest that was on disk when the journal was opened
	since   Version // what is older may have been forgotten although it is above the floor
	dropped Version // the greatest that was forgotten below the floor, or is about to be
	stored  forgot  // what is on disk of since and dropped
	leases  []lease // what is not to be forgotten below the floor, the oldest first

	forgotAll bool // it is not known what was forgotten before the journal was opened
}

// lease keeps the journal from forgetting what is above a version, and what was written since, until a time.
type lease struct {
	from  Version
	least Version // from, or below the versions that were written since: a clock that is behind gives such
	until time.Time
}

// leaseStep is how far apart two leases are at least. One that is nearer to the last one makes that one longer.
const leaseStep = time.Second

// Keep keeps the journal from forgetting what is above a version, for some time. It is false when some of that may be
// forgotten already. Past MaxDisk the journal forgets all the same.
func (j *Journal) Keep(from Version, how time.Duration) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.keep(from, how)
}

func (h *horizon) keep(from Version, how time.Duration) bool {
	now := time.Now()
	until := now.Add(how)
	h.endLeases(now)
	if l := h.lastLease(); l != nil && l.from <= from && from.Time().Sub(l.from.Time()) < leaseStep {
		if l.until.Before(until) {
			l.until = until
		}
	} else {
		h.leases = append(h.leases, lease{from, from, until})
	}
	return h.forgotten() <= from
}

// wrote notes a write that begins. A repair that has a lease may have read its points before.
func (h *horizon) wrote(v Version) {
	for i := len(h.leases) - 1; i >= 0 && h.leases[i].from >= v; i-- {
		h.leases[i].least = min(h.leases[i].least, v-1)
	}
}

func (h *horizon) lastLease() *lease {
	if len(h.leases) == 0 {
		return nil
	}
	return &h.leases[len(h.leases)-1]
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
		floor = min(floor, l.least+1)
	}
	return floor
}
