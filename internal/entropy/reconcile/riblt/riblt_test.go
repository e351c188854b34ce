package riblt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const key = 7

func set(elements []Element) func(func(Element)) error {
	return func(add func(Element)) error {
		for _, e := range elements {
			add(e)
		}
		return nil
	}
}

func encode(t interface{ Fatal(...any) }, from, to int, elements []Element) []Symbol {
	s, err := Encode(key, from, to, set(elements))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reconcile adds symbols, a quarter more each time, until the difference is found.
func reconcile(t interface{ Fatal(...any) }, remote, local []Element, limit int) *Decoder {
	d := NewDecoder(key)
	for !d.Done() && d.Len() < limit {
		from, to := d.Len(), d.Len()+max(1, d.Len()/4)
		if err := d.Add(encode(t, from, to, remote), encode(t, from, to, local)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func sorted(e []Element) []Element {
	slices.SortFunc(e, func(a, b Element) int { return slices.Compare(a[:], b[:]) })
	return e
}

func TestDifferenceOfSetsIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Element {
			// Small numbers: elements may be made of anything, zero as well.
			return Element{
				rapid.Uint64Range(0, 50).Draw(t, "a"), rapid.Uint64Range(0, 50).Draw(t, "b"),
				rapid.Uint64Range(0, 1).Draw(t, "c"),
			}
		}), 0, 300, rapid.ID[Element]).Draw(t, "elements")
		var sets, only [2][]Element
		for _, e := range all {
			where := rapid.SampledFrom([]int{0, 1, 2, 2, 2}).Draw(t, "where")
			for i := range sets {
				if where == i {
					only[i] = append(only[i], e)
				}
				if where == i || where == 2 {
					sets[i] = append(sets[i], e)
				}
			}
		}
		d := reconcile(t, sets[0], sets[1], 100_000)
		if !d.Done() {
			t.Fatalf("%d symbols do not tell a difference of %d", d.Len(), len(only[0])+len(only[1]))
		}
		remote, local := d.Found()
		if diff := cmp.Diff([][]Element{sorted(only[0]), sorted(only[1])},
			[][]Element{sorted(remote), sorted(local)}); diff != "" {
			t.Fatal(diff)
		}
	})
}

// The number of symbols hangs on the difference alone: at most 1.8 for each
// of its elements beyond small ones, where the paper has 1.35 to 1.7 on average.
func TestSymbolsForADifference(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []Element {
		out := make([]Element, n)
		for i := range out {
			out[i] = Element{rnd.Uint64(), rnd.Uint64()}
		}
		return out
	}
	common := random(20_000)
	for _, n := range []int{50, 200, 1000, 4000} {
		a, b := append(random(n/2), common...), append(random(n-n/2), common...)
		to := n*18/10 + 20
		d := NewDecoder(key)
		if err := d.Add(encode(t, 0, to, a), encode(t, 0, to, b)); err != nil {
			t.Fatal(err)
		}
		if !d.Done() {
			t.Errorf("%d symbols do not tell a difference of %d", to, n)
		}
	}
}

func TestEqualSetsTakeOneSymbol(t *testing.T) {
	t.Parallel()
	e := []Element{{1}, {2}, {3}}
	if d := reconcile(t, e, e, 100); d.Len() != 1 || !d.Done() {
		t.Errorf("%d symbols", d.Len())
	}
	if d := reconcile(t, nil, nil, 100); d.Len() != 1 || !d.Done() {
		t.Errorf("of empty sets: %d symbols", d.Len())
	}
}

func TestSymbolsOfLaterRangesAreTheSame(t *testing.T) {
	t.Parallel()
	e := []Element{{1}, {2, 3}, {4, 5, 6}, {1 << 60}}
	whole := encode(t, 0, 100, e)
	for _, from := range []int{0, 1, 17, 99, 100} {
		if d := cmp.Diff(whole[from:], encode(t, from, 100, e)); d != "" {
			t.Errorf("from %d:\n%s", from, d)
		}
	}
}

