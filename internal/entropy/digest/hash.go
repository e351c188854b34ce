package digest

import (
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

// fixed hashes a point whose value has 64 bits. Each step is a bijection of
// its operand, so for one seed no two (time, value) pairs have the same 128
// bits; the finalizers of MurmurHash3 spread them so that sums tell sets apart.
func (s seed) fixed(t int64, v uint64) (hi, lo uint64) {
	x := fmix(uint64(t) ^ s.lo)
	lo = fmix(v ^ s.hi ^ x)
	return fmix2(x + lo*0x9e3779b97f4a7c15), lo
}

// text hashes a point whose value is a string.
func (s seed) text(t int64, v string) (hi, lo uint64) {
	h := xxh3.HashString128Seed(v, s.hi)
	x := fmix(uint64(t) ^ s.lo)
	return fmix2(h.Hi ^ bits.RotateLeft64(x, 32)), fmix(h.Lo ^ x)
}

// fmix is the 64-bit finalizer of MurmurHash3 (Appleby), fmix2 that of
// Stafford's variant 13.
func fmix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func fmix2(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// addPoint adds one hashed point.
func (s *Sum) addPoint(hi, lo uint64) {
	var carry uint64
	s.Count++
	s.Lo, carry = bits.Add64(s.Lo, lo, 0)
	s.Hi, _ = bits.Add64(s.Hi, hi, carry)
}
