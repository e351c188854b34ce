package repair

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"concord/internal/entropy/patch"
)

const (
	maxSplits   = 4   // times that a region is cut into slices
	splitPoints = 256 // of a region that is worth cutting
	sliceBytes  = 10  // of the sum of a slice on the wire, approximately
)

// within cuts regions that copies have in part at the ends of the shard, outside of which there
// are no points but foreign ones: slices are to be of what is inside.
func (f *finder) within(regions []region) (out []region) {
	sh := f.set.Shard
	for _, r := range regions {
		if r.mixed() {
			if r.Min < sh.Start && sh.Start <= r.Max {
				before := r
				before.Max, r.Min = sh.Start-1, sh.Start
				out = append(out, before)
			}
			if r.Min < sh.End && sh.End <= r.Max {
				inside := r
				inside.Max, r.Min = sh.End-1, sh.End
				out = append(out, inside)
			}
		}
		out = append(out, r)
	}
	return out
}

// narrow cuts regions that copies have in part into slices, cut times so far, leaves out the slices that all have, and
// fetches the rest. Regions that would become too many are worked on in halves.
func (f *finder) narrow(ctx context.Context, regions []region, cut int, fn func(piece) error) error {
	big := make([]bool, len(regions))
	n := 0
	for i, r := range regions {
		many := r.points < 0 || r.points > splitPoints
		if big[i] = cut < maxSplits && r.mixed() && many && r.Max > r.Min; big[i] {
			n++
		}
	}
	if n == 0 {
		return f.fetch(ctx, regions, fn)
	}
	if half := len(regions) / 2; len(regions)+n*patch.Slices > maxRegions && half > 0 {
		if err := f.narrow(ctx, regions[:half], cut, fn); err != nil {
			return err
		}
		return f.narrow(ctx, regions[half:], cut, fn)
	}
	sums, err := f.slices(ctx, regions, big)
	if err != nil {
		return err
	}
	var parts []region
	for i, r := range regions {
		if big[i] {
			parts = appendSlices(parts, r, sums[i])
		} else {
			parts = append(parts, r)
		}
	}
	return f.narrow(ctx, parts, cut+1, fn)
}

// slices returns what each copy that is the source of a group has in the slices of the marked regions.
func (f *finder) slices(ctx context.Context, regions []region, marked []bool) ([][][patch.Slices]patch.Slice, error) {
	key := rand.Uint64()
	out := make([][][patch.Slices]patch.Slice, len(regions))
	for k, c := range f.set.Copies {
		asked, ask := askFor(regions, func(i int) bool { return marked[i] && regions[i].source(k) })
		if len(asked) == 0 {
			continue
		}
		sums, err := c.Replica.Slices(ctx, f.set.Shard, ask, key)
		if err != nil {
			return nil, notFetched(f.set.Shard, c, err)
		}
		if err := f.read(ctx, c, len(sums)*patch.Slices*sliceBytes); err != nil {
			return nil, err
		}
		for i, at := range asked {
			if out[at] == nil {
				out[at] = make([][patch.Slices]patch.Slice, len(f.set.Copies))
			}
			out[at][k] = sums[i]
		}
	}
	return out, nil
}

// appendSlices appends the slices of r that copies do not share; sums are by copy, for the sources of groups.
func appendSlices(parts []region, r region, sums [][patch.Slices]patch.Slice) []region {
	first := len(parts)
	for j := range patch.Slices {
		piece, ok := r.Slice(j, j)
		if !ok {
			break
		}
		groups := make([]uint8, len(r.groups))
		held := make([]patch.Slice, len(r.groups))
		points, differ := 0, false
		for k, g := range r.groups {
			if g != 0 {
				held[k] = sums[g-1][j]
			}
			if held[k].Count > 0 {
				groups[k] = uint8(1 + slices.Index(held[:k+1], held[k]))
			}
			points = max(points, int(min(held[k].Count, math.MaxInt32)))
			differ = differ || groups[k] != groups[0]
		}
		if !differ {
			continue
		}
		if n := len(parts); n > first {
			before := &parts[n-1]
			if before.Max == piece.Min-1 && slices.Equal(before.groups, groups) && !before.mixed() {
				before.Max = piece.Max
				before.points += points
				continue
			}
		}
		parts = append(parts, region{piece, groups, points})
	}
	return parts
}
