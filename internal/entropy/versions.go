package entropy

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/patch"
)

// versionsAtOnce is of how many points a copy is asked in one question.
const versionsAtOnce = 10_000

// versions asks the copies in what order they got the points of which they have different values; nil is for no such
// points, or when none of the copies can tell.
func (p *parts) versions(ctx context.Context, c piece) (*patch.Versions, error) {
	times := patch.Conflicts(c.owners)
	if len(times) == 0 {
		return nil, nil
	}
	out := &patch.Versions{Known: make([]map[int64]uint64, len(p.copies)), Since: make([]uint64, len(p.copies))}
	any := false
	for i, copy := range p.copies {
		out.Since[i] = ^uint64(0)
		if len(c.owners[i]) == 0 {
			continue
		}
		known := make(map[int64]uint64)
		since := uint64(0)
		for part := range slices.Chunk(times, versionsAtOnce) {
			versions, s, err := copy.replica.Versions(ctx, p.sh, c.Series, c.Field, part)
			if errors.Is(err, ErrNoVersions) {
				known, since = nil, ^uint64(0)
				break
			} else if err != nil {
				return nil, p.fail(copy, err)
			}
			since = max(since, s)
			for k, v := range versions {
				if v != 0 {
					known[part[k]] = v
				}
			}
		}
		if err := p.unchanged(ctx, c, i, known); err != nil {
			return nil, err
		}
		out.Known[i], out.Since[i] = known, since
		any = any || len(known) > 0
	}
	if !any {
		return nil, nil
	}
	return out, nil
}

// unchanged reads the points of which a copy knows a version again. One that is not what it was may have got its version
// since: nothing is decided about it then.
func (p *parts) unchanged(ctx context.Context, c piece, i int, known map[int64]uint64) error {
	before := make(map[int64]tsm1.Value, len(known))
	for _, v := range c.owners[i] {
		if _, ok := known[v.UnixNano()]; ok {
			before[v.UnixNano()] = v
		}
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(known)), maxParts) {
		ask := make([]patch.Region, len(part))
		for k, t := range part {
			ask[k] = c.Region
			ask[k].Min, ask[k].Max = t, t
		}
		now, _, err := p.read(ctx, p.copies[i], ask, patch.Limits{})
		if err != nil {
			return err
		}
		for k, t := range part {
			was := before[t]
			if was == nil && len(now[k]) == 0 || was != nil && len(now[k]) == 1 && patch.Same(was, now[k][0]) {
				continue
			}
			known[t] = changed
		}
	}
	return nil
}

// changed is the version of a point that was written while it was looked at: no other is above it.
const changed = ^uint64(0)
