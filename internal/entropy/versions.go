package entropy

import (
	"context"
	"errors"
	"time"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
)

const (
	conflictPieces = 256     // with conflicts that are merged together
	conflictPoints = 1 << 16 // of theirs, after which no more are added
)

// merger merges what copies hold otherwise. Pieces with conflicts wait for others, so that one question to each copy is
// about many series-fields.
type merger struct {
	*parts
	rules   patch.Rules
	merged  func(patch.Merged) error
	waiting []conflict
	points  int
	since   time.Time // of the first that waits
}

// conflict is a piece with points of which copies hold different values.
type conflict struct {
	piece
	patch.Joined
}

// add merges a piece, now or later.
func (m *merger) add(ctx context.Context, c piece) error {
	work := pace.Begin(ctx)
	joined := patch.Join(c.Series, c.Field, c.owners, m.rules)
	if len(joined.Differing) == 0 || m.rules.Absent > 0 { // versions of copies that are away are not known
		merged, err := joined.Merge(nil)
		if err == nil {
			err = work.Rest()
		}
		if err != nil {
			return err
		}
		return m.merged(merged)
	}
	now := m.s.deps.Now()
	if len(m.waiting) == 0 {
		m.since = now
	}
	m.waiting = append(m.waiting, conflict{c, joined})
	for _, values := range c.owners {
		m.points += len(values)
	}
	if len(m.waiting) < conflictPieces && m.points < conflictPoints && now.Sub(m.since) <= pushAge {
		return nil // no longer: what owners get meanwhile is newer than what was read
	}
	return m.flush(ctx)
}

// flush merges what waits.
func (m *merger) flush(ctx context.Context) error {
	versions, err := m.versions(ctx, m.waiting)
	if err != nil {
		return err
	}
	for i, c := range m.waiting {
		work := pace.Begin(ctx)
		merged, err := c.Merge(&versions[i])
		if err == nil {
			err = work.Rest()
		}
		if err == nil {
			err = m.merged(merged)
		}
		if err != nil {
			return err
		}
	}
	m.waiting, m.points = nil, 0
	return nil
}

// versions asks the copies with which versions they got the points of conflicts. The result is by conflict.
func (p *parts) versions(ctx context.Context, conflicts []conflict) ([]patch.Versions, error) {
	out := make([]patch.Versions, len(conflicts))
	for i := range out {
		out[i] = patch.Versions{Known: make([]map[int64]uint64, len(p.copies)), Since: make([]uint64, len(p.copies))}
	}
	for k, c := range p.copies {
		q := question{parts: p, copy: c}
		for i := range conflicts {
			known := make(map[int64]uint64)
			out[i].Known[k] = known
			differing := conflicts[i].Differing
			for _, v := range conflicts[i].owners[k] {
				for len(differing) > 0 && differing[0] < v.UnixNano() {
					differing = differing[1:]
				}
				if len(differing) == 0 || differing[0] != v.UnixNano() {
					continue
				}
				if err := q.add(ctx, conflicts[i].Region, v, known); err != nil {
					return nil, err
				}
			}
		}
		if err := q.ask(ctx); err != nil {
			return nil, err
		}
		for i := range out {
			out[i].Since[k] = q.since
		}
	}
	return out, nil
}

// question is about points of one copy.
type question struct {
	*parts
	copy   copyOf
	points []patch.Region     // of one time each
	values []tsm1.Value       // that were read, by point
	known  []map[int64]uint64 // where the answers go, by point
	since  uint64             // versions that are not known are not above it
}

// add asks about a point of a series-field with a value that was read before; known takes its version.
func (q *question) add(ctx context.Context, of patch.Region, v tsm1.Value, known map[int64]uint64) error {
	if q.since == patch.Unsettled { // it cannot tell
		return nil
	}
	of.Min, of.Max = v.UnixNano(), v.UnixNano()
	q.points, q.values, q.known = append(q.points, of), append(q.values, v), append(q.known, known)
	if len(q.points) < maxParts {
		return nil
	}
	return q.ask(ctx)
}

// ask asks about the points so far. Those whose versions are known are read again: one that is not what it was may
// have got its version since.
func (q *question) ask(ctx context.Context) error {
	if len(q.points) == 0 {
		return nil
	}
	versions, since, err := q.copy.replica.Versions(ctx, q.sh, q.points)
	if errors.Is(err, ErrNoVersions) {
		q.since = patch.Unsettled
		q.points = nil
		return nil
	} else if err != nil {
		return q.fail(q.copy, err)
	}
	q.since = max(q.since, since)
	var again []patch.Region
	var places []int
	for i, v := range versions {
		if v != 0 {
			again, places = append(again, q.points[i]), append(places, i)
		}
	}
	now, _, err := q.read(ctx, q.copy, again, patch.Limits{})
	if err != nil {
		return err
	}
	for k, i := range places {
		t := q.points[i].Min
		if q.known[i][t] = patch.Unsettled; len(now[k]) == 1 && patch.Same(now[k][0], q.values[i]) {
			q.known[i][t] = versions[i]
		}
	}
	q.points, q.values, q.known = q.points[:0], q.values[:0], q.known[:0]
	return nil
}