// Garbage ends in an error or is not Done; it never makes the decoder loop,
// nor hold more than it was sent.
func TestGarbageIsRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		elements := []Element{{1}, {2}, {3, 4}, {5}, {6}}
		n := rapid.IntRange(1, 40).Draw(t, "symbols")
		remote := encode(t, 0, n, elements)
		for range rapid.IntRange(1, 5).Draw(t, "damages") {
			s := &remote[rapid.IntRange(0, n-1).Draw(t, "at")]
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				s.Count += rapid.Int64Range(-2, 2).Draw(t, "count")
			case 1:
				s.Sum[0] ^= rapid.Uint64().Draw(t, "word")
			case 2:
				s.Check ^= rapid.Uint64().Draw(t, "check")
			case 3:
				// A symbol that looks pure and is not that of the set.
				e := elements[rapid.IntRange(0, 4).Draw(t, "element")]
				*s = Symbol{Sum: e, Check: checksum(key, e), Count: rapid.SampledFrom([]int64{1, -1}).Draw(t, "sign")}
			}
		}
		d := NewDecoder(key)
		err := d.Add(remote, make([]Symbol, n))
		if err != nil && !errors.Is(err, ErrNonsense) {
			t.Fatal(err)
		}
		if r, l := d.Found(); len(r)+len(l) > n {
			t.Fatalf("%d elements out of %d symbols", len(r)+len(l), n)
		}
		if err != nil && d.Done() {
			t.Fatal("done in spite of an error")
		}
	})
}

func TestNonsenseDoesNotLoop(t *testing.T) {
	t.Parallel()
	e := Element{9}
	c := checksum(key, e)
	symbols := make([]Symbol, 64)
	for i := range symbols {
		symbols[i] = Symbol{Sum: e, Check: c, Count: 1 - 2*int64(i%2)}
	}
	d := NewDecoder(key)
	if err := d.Add(symbols, make([]Symbol, 64)); !errors.Is(err, ErrNonsense) {
		t.Errorf("got %v", err)
	}
	if err := d.Add(nil, nil); !errors.Is(err, ErrNonsense) || d.Done() {
		t.Errorf("afterwards: %v", err)
	}
}

// Symbols from outside are decoded or refused. With pure, those of one element get the checksum that
// they should have: no mutation finds one, and the decoder looks no further without.
func FuzzDecodeSymbols(f *testing.F) {
	f.Add(AppendSymbols(nil, []Symbol{{}, {Sum: Element{1, 1 << 40, 3}, Check: 4, Count: -5}}), false)
	f.Add([]byte{0x99, 0x99}, false)
	for _, n := range []int{1, 3, 16} {
		f.Add(AppendSymbols(nil, encode(f, 0, n, []Element{{1}, {2, 3}, {4, 5, 6}})), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, pure bool) {
		s, err := DecodeSymbols(b, 1000)
		if err != nil {
			return
		}
		if got := AppendSymbols(nil, s); !slices.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
		for i := range s {
			if pure && (s[i].Count == 1 || s[i].Count == -1) {
				s[i].Check = checksum(key, s[i].Sum)
			}
		}
		d := NewDecoder(key)
		err = d.Add(s[:len(s)/2], make([]Symbol, len(s)/2))
		if err == nil {
			err = d.Add(s[len(s)/2:], make([]Symbol, len(s)-len(s)/2))
		}
		if err != nil && !errors.Is(err, ErrNonsense) {
			t.Fatal(err)
		}
		if remote, local := d.Found(); len(remote)+len(local) > len(s) {
			t.Fatalf("%d elements out of %d symbols", len(remote)+len(local), len(s))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	const n = 1_000_000
	for _, to := range []int{64, 4096} {
		b.Run(fmt.Sprintf("first %d symbols of a million elements", to), func(b *testing.B) {
			for b.Loop() {
				if _, err := Encode(key, 0, to, func(add func(Element)) error {
					for i := range uint64(n) {
						add(Element{i, i * i})
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
		})
	}
}
