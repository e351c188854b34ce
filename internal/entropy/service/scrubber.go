package service

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

const (
	scrubPause = time.Minute      // how long the loop waits at most before it looks which shards there are
	scrubRetry = 10 * time.Minute // after which a copy that could not be verified is tried again
)

// scrubber verifies each copy of this node once in a scrub-interval, counted from when it was seen first. When that
// was outlives a restart: a node that restarts daily gets through all its shards like another.
type scrubber struct {
	cluster copies.Cluster
	local   Local
	queue   *queue // has when each copy was verified
	config  func() entropy.Config
	report  *entropy.Report
	after   func(time.Duration) <-chan time.Time
	suspect func(shard uint64) // has a shard checked again soon

	wake  chan struct{}
	retry map[uint64]time.Time // when copies are tried again that could not be verified
}

func (s *scrubber) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run verifies what is due until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	for {
		wait, err := s.verifyDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.report.Errors.Add(1)
			s.report.Log.Warn("Cannot tell which shards are to be verified", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-s.after(wait):
		}
	}
}

// verifyDue verifies what is due, the longest due first, and returns when to look again. A copy that cannot be
// verified waits until its time in retry, and the others do not wait for it.
func (s *scrubber) verifyDue(ctx context.Context) (time.Duration, error) {
	now, self := s.cluster.Now, s.cluster.Self()
	if !s.config().Enabled || self == 0 {
		return scrubPause, nil
	}
	shards := s.cluster.Live()
	maps.DeleteFunc(shards, func(_ uint64, sh cluster.Shard) bool { return !sh.Owned(self) })
	last, err := s.queue.scrubbed(now(), shards)
	if err != nil {
		return scrubPause, err
	}
	maps.DeleteFunc(s.retry, func(id uint64, _ time.Time) bool { _, ok := last[id]; return !ok })
	ids := slices.SortedFunc(maps.Keys(last), func(a, b uint64) int { return last[a].Compare(last[b]) })
	next := scrubPause
	for _, id := range ids {
		due, ever := s.due(id, last[id])
		if !ever {
			continue
		}
		if wait := due.Sub(now()); wait > 0 {
			next = min(next, wait)
			continue
		}
		err := s.verify(ctx, shards[id])
		switch {
		case ctx.Err() != nil:
			return scrubPause, nil
		case err != nil:
			s.retry[id] = now().Add(scrubRetry)
			if !errors.Is(err, entropy.ErrNoCopy) { // that one has a status
				s.report.Fail("Cannot verify the files of a shard", id, err)
			}
		default:
			delete(s.retry, id)
		}
	}
	return max(next, time.Second), nil
}

// due is when a copy is to be verified again, which was verified last at some time. ever is false when it is not.
func (s *scrubber) due(id uint64, last time.Time) (due time.Time, ever bool) {
	interval := time.Duration(s.config().ScrubInterval)
	switch {
	case last.Equal(asked):
		due = asked
	case interval == 0:
		return due, false
	default:
		due = last.Add(interval)
	}
	if at := s.retry[id]; at.After(due) {
		due = at
	}
	return due, true
}

// verify verifies one copy.
func (s *scrubber) verify(ctx context.Context, sh cluster.Shard) error {
	start := s.cluster.Now()
	found, err := s.local.Scrub(ctx, sh.ID)
	if err != nil {
		return err
	}
	s.report.Log.Info("Verified a shard", zap.Uint64("db_shard_id", sh.ID), zap.Int("damaged", len(found)),
		zap.Duration("duration", s.cluster.Now().Sub(start)))
	if len(found) > 0 {
		s.suspect(sh.ID)
	} else if len(sh.Owners) == 1 {
		// Nobody heals it: an operator put the damage right, or gave the damaged files up.
		if err := s.local.Sound(sh.ID); err != nil {
			return err
		}
	}
	return s.queue.setScrubbed(sh.ID, s.cluster.Now())
}

// asked as the time at which a copy was verified makes it due at once, also when none is due by itself.
var asked = time.Unix(0, 0)

// verifyAgain verifies a damaged copy of this node, or all for 0, soon: it may have been put right.
func (s *scrubber) verifyAgain(id uint64) error {
	damaged, err := s.local.Damaged()
	if err != nil {
		return err
	}
	for d := range damaged {
		if id == 0 || id == d {
			if err := s.queue.setScrubbed(d, asked); err != nil {
				return err
			}
		}
	}
	s.wakeUp()
	return nil
}
