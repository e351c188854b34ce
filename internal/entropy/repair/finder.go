package repair

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// finder finds the points that copies do not share, in the windows in which they differ. Three ways lead there, from
// the cheapest: coded symbols tell of a few points in regions that are the same otherwise; sums over slices leave out
// what is the same before and after a gap; the rest is fetched, once for each group of copies that hold the same.
type finder struct {
	set     copies.Set
	now     func() time.Time
	read    func(ctx context.Context, c copies.Copy, bytes int) error // is told what was read, and waits until more may be
	symbols []symbolTries                                             // by copy

	clocks []uint64  // by copy: from before what is read now, as patch.PointVersions.Clock
	asked  time.Time // when the copies were asked for clocks; they are asked again when that is some time ago
}

func newFinder(set copies.Set, now func() time.Time, read func(context.Context, copies.Copy, int) error) *finder {
	return &finder{
		set: set, now: now, read: read, symbols: make([]symbolTries, len(set.Copies)), clocks: set.Clocks(),
	}
}

// fewWindows are read so fast that nodes need not be asked to remember what is written meanwhile.
const fewWindows = 4

// few reports whether there are few differing windows.
func few(diffs []reconcile.Difference) bool {
	n := 0
	for _, d := range diffs {
		if n += bits.OnesCount64(d.Windows); n > fewWindows {
			return false
		}
	}
	return true
}

// clocksAge is for how long the clocks of copies are used, before they are asked for again.
const clocksAge = time.Second

// askClocks asks each copy for its clock, from before points are read, unless the clocks are still young.
func (f *finder) askClocks(ctx context.Context) error {
	if f.now().Sub(f.asked) < clocksAge {
		return nil
	}
	clocks, asked := make([]uint64, len(f.set.Copies)), f.now()
	for k, c := range f.set.Copies {
		answer, err := c.Replica.Versions(ctx, f.set.Shard, nil)
		if err != nil && !errors.Is(err, entropy.ErrNoVersions) {
			return notFetched(f.set.Shard, c, err)
		}
		clocks[k] = answer.Clock
	}
	f.clocks, f.asked = clocks, asked
	return nil
}

// each calls fn with pieces of the differing windows: all points that are not the same on all copies, and some that
// are. done is called with numbers of differences that fn got all pieces of.
func (f *finder) each(ctx context.Context, diffs []reconcile.Difference, fn func(piece) error, done func(int)) error {
	rng := digest.Range{Start: f.set.Shard.Start, End: f.set.Shard.End}
	withClocks := func(p piece) error {
		p.clocks = f.clocks
		return fn(p)
	}
	for len(diffs) > 0 {
		if err := f.askClocks(ctx); err != nil {
			return err
		}
		n, regions := nextBatch(rng, diffs, len(f.set.Copies))
		known, rest, err := f.bySymbols(ctx, regions)
		if err != nil {
			return err
		}
		for _, p := range known {
			if err := withClocks(p); err != nil {
				return err
			}
		}
		if err := f.narrow(ctx, f.within(rest), 0, withClocks); err != nil {
			return err
		}
		done(n)
		diffs = diffs[n:]
	}
	return nil
}
