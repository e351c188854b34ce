package copystate

import (
	"context"
	"time"
)

const (
	admitWithin = 2 * time.Second       // how long writes of clients wait at most
	admitAgain  = 25 * time.Millisecond // between two looks
)

// Admit returns when this node may take writes of clients: it has heard from the others since it started or was away,
// and no node that can be reached keeps deletes for it. From then on its clock is past theirs, and its writes have
// greater versions than what was acknowledged while it was away. A delete that waits is older than these writes, and
// would have to find them and write them again when it runs. Admit costs nothing otherwise. It waits for two seconds at
// most, once for each time that deletes wait.
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
