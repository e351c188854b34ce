package entropy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/patch"
)

// piece is points of one series-field.
type piece struct {
	region
	owners []tsm1.Values // by copy: what it has
	// whole, when set, is what copies with a group have and the others have nothing of; owners is nil then.
	whole patch.Block
	count int // of its points
}

// forward reads regions that the copies with a group hold alike and the others have nothing in, from the source
// of the group. Their blocks need no merge, and go on as they are.
func (p *parts) forward(ctx context.Context, regions []region, fn func(piece) error) error {
	var spans patch.Spans
	for k, c := range p.copies {
		var of []region
		var ask []patch.Region
		for _, r := range regions {
			if r.source(k) {
				of, ask = append(of, r), append(ask, r.Region)
			}
		}
		if len(ask) == 0 {
			continue
		}
		at := &cursor{regions: ask}
		err := c.replica.Fetch(ctx, p.sh, ask, patch.Limits{}, func(b patch.Block) error {
			span, err := spans.Of(b)
			if err != nil {
				return err
			}
			i, err := at.place(b, span.First, span.Last)
			if err != nil {
				return err
			}
			if err := p.spent(ctx, c, len(b.Data)); err != nil {
				return err
			}
			return fn(piece{region: of[i], whole: b, count: span.Points})
		})
		if err != nil {
			return p.fail(c, err)
		}
	}
	return nil
}

// cursor finds the regions that blocks belong to, which come in their order.
type cursor struct {
	regions []patch.Region
	at      int
	last    int64 // time of the region's last point
	any     bool  // there is one
}

func (c *cursor) place(b patch.Block, first, last int64) (int, error) {
	for at := c.at; at < len(c.regions); at++ {
		r := &c.regions[at]
		if b.Field != r.Field || !bytes.Equal(b.Series, r.Series) || first < r.Min || last > r.Max {
			continue
		}
		if at == c.at && c.any && c.last >= first {
			return 0, fmt.Errorf("points of %q field %q are out of order", b.Series, b.Field)
		}
		c.at, c.last, c.any = at, last, true
		return at, nil
	}
	return 0, fmt.Errorf("got points of %q field %q, which were not asked for", b.Series, b.Field)
}

// fetch reads regions, those that have to be merged from the source of each group, a bounded number of points at a time.
func (p *parts) fetch(ctx context.Context, regions []region, fn func(piece) error) error {
	var whole, mixed []region
	for _, r := range regions {
		if r.mixed() {
			mixed = append(mixed, r)
		} else {
			whole = append(whole, r)
		}
	}
	if err := p.forward(ctx, whole, fn); err != nil {
		return err
	}
	regions = mixed
	for len(regions) > 0 {
		end := mark{len(regions), 0}
		got := make([]map[int]tsm1.Values, len(p.copies)) // by copy, by region
		for k, c := range p.copies {
			var asked []int
			var ask []patch.Region
			for i, r := range regions {
				if r.source(k) && i <= end.region {
					asked, ask = append(asked, i), append(ask, r.Region)
				}
			}
			if len(asked) == 0 {
				continue
			}
			values, last, err := p.read(ctx, c, ask, patch.Limits{Bytes: batchBytes, Points: batchPoints})
			if err != nil {
				return err
			}
			got[k] = make(map[int]tsm1.Values)
			for i, v := range values {
				got[k][asked[i]] = v
			}
			if last.region < len(asked) {
				m := mark{asked[last.region], last.time}
				if m.region < end.region || m.region == end.region && m.time < end.time {
					end = m
				}
			}
		}
		for i, r := range regions[:min(end.region+1, len(regions))] {
			owners := make([]tsm1.Values, len(p.copies))
			any := false
			for k, g := range r.groups {
				if g == 0 {
					continue
				}
				v := got[g-1][i]
				if i == end.region {
					n, _ := slices.BinarySearchFunc(v, end.time+1, func(v tsm1.Value, t int64) int { return cmp.Compare(v.UnixNano(), t) })
					v = v[:n]
				}
				owners[k] = v
				any = any || len(v) > 0
			}
			if !any {
				continue
			}
			if err := fn(piece{region: r, owners: owners}); err != nil {
				return fmt.Errorf("%q field %q of shard %d: %w", r.Series, r.Field, p.sh.ID, err)
			}
		}
		regions = regions[end.region:]
		if len(regions) > 0 {
			if end.time >= regions[0].Max {
				regions = regions[1:]
			} else {
				regions[0].Min = end.time + 1
			}
		}
	}
	return nil
}

// read returns the points of regions from one copy, and how far they are complete: to the end, or until limits.
func (p *parts) read(ctx context.Context, c copyOf, regions []patch.Region, limits patch.Limits) ([]tsm1.Values, mark, error) {
	values := make([]tsm1.Values, len(regions))
	if len(regions) == 0 {
		return values, mark{}, nil
	}
	at, size, points := &cursor{regions: regions}, 0, 0
	err := c.replica.Fetch(ctx, p.sh, regions, limits, func(b patch.Block) error {
		if limits.Reached(size, points) {
			return errors.New("got more points than were asked for")
		}
		v, err := b.Decode()
		if err != nil {
			return err
		}
		i, err := at.place(b, v[0].UnixNano(), v[len(v)-1].UnixNano())
		if err != nil {
			return err
		}
		values[i] = append(values[i], v...)
		size, points = size+len(b.Data), points+len(v)
		return p.spent(ctx, c, len(b.Data))
	})
	if err != nil {
		return nil, mark{}, p.fail(c, err)
	}
	if limits.Reached(size, points) {
		v := values[at.at]
		return values, mark{at.at, v[len(v)-1].UnixNano()}, nil
	}
	return values, mark{len(regions), 0}, nil
}
