package copystate

import (
	"context"
	"time"
)

const (
	admitWithin = 2 * time.Second       // how long writes of clients wait at most
	admitAgain  = 25 * time.Millisecond // between two looks
)

// Admit returns when the other nodes take writes from this one: it was told of the others since it started or was
// silent, and no node that can be reached keeps deletes for it. Until then owners refuse its writes, as they may be
// from before a delete. A write that this node took meanwhile would be on its own copy alone, and no other copy would
// be whole until it comes out of hinted handoff. It costs nothing otherwise, and waits for two seconds at most, once
// for each time that deletes wait.
func (s *Service) Admit(ctx context.Context) {
	if s.admits() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, admitWithin)
	defer cancel()
	if !s.fresh() {
		s.ask(ctx)
	}
	tick := time.NewTicker(admitAgain)
	defer tick.Stop()
	for !s.admitted() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// admits reports whether nothing has to be waited for, without a lock.
func (s *Service) admits() bool {
	f := s.facts.Load()
	return s.meta.NodeID() == 0 || s.ready.Load() && f.deletes.IsZero() && s.fresh()
}

// admitted reports whether the wait is over.
func (s *Service) admitted() bool {
	if !s.ready.Load() {
		return time.Since(s.base) > admitWithin
	}
	since := s.facts.Load().deletes
	if since.IsZero() || time.Since(since) > admitWithin {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for holder, p := range s.peers {
		if _, deletes := s.holders.tables[holder].owed[s.meta.NodeID()][allShards]; deletes && !p.away() {
			return false
		}
	}
	return true
}
