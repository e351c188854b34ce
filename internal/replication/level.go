package replication

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// required is how many of n owners must have written.
func required(level models.ConsistencyLevel, n int) int {
	switch level {
	case models.ConsistencyLevelAll:
		return n
	case models.ConsistencyLevelQuorum:
		return n/2 + 1
	}
	return 1
}

// decide waits until the owners' results decide the level, or WriteTimeout passes.
func (w *Writer) decide(level models.ConsistencyLevel, results <-chan result, owners int) error {
	wait := w.WriteTimeout
	if level == models.ConsistencyLevelAny && w.Handoff != nil {
		wait += time.Second // an owner's timeout puts the write into its queue first
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	t := tally{level: level, owners: owners, need: required(level, owners)}
	for timedOut := false; !timedOut && t.undecided(); {
		var r result
		select {
		case r = <-results:
		case <-timeout.C:
			r.err = coordinator.ErrTimeout
			timedOut = true
		}
		if errors.Is(r.err, errBehind) {
			return errBehind
		}
		t.add(r)
		if t.wrote >= t.need {
			w.stats.ok.Add(1)
			if t.partial != nil {
				return *t.partial
			}
			return nil
		}
	}
	w.stats.failed.Add(1)
	if t.wrote > 0 {
		w.stats.partial.Add(1)
	}
	if errors.Is(t.first, coordinator.ErrTimeout) {
		w.stats.timeout.Add(1)
	}
	return t.failure()
}

// tally counts what the owners made of a write.
type tally struct {
	level        models.ConsistencyLevel
	owners, need int // all of them, and those that must have written

	wrote, failed int
	missed        int   // failed, and not in hinted handoff
	first         error // the first one, or a timeout
	partial       *tsdb.PartialWriteError
}

func (t *tally) add(r result) {
	if r.err == nil || r.hinted && t.level == models.ConsistencyLevelAny {
		t.wrote++
		if t.partial == nil {
			t.partial = r.partial
		}
		return
	}
	t.failed++
	if !r.hinted {
		t.missed++
	}
	if t.first == nil || errors.Is(r.err, coordinator.ErrTimeout) {
		t.first = r.err
	}
}

// undecided reports whether to wait for more owners: the level can be met, or it is not clear whether any owner has the
// write. "Some owners have the write" and "none has it" are different errors.
func (t *tally) undecided() bool {
	return t.failed <= t.owners-t.need || t.wrote == 0 && t.failed < t.owners
}

// failure is the error of a write whose level is not met.
func (t *tally) failure() error {
	switch {
	case errors.Is(t.first, coordinator.ErrTimeout):
		return coordinator.ErrTimeout
	case t.wrote > 0 && t.missed == 0:
		// Clients do not send a partial write again. That is fine: hinted handoff brings it to the others.
		return fmt.Errorf("%w: %d of %d owners have it, hinted handoff brings it to the others: %w",
			coordinator.ErrPartialWrite, t.wrote, t.owners, t.first)
	case t.wrote > 0:
		return fmt.Errorf("%w: %d of %d owners have it, the level needs %d: %w",
			coordinator.ErrWriteFailed, t.wrote, t.owners, t.need, t.first)
	case influxdb.IsClientError(t.first):
		return t.first
	}
	return fmt.Errorf("%w: %w", coordinator.ErrWriteFailed, t.first)
}

// merge adds a partial write to those before, with each reason once.
func merge(a *tsdb.PartialWriteError, b tsdb.PartialWriteError) *tsdb.PartialWriteError {
	if a == nil {
		return &b
	}
	m := *a
	m.Dropped += b.Dropped
	if !strings.Contains(m.Reason, b.Reason) {
		m.Reason += "; " + b.Reason
	}
	return &m
}
