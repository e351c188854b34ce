package digest

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// Flipping any bit of a point flips about half of the bits of its hash.
func TestHashAvalanche(t *testing.T) {
	t.Parallel()
	const samples = 2000
	rnd := rand.New(rand.NewPCG(1, 1))
	for in := range 128 {
		var flips [128]int
		for i := range samples {
			s := seed{rnd.Uint64(), rnd.Uint64()}
			// Times and values as clients write them: with a lot of zeros, and in steps.
			at, v := int64(1_700_000_000_000_000_000+i*1_000_000_000), math.Float64bits(float64(i%50))
			h, l := s.fixed(at, v)
			if in < 64 {
				at ^= 1 << in
			} else {
				v ^= 1 << (in - 64)
			}
			h2, l2 := s.fixed(at, v)
			for b := range 64 {
				flips[b] += int((l ^ l2) >> b & 1)
				flips[64+b] += int((h ^ h2) >> b & 1)
			}
		}
		low, total := samples, 0
		for _, n := range flips {
			low, total = min(low, n), total+n
		}
		if mean := float64(total) / 128 / samples; mean < 0.45 || mean > 0.55 || low < samples/5 {
			t.Errorf("bit %d flips %.2f of the output bits, one of them in %.2f of all cases", in, mean,
				float64(low)/samples)
		}
	}
}

// Sums of sets that are alike in all simple ways differ as those of random numbers do: 24 bits, from
// several places of the sum, are equal about once in 2^24 times. Here it is never but for luck.
func TestSumsTellAlikeSetsApart(t *testing.T) {
	t.Parallel()
	type point struct {
		t int64
		v uint64
	}
	rnd := rand.New(rand.NewPCG(2, 2))
	number := func(f float64) uint64 { return math.Float64bits(f) }
	start := int64(1_700_000_000_000_000_000)
	pairs := map[string]func(i int) (a, b []point){
		"two values swapped": func(i int) (a, b []point) {
			at, step := start+int64(i)*1e9, int64(1e9)<<(i%8)
			return []point{{at, number(1)}, {at + step, number(float64(2 + i%100))}}, []point{
				{at, number(float64(2 + i%100))},
				{at + step, number(1)},
			}
		},
		"three values turned": func(i int) (a, b []point) {
			at := start + int64(i)*1e9
			x, y, z := uint64(i), uint64(i+1), uint64(i+2)
			return []point{{at, x}, {at + 1e9, y}, {at + 2e9, z}}, []point{{at, y}, {at + 1e9, z}, {at + 2e9, x}}
		},
		"corners of a square": func(i int) (a, b []point) {
			at, d := start+int64(i)*1e9, int64(1)<<(i%40)
			return []point{{at, 7}, {at + 3*d, 7}}, []point{{at + d, 7}, {at + 2*d, 7}}
		},
		"powers of two": func(i int) (a, b []point) {
			v := uint64(1) << (i % 62)
			return []point{{start, v}, {start + 1e9, 2 * v}, {start + 2e9, 0}}, []point{
				{start, 2 * v},
				{start + 1e9, v},
				{start + 2e9, 0},
			}
		},
		"another sign": func(i int) (a, b []point) {
			at, v := start+int64(i)*1e9, float64(i)+0.5
			return []point{{at, number(v)}, {at + 1e9, number(-v)}}, []point{{at, number(-v)}, {at + 1e9, number(v)}}
		},
		"time for value": func(i int) (a, b []point) {
			return []point{{int64(i), uint64(i + 1)}}, []point{{int64(i + 1), uint64(i)}}
		},
	}
	for name, pair := range pairs {
		equal := map[string]int{}
		for i := range 300_000 {
			s := seed{rnd.Uint64(), rnd.Uint64()}
			sum := func(points []point) (out Sum) {
				for _, p := range points {
					out.Add(s.integers([]int64{p.t}, []int64{int64(p.v)}))
				}
				return out
			}
			pa, pb := pair(i)
			x, y := sum(pa), sum(pb)
			for place, d := range map[string]uint64{
				"low bits of Lo": x.Lo ^ y.Lo, "high bits of Lo": bits.Reverse64(x.Lo ^ y.Lo),
				"low bits of Hi": x.Hi ^ y.Hi, "high bits of Hi": bits.Reverse64(x.Hi ^ y.Hi),
			} {
				if d<<40 == 0 {
					equal[place]++
				}
			}
		}
		for place, n := range equal {
			if n > 2 { // 0.018 are expected
				t.Errorf("%s: the %s are equal %d times", name, place, n)
			}
		}
	}
}

func TestHashTellsTypesAndSeriesApart(t *testing.T) {
	t.Parallel()
	seen := map[seed]string{}
	for _, series := range []string{"m", "m,a=b", "ma", "a"} {
		for _, field := range []string{"m", "v", "vm", ""} {
			for typ := Float; typ <= Unsigned; typ++ {
				for key := range uint64(3) {
					s, _ := newSeed(key, []byte(series), field, typ, nil)
					name := fmt.Sprintf("%q %q %v %d", series, field, typ, key)
					if other, ok := seen[s]; ok {
						t.Errorf("%s and %s have one seed", name, other)
					}
					seen[s] = name
				}
			}
		}
	}
	s, _ := newSeed(1, []byte("m"), "v", String, nil)
	if a, b := s.strings([]int64{1, 2}, []string{"a", "b"}), s.strings([]int64{1, 2}, []string{"b", "a"}); a == b {
		t.Error("swapped strings have one sum")
	}
}
