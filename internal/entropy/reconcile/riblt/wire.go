package riblt

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// AppendSymbols appends symbols in the form in which they travel. Each has two
// bytes with the lengths of four numbers (0 to 8, four bits each), the numbers, which are the
// three words of Sum and Count in zigzag form, least byte first, and 5 bytes of Check.
func AppendSymbols(b []byte, symbols []Symbol) []byte {
	for i := range symbols {
		s := &symbols[i]
		var lengths uint16
		numbers := [4]uint64{s.Sum[0], s.Sum[1], s.Sum[2], uint64(s.Count)<<1 ^ uint64(s.Count>>63)}
		for j, n := range numbers {
			lengths |= uint16((bits.Len64(n)+7)/8) << (4 * j)
		}
		b = binary.LittleEndian.AppendUint16(b, lengths)
		for _, n := range numbers {
			for ; n != 0; n >>= 8 {
				b = append(b, byte(n))
			}
		}
		for i := range checkBits / 8 {
			b = append(b, byte(s.Check>>(8*i)))
		}
	}
	return b
}

var errMalformed = errors.New("malformed coded symbols")

// DecodeSymbols returns the symbols of which b consists, n at most.
func DecodeSymbols(b []byte, n int) ([]Symbol, error) {
	var out []Symbol
	for len(b) > 0 {
		if len(b) < 2 || len(out) == n {
			return nil, errMalformed
		}
		lengths := binary.LittleEndian.Uint16(b)
		b = b[2:]
		var numbers [4]uint64
		for j := range numbers {
			l := int(lengths >> (4 * j) & 15)
			if l > 8 || l > len(b) {
				return nil, errMalformed
			}
			for k := range l {
				numbers[j] |= uint64(b[k]) << (8 * k)
			}
			if l > 0 && b[l-1] == 0 {
				return nil, errMalformed // there is one form for each number
			}
			b = b[l:]
		}
		if len(b) < checkBits/8 {
			return nil, errMalformed
		}
		var check uint64
		for i := range checkBits / 8 {
			check |= uint64(b[i]) << (8 * i)
		}
		c := numbers[3]
		out = append(out, Symbol{
			Sum:   Element{numbers[0], numbers[1], numbers[2]},
			Count: int64(c>>1) ^ -int64(c&1),
			Check: check,
		})
		b = b[checkBits/8:]
	}
	return out, nil
}
