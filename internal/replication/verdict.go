package replication

import (
	"errors"
	"slices"
	"sync"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/tsdb"
)

// verdict is whether a write was acknowledged. Until it is, no copy lacks the write, although hinted handoff keeps it.
// A node that hung may have queued writes for all owners, and have told their clients of a failure. All copies are
// still whole then.
type verdict struct {
	mu     sync.Mutex
	passed bool // it is acknowledged
	failed bool
	stays  bool    // owners that have it keep it, and the others get it
	lack   []lacks // until the write is decided: the copies that do not have it

	parts []part // what owners took of it so far
	few   [3]part

	decided chan struct{} // closed when passed or failed is set
}

// lacks is a copy that does not have a write.
type lacks struct {
	lane
	kept bool // hinted handoff keeps the write for it; else its owner refuses the write for good
}

func newVerdict() *verdict { return &verdict{decided: make(chan struct{})} }

// wait waits until the write is decided. It reports whether all owners are to get the write as it is: the write is
// acknowledged, or its client was told of a failure and some owners may have it. If it is false, the write is tried
// again with a greater version, or no owner takes it.
func (v *verdict) wait() bool {
	<-v.decided
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stays
}

// note notes that a copy does not have the write, and reports whether the write was acknowledged before.
func (v *verdict) note(l lacks) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.passed && !v.failed {
		v.lack = append(v.lack, l)
	}
	return v.passed
}

// part is what one owner took of a write.
type part struct {
	lane
	points int
	reason string // why it refused the others; empty when it refused none
	lacks  bool   // another owner has what it refused, and this was said
}

// less reports whether an owner took less of a write than another one, or refused other points for all that is known.
func (p *part) less(than part) bool {
	return p.points < than.points || p.points == than.points && p.reason != "" && than.reason != "" &&
		p.reason != than.reason
}

// took notes how many points of the write an owner took, and why it refused the others. It returns the copies that are
// known by this to lack points that another owner has, if the write was acknowledged before.
func (v *verdict) took(l lane, points int, reason string) (lack []lane) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.parts == nil {
		v.parts = v.few[:0]
	}
	v.parts = append(v.parts, part{lane: l, points: points, reason: reason})
	for i := range v.parts {
		p := &v.parts[i]
		if p.lacks || !slices.ContainsFunc(v.parts, p.less) {
			continue
		}
		p.lacks = true
		if v.passed {
			lack = append(lack, p.lane)
		} else if !v.failed {
			v.lack = append(v.lack, lacks{p.lane, false})
		}
	}
	return lack
}

// pass takes what the client is about to be told. When that is an acknowledgement, be it of a part of the points, it
// returns the copies that do not have the write.
func (v *verdict) pass(err error) []lacks {
	v.mu.Lock()
	defer v.mu.Unlock()
	var partial tsdb.PartialWriteError
	v.passed = err == nil || errors.As(err, &partial)
	v.failed = !v.passed
	v.stays = v.passed || !errors.Is(err, errBehind) && !influxdb.IsClientError(err)
	close(v.decided)
	if v.failed {
		return nil
	}
	return v.lack
}

func (v *verdict) acknowledged() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.passed
}
