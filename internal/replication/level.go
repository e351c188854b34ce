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
	need := required(level, owners)
	var (
		wrote, failed int
		missed        int // failed, and not in hinted handoff
		first         error
		partial       *tsdb.PartialWriteError
	)
	timedOut := false
	canSucceed := func() bool { return failed <= owners-need }
	// "Some owners have the write" and "none has it" are different errors.
	unclearWhetherAnyWrote := func() bool { return wrote == 0 && failed < owners }
	for !timedOut && (canSucceed() || unclearWhetherAnyWrote()) {
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
		if r.err != nil && !(r.hinted && level == models.ConsistencyLevelAny) {
			failed++
			if !r.hinted {
				missed++
			}
			if first == nil || errors.Is(r.err, coordinator.ErrTimeout) {
				first = r.err
			}
		} else {
			wrote++
			if partial == nil {
				partial = r.partial
			}
		}
		if wrote >= need {
			w.stats.ok.Add(1)
			if partial != nil {
				return *partial
			}
			return nil
		}
	}
	w.stats.failed.Add(1)
	switch {
	case errors.Is(first, coordinator.ErrTimeout):
		w.stats.timeout.Add(1)
		return coordinator.ErrTimeout
	case wrote > 0 && missed == 0:
		// Clients do not send a partial write again. That is fine: hinted handoff brings it to the others.
		return fmt.Errorf("%w: %d of %d owners have it, hinted handoff brings it to the others: %w",
			coordinator.ErrPartialWrite, wrote, owners, first)
	case wrote > 0:
		return fmt.Errorf("%w: %d of %d owners have it, the level needs %d: %w",
			coordinator.ErrWriteFailed, wrote, owners, need, first)
	case influxdb.IsClientError(first):
		return first
	}
	return fmt.Errorf("%w: %w", coordinator.ErrWriteFailed, first)
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
