package digest

import (
	"math"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// seed keys the hashes of one series-field: with the cluster's id, the series
// key, the field and its type.
type seed struct{ hi, lo uint64 }

func newSeed(key uint64, series []byte, field string, typ Type, buf []byte) (seed, []byte) {
	// The lengths keep (series, field) pairs apart whatever bytes they hold.
	buf = append(buf[:0], byte(typ), byte(len(field)), byte(len(field)>>8), byte(len(field)>>16))
	buf = append(append(buf, field...), series...)
	h := xxh3.Hash128Seed(buf, key)
	return seed{h.Hi, h.Lo}, buf
}

// fixed hashes a point whose value has 64 bits: three rounds of a Feistel network
// whose round function is a folded multiplication, as in wyhash (Wang Yi). A
// network is a bijection whatever its rounds do, so for one seed no two (time, value) pairs
// have the same 128 bits; the multiplications spread them so that sums tell sets apart.
func (s seed) fixed(t int64, v uint64) (hi, lo uint64) {
	a, b := uint64(t)^s.lo, v^s.hi
	h, l := bits.Mul64(a, odd1)
	b ^= h ^ l
	h, l = bits.Mul64(b, odd2)
	a ^= h ^ l
	h, l = bits.Mul64(a, odd3)
	b ^= h ^ l
	// a has gone through one multiplication less.
	return a ^ bits.RotateLeft64(b, 32), b
}

// Odd numbers with half of their bits set: the first three of wyhash's.
const (
	odd1 = 0xa0761d6478bd642f
	odd2 = 0xe7037ed1a0b428db
	odd3 = 0x8ebc6af09c88c6e3
)

// text hashes a point whose value is a string.
func (s seed) text(t int64, v string) (hi, lo uint64) {
	h := xxh3.HashString128Seed(v, s.hi)
	hi, lo = s.fixed(t, h.Lo)
	return hi + h.Hi*odd1, lo ^ h.Hi
}

// The sums of the hashes of points, by type. Each loop is written out: a call
// for each point would take longer than its hash.

func (s seed) floats(times []int64, values []float64) Sum {
	var hi, lo, carry uint64
	values = values[:len(times)]
	for i, t := range times {
		h, l := s.fixed(t, math.Float64bits(values[i]))
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return Sum{Count: uint64(len(times)), Hi: hi, Lo: lo}
}

func (s seed) integers(times []int64, values []int64) Sum {
	var hi, lo, carry uint64
	values = values[:len(times)]
	for i, t := range times {
		h, l := s.fixed(t, uint64(values[i]))
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return Sum{Count: uint64(len(times)), Hi: hi, Lo: lo}
}

func (s seed) unsigned(times []int64, values []uint64) Sum {
	var hi, lo, carry uint64
	values = values[:len(times)]
	for i, t := range times {
		h, l := s.fixed(t, values[i])
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return Sum{Count: uint64(len(times)), Hi: hi, Lo: lo}
}

func (s seed) booleans(times []int64, values []bool) Sum {
	var hi, lo, carry uint64
	for i, t := range times {
		var v uint64
		if values[i] {
			v = 1
		}
		h, l := s.fixed(t, v)
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return Sum{Count: uint64(len(times)), Hi: hi, Lo: lo}
}

func (s seed) strings(times []int64, values []string) Sum {
	var hi, lo, carry uint64
	for i, t := range times {
		h, l := s.text(t, values[i])
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return Sum{Count: uint64(len(times)), Hi: hi, Lo: lo}
}
