package replication

import (
	"errors"
	"sync"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/tsdb"
)

// verdict is whether the client gets the acknowledgement of a write. A copy lacks a write that hinted handoff keeps
// for it only once the write is acknowledged: after a node hung, its queues for all owners may have writes whose
// clients were told that they failed, and all copies are whole.
type verdict struct {
	mu     sync.Mutex
	passed bool // it is acknowledged
	failed bool
	stays  bool   // what owners have of it stays, and the others are to get it, too
	kept   []lane // while it is neither passed nor failed: what hinted handoff keeps of it

	decided chan struct{} // closed when it is one of them
}

func newVerdict() *verdict { return &verdict{decided: make(chan struct{})} }

// wait returns, once that is decided, whether all owners are to get the write as it is: it is acknowledged, or its
// client was told of a failure, and some owners may have it. Otherwise it is tried again with a greater version, or no
// owner takes it.
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
