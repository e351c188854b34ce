package reconcile

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"concord/internal/entropy/digest"
)

// Source streams one owner's digests in ascending order of (series, field).
// The argument of fn is valid during the call only.
type Source func(ctx context.Context, fn func(*digest.SeriesField) error) error

// Owner is one copy of a shard. Summarize opens its summary, and is nil for
// this node's own copy; key is that of the hashes.
type Owner struct {
	Addr      string // of its node, for errors
	List      Source
	Summarize func(ctx context.Context, key uint64) (Summary, error)
}

// failed says that a comparison with the owner failed.
func (o Owner) failed(err error) error { return fmt.Errorf("compare with owner %s: %w", o.Addr, err) }

// Difference is one series-field in which at least two owners differ.
type Difference struct {
	Series  []byte
	Field   string
	Types   []digest.Type // by owner, 0 where the owner has no points
	Windows uint64        // bit i: window i differs
	Marks   []uint64      // for each differing window, ascending: what all owners hold in it, folded to 64 bits
	Groups  []uint8       // for each differing window, and in it for each owner: see GroupsOf
}

// Clone is a copy that may be kept.
func (d Difference) Clone() Difference {
	d.Series, d.Types = bytes.Clone(d.Series), slices.Clone(d.Types)
	d.Marks, d.Groups = slices.Clone(d.Marks), slices.Clone(d.Groups)
	return d
}

// Mark folds what each owner holds in a window, 0 for nothing, to 64 bits. Two
// looks at a window with the same mark saw the same difference.
func Mark(folds []uint64) uint64 {
	var m uint64
	for _, f := range folds {
		m = (bits.RotateLeft64(m, 5) ^ f) * 0x9E3779B97F4A7C15
	}
	return m
}

// GroupsOf appends a number for each owner to g, from what each holds, 0 for nothing: 0 for
// nothing, too, and otherwise 1 and the place of the first owner that holds the same.
func GroupsOf(g []uint8, folds []uint64) []uint8 {
	for _, f := range folds {
		if f == 0 {
			g = append(g, 0)
		} else {
			g = append(g, uint8(1+slices.Index(folds, f)))
		}
	}
	return g
}

// TypesConflict reports whether two owners have the field in different types.
func (d Difference) TypesConflict() bool {
	var seen digest.Type
	for _, t := range d.Types {
		if t != 0 && seen != 0 && t != seen {
			return true
		}
		seen = max(seen, t)
	}
	return false
}

// Reconciler compares any number of owners. fn gets the differences in
// ascending order of (series, field) and may keep them.
type Reconciler interface {
	Differences(ctx context.Context, owners []Owner, fn func(Difference) error) error
}

// Flat is the Reconciler that reads every owner's whole list and merges them.
// It costs as much as there are series-fields, however few differ.
type Flat struct{}

// batch bounds what is held of each owner: two batches of digests.
const batch = 64

// Differences implements Reconciler.
func (Flat) Differences(ctx context.Context, owners []Owner, fn func(Difference) error) error {
	g, ctx := errgroup.WithContext(ctx)
	streams := make([]*stream, len(owners))
	for i, o := range owners {
		s := &stream{ch: make(chan []digest.SeriesField, 1), ctx: ctx}
		streams[i] = s
		g.Go(func() error {
			defer close(s.ch)
			if err := s.read(o.List); err != nil {
				return o.failed(err)
			}
			s.whole = true
			return nil
		})
	}
	g.Go(func() error { return merge(ctx, streams, fn) })
	return g.Wait()
}

// stream is one owner's digests on their way to the merge.
type stream struct {
	ctx   context.Context
	ch    chan []digest.SeriesField
	whole bool // the source ended without error; valid once ch is closed
	held  []digest.SeriesField
}

// read fills the channel from the source, checking its order.
func (s *stream) read(src Source) error {
	var out []digest.SeriesField
	var last digest.SeriesField
	send := func() error {
		if len(out) == 0 {
			return nil
		}
		select {
		case s.ch <- out:
			out = nil
			return nil
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	err := src(s.ctx, func(f *digest.SeriesField) error {
		c := *f
		c.Series = bytes.Clone(f.Series)
		if last.Series != nil && compare(&last, &c) >= 0 {
			return fmt.Errorf("digests out of order at %s %s", c.Series, c.Field)
		}
		last.Series, last.Field = c.Series, c.Field
		if out = append(out, c); len(out) == batch {
			return send()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return send()
}

// head returns the owner's next digest, or nil at its end.
func (s *stream) head() (*digest.SeriesField, error) {
	for len(s.held) == 0 {
		held, ok := <-s.ch
		if !ok {
			if !s.whole {
				// Its own error ends the group; an end that is none must not look like one.
				return nil, context.Canceled
			}
			return nil, nil
		}
		s.held = held
	}
	return &s.held[0], nil
}

func compare(a, b *digest.SeriesField) int {
	if c := bytes.Compare(a.Series, b.Series); c != 0 {
		return c
	}
	return strings.Compare(a.Field, b.Field)
}

// nothing is what an owner holds of a series-field that it does not have.
var nothing digest.SeriesField

// merge walks all owners at once.
func merge(ctx context.Context, streams []*stream, fn func(Difference) error) error {
	heads := make([]*digest.SeriesField, len(streams))
	folds := make([]uint64, len(streams))
	for ctx.Err() == nil {
		var least *digest.SeriesField
		for i, s := range streams {
			h, err := s.head()
			if err != nil {
				return err
			}
			heads[i] = h
			if h != nil && (least == nil || compare(h, least) < 0) {
				least = h
			}
		}
		if least == nil {
			return nil
		}
		d := Difference{Series: least.Series, Field: least.Field, Types: make([]digest.Type, len(streams))}
		for i, h := range heads {
			if h != nil && compare(h, least) == 0 {
				d.Types[i] = h.Type
				streams[i].held = streams[i].held[1:]
			} else {
				heads[i] = &nothing
			}
		}
		for w := range digest.Windows {
			differs := false
			for i, h := range heads {
				folds[i] = h.Windows[w].Fold()
				differs = differs || h.Windows[w] != heads[0].Windows[w]
			}
			if differs {
				d.Windows |= 1 << w
				d.Marks = append(d.Marks, Mark(folds))
				d.Groups = GroupsOf(d.Groups, folds)
			}
		}
		if d.Windows != 0 || d.TypesConflict() {
			if err := fn(d); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
