package patch

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/zeebo/xxh3"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/entropy/scan"
)

// Slices is into how many parts of equal length a region is cut.
const Slices = 16

// Slice is what an owner holds in a part of a region: the number of points, and the sum
// of their keyed hashes.
type Slice struct{ Count, Sum uint64 }

// Element is a point as a member of a set: the region's place in the question,
// the time since the region's Min, and the value: its bits, or a string's keyed hash.
func Element(region int, since, value uint64) riblt.Element {
	return riblt.Element{uint64(region), since, value}
}

// HashString stands for a string in an Element.
func HashString(key uint64, s string) uint64 { return xxh3.HashStringSeed(s, key) }

// Symbols returns the coded symbols [from, to) of the points of all regions.
func Symbols(
	ctx context.Context, shard *tsdb.Shard, regions []Region, key uint64, from, to int,
) ([]riblt.Symbol, error) {
	return riblt.Encode(key, from, to, func(add func(riblt.Element)) error {
		return points(ctx, shard, regions, key, func(i int, since, value uint64) { add(Element(i, since, value)) })
	})
}

// SliceSums returns the slices of each region.
func SliceSums(ctx context.Context, shard *tsdb.Shard, regions []Region, key uint64) ([][Slices]Slice, error) {
	out := make([][Slices]Slice, len(regions))
	var b [16]byte
	err := points(ctx, shard, regions, key, func(i int, since, value uint64) {
		binary.LittleEndian.PutUint64(b[:], since)
		binary.LittleEndian.PutUint64(b[8:], value)
		s := &out[i][since/regions[i].sliceWidth()]
		s.Count++
		s.Sum += xxh3.HashSeed(b[:], key)
	})
	return out, err
}

// sliceWidth is the length of a slice in nanoseconds; the last one may be shorter.
func (r Region) sliceWidth() uint64 { return uint64(r.Max-r.Min)/Slices + 1 }

// Slice returns the region of the slices [first, last], as far as it is not empty.
func (r Region) Slice(first, last int) (part Region, ok bool) {
	w, length := r.sliceWidth(), uint64(r.Max-r.Min)
	if uint64(first)*w > length {
		return Region{}, false
	}
	part = r
	part.Min = r.Min + int64(uint64(first)*w)
	part.Max = r.Min + int64(min(uint64(last)*w+w-1, length))
	return part, true
}

// points calls fn with the points of each region.
func points(
	ctx context.Context, shard *tsdb.Shard, regions []Region, key uint64, fn func(region int, since, value uint64),
) error {
	return each(ctx, shard, regions, func(i int, r *scan.Reader) error {
		switch regions[i].Type {
		case digest.Float:
			return elements(r, regions, i, math.Float64bits, fn)
		case digest.Integer:
			return elements(r, regions, i, func(v int64) uint64 { return uint64(v) }, fn)
		case digest.Unsigned:
			return elements(r, regions, i, func(v uint64) uint64 { return v }, fn)
		case digest.Boolean:
			return elements(r, regions, i, func(v bool) uint64 {
				if v {
					return 1
				}
				return 0
			}, fn)
		case digest.String:
			return elements(r, regions, i, func(v string) uint64 { return HashString(key, v) }, fn)
		}
		return fmt.Errorf("unknown type %v", regions[i].Type)
	})
}

// elements calls fn with the points of a region.
func elements[V scan.Value](
	in *scan.Reader, regions []Region, i int, bits func(V) uint64, fn func(region int, since, value uint64),
) error {
	r := regions[i]
	return scan.Each(in, r.Min, r.Max, func(times []int64, values []V) error {
		for j, t := range times {
			fn(i, uint64(t-r.Min), bits(values[j]))
		}
		return nil
	})
}

// Present tells which regions have points, whatever their type.
func Present(ctx context.Context, shard *tsdb.Shard, regions []Region) (map[int]bool, error) {
	engine, err := shard.Engine()
	if err != nil {
		return nil, err
	}
	typed := make([]Region, len(regions))
	for i, r := range regions {
		if fields := engine.MeasurementFields(models.ParseName(r.Series)); fields != nil {
			if f := fields.Field(r.Field); f != nil {
				r.Type, _ = digest.TypeOf(f.Type)
			}
		}
		typed[i] = r
	}
	there := make(map[int]bool)
	err = points(ctx, shard, typed, 0, func(i int, _, _ uint64) { there[i] = true })
	return there, err
}
