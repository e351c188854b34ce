package entropy

import (
	"cmp"
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
		if c.state.Exists || out.attempts >= fillTries {
			continue
		}
		sources := sourcesOf(st, sh, copies)
		if len(sources) == 0 {
			return filled, nil // there are no points
		}
		source, err := s.fillFromFirstWhole(ctx, sh, c, sources, out)
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

// fillFromFirstWhole makes a missing copy out of the files of the first source whose copy is whole. Where none is, it
// takes the first source all the same: the comparison that follows brings what the files lack.
func (s *Service) fillFromFirstWhole(ctx context.Context, sh cluster.Shard, c copyOf, sources []cluster.Node, out *outcome) (cluster.Node, error) {
	for _, source := range sources {
		err := s.fillFrom(ctx, sh, c, Source{Node: source, Deletes: c.state.Deletes}, out)
		if !errors.Is(err, ErrSourceNotWhole) {
			return source, err
		}
		s.log.Info("Not copying the files of a copy that is not whole", zap.Uint64("db_shard_id", sh.ID), zap.String("source", source.TCPAddr), zap.Error(err))
	}
	return sources[0], s.fillFrom(ctx, sh, c, Source{Node: sources[0], Deletes: c.state.Deletes, Incomplete: true}, out)
}

func (s *Service) fillFrom(ctx context.Context, sh cluster.Shard, c copyOf, from Source, out *outcome) error {
	sent := int64(0)
	err := c.replica.Fill(ctx, sh, from, func(done, total int64) {
		if out.copying == 0 { // what was there of an earlier attempt is not sent again
			sent = done
		}
		out.change(func() {
			out.copied, out.copying = done, total
			s.count(out, c.owner, from.ID, done-sent)
		})
		sent = done
	})
	out.change(func() { out.copied, out.copying = 0, 0 })
	return err
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

// sourcesOf are the owners whose files a missing copy can be made of: those whose copies are whole, then those that
// lack some writes, then the others.
func sourcesOf(st *cluster.State, sh cluster.Shard, copies []copyOf) (out []cluster.Node) {
	var whole, right, rest []copyOf
	for _, c := range copies {
		switch {
		case c.state.whole():
			whole = append(whole, c)
		case c.state.right():
			right = append(right, c)
		case c.state.Exists && c.state.Corrupt == "":
			rest = append(rest, c)
		}
	}
	for _, c := range slices.Concat(largestFirst(sh, whole), largestFirst(sh, right), largestFirst(sh, rest)) {
		if n, ok := st.DataNode(c.owner); ok {
			out = append(out, n)
		}
	}
	return out
}

// largestFirst orders copies by size. Of those that are about as large as the largest, not always the same one is
// first.
func largestFirst(sh cluster.Shard, copies []copyOf) []copyOf {
	if len(copies) == 0 {
		return nil
	}
	slices.SortStableFunc(copies, func(a, b copyOf) int { return cmp.Compare(b.state.Size, a.state.Size) })
	most, equal := copies[0].state.Size, 0
	for equal < len(copies) && copies[equal].state.Size >= most-most/10 {
		equal++
	}
	slices.SortFunc(copies[:equal], func(a, b copyOf) int { return cmp.Compare(a.owner, b.owner) })
	first := sh.ID % uint64(equal)
	return slices.Concat(copies[first:equal], copies[:first], copies[equal:])
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
