package entropy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"concord/internal/cluster"
)

// fillTries is after how many failed attempts a missing shard gets points, and no files.
const fillTries = 3

// fill makes copies that are missing out of the files of an owner that has the shard. What is still
// missing then, or came meanwhile, is for the comparison that follows. A copy that cannot be
// filled stays missing, and gets its points one by one.
func (s *Service) fill(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, out *outcome) (filled bool, err error) {
	for _, c := range copies {
		filler, ok := c.replica.(Filler)
		if !ok || c.state.Exists || out.attempts >= fillTries {
			continue
		}
		from, ok := sourceOf(sh, copies)
		if !ok {
			return filled, nil // there are no points
		}
		source, ok := st.DataNode(from)
		if !ok {
			continue
		}
		sent := int64(0)
		err := filler.Fill(ctx, sh, source, c.state.Deletes, func(done, total int64) {
			if out.copying == 0 { // what was there of an earlier attempt is not sent again
				sent = done
			}
			out.change(func() {
				out.copied, out.copying = done, total
				s.count(out, c.owner, from, done-sent)
			})
			sent = done
		})
		out.change(func() { out.copied, out.copying = 0, 0 })
		switch {
		case errors.Is(err, ErrNoFiles):
			s.log.Info("A missing shard gets its points one by one", zap.Uint64("db_shard_id", sh.ID), zap.String("node", addr(st, c.owner)), zap.Error(err))
		case err != nil:
			return filled, fmt.Errorf("copy the files of shard %d from %s to %s: %w", sh.ID, source.TCPAddr, addr(st, c.owner), err)
		default:
			filled = true
			s.log.Info("Copied the files of a missing shard", zap.Uint64("db_shard_id", sh.ID), zap.String("source", source.TCPAddr), zap.String("node", addr(st, c.owner)))
		}
	}
	return filled, nil
}

// count counts n bytes from one owner to another, with out.mu held.
func (s *Service) count(out *outcome, to, from uint64, n int64) {
	switch self := s.deps.Meta.NodeID(); self {
	case to:
		out.rx += n
		s.stats.bytesRx.Add(n)
	case from:
		out.tx += n
		s.stats.bytesTx.Add(n)
	default: // the nodes count it
		out.tx += n
	}
}

// sourceOf is the owner whose files a missing copy is made of: a whole copy if there is one, of those that have the most, and not
// always the same one.
func sourceOf(sh cluster.Shard, copies []copyOf) (owner uint64, ok bool) {
	if slices.ContainsFunc(copies, func(c copyOf) bool { return c.state.whole() }) {
		copies = slices.DeleteFunc(slices.Clone(copies), func(c copyOf) bool { return !c.state.whole() })
	}
	most := int64(0)
	for _, c := range copies {
		if c.state.Exists && c.state.Corrupt == "" {
			most = max(most, c.state.Size)
		}
	}
	var equal []uint64
	for _, c := range copies {
		if c.state.Exists && c.state.Corrupt == "" && c.state.Size >= most-most/10 {
			equal = append(equal, c.owner)
		}
	}
	if len(equal) == 0 {
		return 0, false
	}
	return equal[sh.ID%uint64(len(equal))], true
}

// syncing waits until the job may compare and patch: it is one of max-sync.
func (s *Service) syncing(ctx context.Context, j *job) error {
	for {
		s.mu.Lock()
		if s.syncs() < s.cfg.MaxSync || j.syncs {
			j.syncs = true
			s.mu.Unlock()
			return nil
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// syncs counts jobs that compare and patch. s.mu is held.
func (s *Service) syncs() (n int) {
	for _, j := range s.running {
		if j.syncs {
			n++
		}
	}
	return n
}

// free tells jobs that wait in syncing to look again. s.mu is held.
func (s *Service) free() {
	close(s.freed)
	s.freed = make(chan struct{})
}
