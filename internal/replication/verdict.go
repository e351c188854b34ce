package replication

import (
	"errors"
	"sync"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/tsdb"
)

// verdict is whether a write was acknowledged. Until it is, no copy lacks the write, although hinted handoff keeps it.
// A node that hung may have writes in its queues for all owners whose clients were told of a failure. All copies are
// still whole then.
type verdict struct {
	mu     sync.Mutex
	passed bool // it is acknowledged
	failed bool
	stays  bool   // what owners have of it stays, and the others are to get it, too
	kept   []lane // until the write is decided: the lanes for which hinted handoff keeps it

	decided chan struct{} // closed when passed or failed is set
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

// keep notes that hinted handoff keeps the write for an owner, and reports whether it was acknowledged before.
func (v *verdict) keep(l lane) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.passed && !v.failed {
		v.kept = append(v.kept, l)
	}
	return v.passed
}

// pass takes what the client is about to be told. When that is an acknowledgement, be it of a part of the points, the
// lanes are returned for which hinted handoff keeps the write.
func (v *verdict) pass(err error) []lane {
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
	return v.kept
}

func (v *verdict) acknowledged() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.passed
}
