package repair

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
)

const (
	conflictPieces = 256     // with conflicts of values that are merged together
	conflictPoints = 1 << 16 // of theirs, after which no more are added
)

// merger merges the points in which copies differ. Pieces with conflicts of values wait for others, so that one
// question to each copy is about many series-fields.
type merger struct {
	*finder
	rules  patch.Rules
	age    time.Duration // for which pieces wait at most: what owners get meanwhile is newer than what was read
	merged func(piece, patch.Merged) error

	waiting []valueConflict
	count   int       // of the points that wait
	since   time.Time // of the first that waits
}

// valueConflict is a piece with points of which copies hold different values.
type valueConflict struct {
	piece
	patch.Joined
}

// add merges a piece, now or later.
func (m *merger) add(ctx context.Context, p piece) error {
	work := pace.Begin(ctx)
	joined := patch.Join(p.Series, p.Field, p.owners, m.rules)
	if err := work.Rest(); err != nil {
		return err
	}
	if len(joined.Differing) == 0 {
		return m.merge(ctx, p, joined, nil)
	}
	now := m.now()
	if len(m.waiting) == 0 {
		m.since = now
	}
	m.waiting = append(m.waiting, valueConflict{p, joined})
	for _, values := range p.owners {
		m.count += len(values)
	}
	if len(m.waiting) < conflictPieces && m.count < conflictPoints && now.Sub(m.since) <= m.age {
		return nil
	}
	return m.flush(ctx)
}

func (m *merger) merge(ctx context.Context, p piece, joined patch.Joined, versions *patch.Versions) error {
	work := pace.Begin(ctx)
	merged, err := joined.Merge(versions)
	if err == nil {
		err = work.Rest()
	}
	if err != nil {
		return err
	}
	return m.merged(p, merged)
}

// flush merges what waits.
func (m *merger) flush(ctx context.Context) error {
	versions, err := m.versions(ctx, m.waiting)
	if err != nil {
		return err
	}
	for i, c := range m.waiting {
		if err := m.merge(ctx, c.piece, c.Joined, &versions[i]); err != nil {
			return err
		}
	}
	m.waiting, m.count = nil, 0
	return nil
}

// versions asks the copies with which versions they got the points of conflicts of values. The result is by conflict.
func (f *finder) versions(ctx context.Context, conflicts []valueConflict) ([]patch.Versions, error) {
	out := make([]patch.Versions, len(conflicts))
	n := len(f.set.Copies)
	for i := range out {
		out[i] = patch.Versions{
			Known: make([]map[int64]uint64, n), Since: make([]uint64, n),
			Written: make([]map[int64]uint64, n), Forgot: make([]uint64, n),
			Failed: make([]map[int64]uint64, n), Changing: make(map[int64]bool), ChangingKnown: true,
		}
	}
	for k, c := range f.set.Copies {
		q := question{finder: f, copy: c}
		for i := range conflicts {
			to := answers{
				known: make(map[int64]uint64), written: make(map[int64]uint64), failed: make(map[int64]uint64),
				changing: out[i].Changing,
			}
			out[i].Known[k], out[i].Written[k], out[i].Failed[k] = to.known, to.written, to.failed
			differing := conflicts[i].Differing
			for _, v := range conflicts[i].owners[k] {
				for len(differing) > 0 && differing[0] < v.UnixNano() {
					differing = differing[1:]
				}
				if len(differing) == 0 || differing[0] != v.UnixNano() {
					continue
				}
				if err := q.add(ctx, conflicts[i].Region, v, to); err != nil {
					return nil, err
				}
			}
		}
		if err := q.ask(ctx); err != nil {
			return nil, err
		}
		for i := range out {
			out[i].Since[k], out[i].Forgot[k] = q.since, q.forgot
			out[i].ChangingKnown = out[i].ChangingKnown && !q.silent
			if q.forgotSince(conflicts[i].clocks, k) {
				for _, t := range conflicts[i].Differing {
					out[i].Changing[t] = true // it may have been written since it was read
				}
			}
		}
	}
	return out, nil
}

// question is about points of one copy.
type question struct {
	*finder
	copy   copies.Copy
	asked  []patch.Region // of one time each
	values []tsm1.Value   // that were read, by point
	to     []answers      // by point
	since  uint64         // versions that are not known are not above it
	forgot uint64         // as patch.Versions has it
	silent bool           // it does not tell which points it is writing
}

// forgotSince reports whether a copy may have forgotten writes that came after its points were read. Clocks are those
// of piece.
func (q *question) forgotSince(clocks []uint64, copy int) bool {
	return q.forgot != patch.Uncertain && copy < len(clocks) && clocks[copy] != 0 && q.forgot > clocks[copy]
}

// answers takes what a copy says of the points of a series-field, by time, as patch.Versions has it.
type answers struct {
	known, written, failed map[int64]uint64
	changing               map[int64]bool
}

// withoutUncertain are versions without those that are Uncertain.
func withoutUncertain(versions []uint64) []uint64 {
	out := slices.Clone(versions)
	for i, v := range out {
		if v == patch.Uncertain {
			out[i] = 0
		}
	}
	return out
}

// add asks about a point of a series-field with a value that was read before.
func (q *question) add(ctx context.Context, of patch.Region, v tsm1.Value, to answers) error {
	if q.since == patch.Uncertain { // it cannot tell
		return nil
	}
	of.Min, of.Max = v.UnixNano(), v.UnixNano()
	q.asked, q.values, q.to = append(q.asked, of), append(q.values, v), append(q.to, to)
	if len(q.asked) < maxRegions {
		return nil
	}
	return q.ask(ctx)
}

// ask asks about the points so far. Those of which the copy knows a version are read again: one that is not what it was
// may have got its version since.
func (q *question) ask(ctx context.Context) error {
	if len(q.asked) == 0 {
		return nil
	}
	answer, err := q.copy.Replica.Versions(ctx, q.set.Shard, q.asked)
	if errors.Is(err, entropy.ErrNoVersions) {
		q.since, q.forgot, q.silent = patch.Uncertain, patch.Uncertain, true
		q.asked = nil
		return nil
	} else if err != nil {
		return notFetched(q.set.Shard, q.copy, err)
	}
	q.since, q.forgot = max(q.since, answer.Since), max(q.forgot, answer.Forgot)
	written := answer.Written
	if written == nil {
		written, q.forgot = withoutUncertain(answer.Versions), patch.Uncertain
	}
	q.silent = q.silent || len(answer.Failed) == 0
	var again []patch.Region
	var places []int
	for i, v := range answer.Versions {
		if v == patch.Uncertain && !q.silent {
			if failed := answer.Failed[i]; failed != 0 {
				q.to[i].failed[q.asked[i].Min] = failed
			} else {
				q.to[i].changing[q.asked[i].Min] = true
			}
		}
		if v != 0 || written[i] != 0 {
			again, places = append(again, q.asked[i]), append(places, i)
		}
	}
	now, _, err := q.points(ctx, q.copy, again, patch.Limits{})
	if err != nil {
		return err
	}
	for k, i := range places {
		t, v := q.asked[i].Min, answer.Versions[i]
		if len(now[k]) != 1 || !patch.Same(now[k][0], q.values[i]) {
			q.to[i].known[t], q.to[i].changing[t] = patch.Uncertain, true
			continue
		}
		if v != 0 {
			q.to[i].known[t] = v
		}
		if written[i] != 0 {
			q.to[i].written[t] = written[i]
		}
	}
	q.asked, q.values, q.to = q.asked[:0], q.values[:0], q.to[:0]
	return nil
}
