package entropy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

// patch fetches the differing windows from all copies, merges, and pushes what each lacks.
func (s *Service) patch(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, diffs []reconcile.Difference, out *outcome) error {
	rules := s.rules(sh, copies, out)
	pending := make([]pusher, len(copies))
	for i, c := range copies {
		pending[i] = pusher{s: s, name: addr(st, c.owner), copyOf: c, shard: sh, out: out}
	}
	err := s.eachDifference(ctx, st, sh, copies, diffs, out, func(d reconcile.Difference, owners [][]patch.Block) error {
		m, err := patch.Merge(owners, rules)
		if err != nil {
			return err
		}
		out.change(func() { out.conflicts += m.Conflicts })
		out.open += m.Open
		s.stats.conflicts.Add(int64(m.Conflicts))
		for i := range m.Lacking {
			if err := pending[i].add(ctx, m.Lacking[i]); err != nil {
				return err
			}
		}
		out.change(func() { out.fixed++ })
		return nil
	})
	if err != nil {
		return err
	}
	for i := range pending {
		if err := pending[i].flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// eachDifference fetches the differing windows from all copies, and calls fn for each difference with
// its blocks by copy.
func (s *Service) eachDifference(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf, diffs []reconcile.Difference, out *outcome,
	fn func(d reconcile.Difference, owners [][]patch.Block) error) error {
	rng := digest.Range{Start: sh.Start, End: sh.End}
	for len(diffs) > 0 {
		n, regions := nextBatch(rng, diffs)
		blocks := make([][]patch.Block, len(copies)) // by copy, of the first n differences
		for i, c := range copies {
			var err error
			if blocks[i], n, err = s.fetch(ctx, sh, c, diffs[:n], regions, out); err != nil {
				return fmt.Errorf("fetch points of shard %d from %s: %w", sh.ID, addr(st, c.owner), err)
			}
			regions = slices.DeleteFunc(regions, func(r region) bool { return r.diff >= n })
		}
		for _, d := range diffs[:n] {
			owners := make([][]patch.Block, len(copies))
			for i := range copies {
				owners[i], blocks[i] = takeBlocks(blocks[i], d)
			}
			if err := fn(d, owners); err != nil {
				return fmt.Errorf("%q field %q of shard %d: %w", d.Series, d.Field, sh.ID, err)
			}
		}
		diffs = diffs[n:]
	}
	return nil
}

// rules are those of the next round. In a shard that is written to, two owners may differ by
// a write in flight, and the copies are not read at the same instant: there a
// conflict counts when it was the same in the round before.
func (s *Service) rules(sh cluster.Shard, copies []copyOf, out *outcome) patch.Rules {
	r := patch.Rules{Absent: len(sh.Owners) - len(copies)}
	if quiet(copies, s.deps.Now().Add(-time.Duration(s.config().Settle))) {
		return r
	}
	last := out.seen
	out.seen = make(map[uint64]struct{})
	r.Settled = func(fingerprint uint64) bool {
		out.seen[fingerprint] = struct{}{}
		_, same := last[fingerprint]
		return same
	}
	return r
}

// region is a run of differing windows of a difference, by its index in the batch.
type region struct {
	patch.Region
	diff int
}

// nextBatch returns the regions of as many differences as one Fetch takes, one at least.
func nextBatch(rng digest.Range, diffs []reconcile.Difference) (n int, regions []region) {
	for i, d := range diffs {
		var typ digest.Type
		for _, t := range d.Types {
			typ = max(typ, t)
		}
		runs := windowRuns(d.Windows)
		if i > 0 && len(regions)+len(runs) > batchRegions {
			break
		}
		for _, r := range runs {
			lo, _ := rng.Bounds(r[0])
			_, hi := rng.Bounds(r[1])
			regions = append(regions, region{patch.Region{Series: d.Series, Field: d.Field, Type: typ, Min: lo, Max: hi}, i})
		}
		n = i + 1
	}
	return n, regions
}

// windowRuns returns the first and last bit of each run of ones.
func windowRuns(set uint64) (runs [][2]int) {
	for set != 0 {
		first := bits.TrailingZeros64(set)
		n := bits.TrailingZeros64(^(set >> first))
		runs = append(runs, [2]int{first, first + n - 1})
		if first+n >= 64 {
			break
		}
		set &^= (1<<n - 1) << first
	}
	return runs
}

// fetch reads the regions from one copy. When they have more than batchBytes it
// stops, and returns how many of the differences it has completely.
func (s *Service) fetch(ctx context.Context, sh cluster.Shard, c copyOf, diffs []reconcile.Difference, regions []region, out *outcome) ([]patch.Block, int, error) {
	asked := make([]patch.Region, len(regions))
	for i, r := range regions {
		asked[i] = r.Region
	}
	remote := c.owner != s.deps.Meta.NodeID()
	var blocks []patch.Block
	size, at, n := 0, 0, len(diffs)
	err := c.replica.Fetch(ctx, sh, asked, func(b patch.Block) error {
		i := at
		for i < len(diffs) && !sameField(diffs[i], b) {
			i++
		}
		if i == len(diffs) {
			return fmt.Errorf("got points of %q field %q, which were not asked for", b.Series, b.Field)
		}
		if i > at && size >= batchBytes {
			n = i
			return errStop
		}
		at = i
		size += len(b.Data)
		if remote {
			s.stats.bytesRx.Add(int64(len(b.Data)))
			out.change(func() { out.rx += int64(len(b.Data)) })
		}
		b.Series, b.Data = bytes.Clone(b.Series), bytes.Clone(b.Data)
		blocks = append(blocks, b)
		return s.throttle(ctx, len(b.Data))
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return blocks, n, err
}

func sameField(d reconcile.Difference, b patch.Block) bool {
	return d.Field == b.Field && bytes.Equal(d.Series, b.Series)
}

// takeBlocks splits off the leading blocks of a difference.
func takeBlocks(blocks []patch.Block, d reconcile.Difference) (taken, rest []patch.Block) {
	n := 0
	for n < len(blocks) && sameField(d, blocks[n]) {
		n++
	}
	return blocks[:n], blocks[n:]
}

// throttle waits until n bytes may be sent or read.
func (s *Service) throttle(ctx context.Context, n int) error {
	for n > 0 {
		if s.limiter.Limit() == rate.Inf {
			return ctx.Err()
		}
		part := min(n, max(s.limiter.Burst(), 1))
		if err := s.limiter.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue // a reload made the burst smaller
		}
		n -= part
	}
	return ctx.Err()
}

// pusher gathers what one copy lacks and applies it in batches.
type pusher struct {
	copyOf
	s      *Service
	name   string
	shard  cluster.Shard
	out    *outcome
	blocks []patch.Block
	size   int
}

func (p *pusher) add(ctx context.Context, blocks []patch.Block) error {
	for _, b := range blocks {
		p.blocks = append(p.blocks, b)
		p.size += len(b.Series) + len(b.Field) + len(b.Data)
		if p.size >= batchBytes {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pusher) flush(ctx context.Context) error {
	if len(p.blocks) == 0 {
		return nil
	}
	if err := p.s.checkDisk(p.owner); err != nil {
		return err
	}
	if err := p.s.throttle(ctx, p.size); err != nil {
		return err
	}
	n, err := p.replica.Apply(ctx, p.shard, p.state.Deletes, p.blocks)
	if err != nil {
		return fmt.Errorf("apply points of shard %d on %s: %w", p.shard.ID, p.name, err)
	}
	p.out.change(func() { p.out.points += n })
	p.s.stats.pointsRepaired.Add(int64(n))
	if p.owner != p.s.deps.Meta.NodeID() {
		p.s.stats.bytesTx.Add(int64(p.size))
		p.out.change(func() { p.out.tx += int64(p.size) })
	}
	p.blocks, p.size = nil, 0
	return nil
}
