package digest

import "math/bits"

// Windows is the number of slices of a shard's time range.
const Windows = 64

// Type is a field's type. The values are part of the wire format and of the hash.
type Type uint8

// The types of InfluxDB 1.x; the numbers are those of the engine's block types plus one.
const (
	Float Type = 1 + iota
	Integer
	Boolean
	String
	Unsigned
)

// Sum is the digest of a set of points: how many, and the sum of their hashes
// modulo 2^128. The zero value is the empty set. Equal sets have equal sums;
// unequal ones have unequal sums but for about 2^-100.
type Sum struct {
	Count  uint64
	Hi, Lo uint64
}

// Add makes s the sum of the union of two disjoint sets.
func (s *Sum) Add(o Sum) {
	var carry uint64
	s.Count += o.Count
	s.Lo, carry = bits.Add64(s.Lo, o.Lo, 0)
	s.Hi, _ = bits.Add64(s.Hi, o.Hi, carry)
}

// Fold is the sum in 48 bits, for comparisons of which a wrong one costs little
// and is found out: it is 0 for the empty set alone.
func (s Sum) Fold() uint64 {
	if s == (Sum{}) {
		return 0
	}
	h := bits.RotateLeft64(s.Hi, 32) ^ s.Lo ^ s.Count*0x9E3779B97F4A7C15
	h ^= h >> 32
	return max(h*0xD6E8FEB86659FD93>>16, 1)
}

// Range is a shard's time range in nanoseconds, [Start, End).
type Range struct{ Start, End int64 }

// width is the length of a window: the last one may reach past End.
func (r Range) width() uint64 {
	w := (uint64(r.End) - uint64(r.Start)) / Windows
	if (uint64(r.End)-uint64(r.Start))%Windows != 0 {
		w++
	}
	return max(w, 1)
}

// Window tells in which window t lies. Times outside the range, which only a
// damaged or foreign shard has, count to the first or the last window.
func (r Range) Window(t int64) int {
	if t < r.Start {
		return 0
	}
	return int(min((uint64(t)-uint64(r.Start))/r.width(), Windows-1))
}

// SeriesField is the digest of one field of one series. Windows that have no
// points are the zero Sum.
type SeriesField struct {
	Series  []byte // series key: measurement and sorted tags, as models.MakeKey writes it
	Field   string
	Type    Type
	Windows [Windows]Sum
}
