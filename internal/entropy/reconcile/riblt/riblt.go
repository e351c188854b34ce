// Package riblt finds the difference of two sets of elements of one size by a rateless invertible Bloom lookup table,
// after Yang, Gilad, Alizadeh: "Practical Rateless Set Reconciliation" (SIGCOMM 2024).
//
// A set has an endless sequence of coded symbols. Symbol i is the sum of the elements that are mapped to i: all of them
// to symbol 0, and each to later ones with a probability of 1/(1+i/2). Symbols of two sets subtract, and what both sets
// have falls out. From about 1.35 to 1.7 symbols for each element of the difference, all of it can be read off, however
// large the sets are.
//
// Encode makes symbols in one pass over a stream of elements. It holds the symbols alone, never the set. The decoder
// trusts none of the symbols that it is given.
package riblt

import (
	"errors"
	"math"

	"github.com/zeebo/xxh3"
)

// Element is a member of a set. Words that a kind of element does not use are 0.
type Element [3]uint64

// Symbol is one coded symbol: of the elements mapped to it the exclusive or,
// the exclusive or of their checksums, and the number.
type Symbol struct {
	Sum   Element
	Check uint64
	Count int64
}

// ErrNonsense is returned for symbols that are those of no set.
var ErrNonsense = errors.New("the symbols are those of no set")

func (s *Symbol) add(e Element, check uint64, n int64) {
	s.Sum[0] ^= e[0]
	s.Sum[1] ^= e[1]
	s.Sum[2] ^= e[2]
	s.Check ^= check
	s.Count += n
}

func (s *Symbol) empty() bool { return *s == Symbol{} }

// checkBits is the size of a checksum: a symbol of several elements passes for
// one of a single element once in 2^40 times, and then the rest does not decode.
const checkBits = 40

// checksum also seeds the element's mapping. key keeps others from choosing
// elements whose checksums collide.
func checksum(key uint64, e Element) uint64 {
	var b [24]byte
	for i, w := range e {
		for j := range 8 {
			b[8*i+j] = byte(w >> (8 * j))
		}
	}
	return xxh3.HashSeed(b[:], key) >> (64 - checkBits)
}

// maxIndex bounds the symbols of a sequence, so that walks end.
const maxIndex = 1 << 40

// walk is an element's way through the symbols that it is mapped to.
type walk struct{ state, at uint64 }

func newWalk(check uint64) walk { return walk{state: check} }

// next moves to the following symbol: gaps are drawn so that symbol i is met with a
// probability of 1/(1+i/2), see section 4.2 of the paper.
func (w *walk) next() {
	// SplitMix64 (Steele, Lea, Flood).
	w.state += 0x9e3779b97f4a7c15
	z := w.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	gap := math.Ceil((float64(w.at) + 1.5) * ((1<<32)/math.Sqrt(float64(z)+1) - 1))
	w.at = min(w.at+uint64(min(max(gap, 1), maxIndex)), maxIndex)
}

// Encode returns the symbols [from, to) of a set. each calls its argument with
// every element once; elements must differ from each other.
func Encode(key uint64, from, to int, each func(add func(Element)) error) ([]Symbol, error) {
	if from < 0 || to < from || to > maxIndex {
		return nil, errors.New("a range of symbols must ascend from 0")
	}
	out := make([]Symbol, to-from)
	err := each(func(e Element) {
		check := checksum(key, e)
		w := newWalk(check)
		for w.at < uint64(from) {
			w.next()
		}
		for ; w.at < uint64(to); w.next() {
			out[w.at-uint64(from)].add(e, check, 1)
		}
	})
	return out, err
}

// Decoder finds which elements two sets do not share from their symbols.
type Decoder struct {
	key     uint64
	symbols []Symbol // the difference of what was added, without what is found
	found   []found
	known   map[Element]struct{} // found
	failed  bool
}

type found struct {
	Element
	check uint64
	sign  int64 // 1: the remote set has it, -1: the local one
	walk  walk  // at its first symbol that was not added yet
}

// NewDecoder returns a decoder without symbols; key is that of Encode.
func NewDecoder(key uint64) *Decoder {
	return &Decoder{key: key, known: make(map[Element]struct{})}
}

// Len is the number of symbols that were added of each set: the next ones begin there.
func (d *Decoder) Len() int { return len(d.symbols) }

// Add takes the next symbols of both sets, equally many, and reads off what it can.
func (d *Decoder) Add(remote, local []Symbol) error {
	if len(remote) != len(local) {
		return errors.New("both sets must give equally many symbols")
	}
	if d.failed {
		return ErrNonsense
	}
	from := len(d.symbols)
	for i, r := range remote {
		r.add(local[i].Sum, local[i].Check, -local[i].Count)
		d.symbols = append(d.symbols, r)
	}
	for i := range d.found {
		d.take(&d.found[i])
	}
	var pure []int
	for i := from; i < len(d.symbols); i++ {
		pure = append(pure, i)
	}
	// What is found may leave other symbols with one element.
	for len(pure) > 0 {
		i := pure[len(pure)-1]
		pure = pure[:len(pure)-1]
		s := d.symbols[i]
		if (s.Count != 1 && s.Count != -1) || checksum(d.key, s.Sum) != s.Check {
			continue
		}
		// No set gives an element twice: symbols that do would lead in a circle.
		if _, again := d.known[s.Sum]; again || len(d.found) >= len(d.symbols) {
			d.failed = true
			return ErrNonsense
		}
		d.known[s.Sum] = struct{}{}
		f := found{Element: s.Sum, check: s.Check, sign: s.Count, walk: newWalk(s.Check)}
		for w := f.walk; w.at < uint64(len(d.symbols)); w.next() {
			pure = append(pure, int(w.at))
		}
		d.take(&f)
		d.found = append(d.found, f)
	}
	return nil
}

// take removes a found element from all symbols that its walk has not met yet.
func (d *Decoder) take(f *found) {
	for ; f.walk.at < uint64(len(d.symbols)); f.walk.next() {
		d.symbols[f.walk.at].add(f.Element, f.check, -f.sign)
	}
}

// Done tells whether everything is found: at least one symbol was added, and nothing is left in any.
func (d *Decoder) Done() bool {
	if len(d.symbols) == 0 || d.failed {
		return false
	}
	for i := range d.symbols {
		if !d.symbols[i].empty() {
			return false
		}
	}
	return true
}

// Found is what was read off so far: the elements that only one set has.
// It is the whole difference when Done.
func (d *Decoder) Found() (remote, local []Element) {
	for _, f := range d.found {
		if f.sign > 0 {
			remote = append(remote, f.Element)
		} else {
			local = append(local, f.Element)
		}
	}
	return remote, local
}
