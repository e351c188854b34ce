package order

import "time"

// lease keeps the journal from forgetting what is above a version until a time.
type lease struct {
	from  Version
	until time.Time
}

// leaseStep is how far apart two leases are at least. One that is nearer to the last one makes that one longer.
const leaseStep = time.Second

// Keep keeps the journal from forgetting what is above a version, for some time. It is false when some of that may be
// forgotten already. Past MaxDisk the journal forgets all the same.
func (j *Journal) Keep(from Version, how time.Duration) bool {
	now := time.Now()
	until := now.Add(how)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.endLeases(now)
	if n := len(j.leases); n > 0 && j.leases[n-1].from <= from && from.Time().Sub(j.leases[n-1].from.Time()) < leaseStep {
		if l := &j.leases[n-1]; l.until.Before(until) {
			l.until = until
		}
	} else {
		j.leases = append(j.leases, lease{from, until})
	}
	return j.forgotten() <= from
}

// forgotten is the greatest version that the journal may have forgotten, or never knew. mu must be held.
func (j *Journal) forgotten() Version { return max(j.begins, j.loaded, j.since, j.dropped) }

// endLeases ends the leases whose time is over. mu must be held.
func (j *Journal) endLeases(now time.Time) {
	left := j.leases[:0]
	for _, l := range j.leases {
		if l.until.After(now) {
			left = append(left, l)
		}
	}
	j.leases = left
}

// leased lowers a floor to what leases keep. mu must be held.
func (j *Journal) leased(floor Version) Version {
	j.endLeases(time.Now())
	for _, l := range j.leases {
		floor = min(floor, l.from+1)
	}
	return floor
}
