package patch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

const (
	blockPoints = 1000    // points of a block that this build writes
	maxPoints   = 1 << 20 // points of a block that this build reads
)

// ErrMalformed is returned for a block that does not decode.
var ErrMalformed = errors.New("malformed block")

// NewBlock encodes points of one series-field, ascending by time.
func NewBlock(series []byte, field string, v tsm1.Values) (Block, error) {
	data, err := v.Encode(nil)
	if err != nil {
		return Block{}, fmt.Errorf("encode %d points of %s %s: %w", len(v), series, field, err)
	}
	return Block{Series: series, Field: field, Data: data}, nil
}

// Decode returns the block's points; anything that is not one whole block is ErrMalformed.
func (b Block) Decode() (v tsm1.Values, err error) {
	// The engine's decoders trust their input: bytes from the network may make them panic.
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("%w of %s %s: %v", ErrMalformed, b.Series, b.Field, r)
		}
	}()
	if len(b.Data) == 0 {
		return nil, fmt.Errorf("%w of %s %s: empty", ErrMalformed, b.Series, b.Field)
	}
	n, err := tsm1.BlockCount(b.Data)
	if err != nil || n < 1 || n > maxPoints {
		return nil, fmt.Errorf("%w of %s %s: %d points", ErrMalformed, b.Series, b.Field, n)
	}
	v, err = tsm1.DecodeBlock(b.Data, nil)
	if err != nil {
		return nil, fmt.Errorf("%w of %s %s: %v", ErrMalformed, b.Series, b.Field, err)
	}
	for i := 1; i < len(v); i++ {
		if v[i].UnixNano() <= v[i-1].UnixNano() {
			return nil, fmt.Errorf("%w of %s %s: times do not ascend", ErrMalformed, b.Series, b.Field)
		}
	}
	return v, nil
}

// canonical is the fixed order of values: by the bytes of the value, integers
// and float bits as unsigned numbers.
func canonical(v tsm1.Value) []byte {
	switch x := v.Value().(type) {
	case float64:
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(x))
	case int64:
		return binary.BigEndian.AppendUint64(nil, uint64(x))
	case uint64:
		return binary.BigEndian.AppendUint64(nil, x)
	case bool:
		if x {
			return []byte{1}
		}
		return []byte{0}
	case string:
		return []byte(x)
	}
	return nil
}

// owned is a point and who holds it.
type owned struct {
	tsm1.Value
	owner int
}

// Merge joins all owners' points of one series-field. The result has every
// timestamp that any owner has. Where owners hold different values, the one
// that most hold wins, and on a tie the greater in the order of encodings.
// lacking are the points, by owner, that it misses or holds otherwise, points
// their number, and conflicts the number of timestamps with different values.
func Merge(owners [][]Block) (lacking [][]Block, points []int, conflicts int, err error) {
	lacking, points = make([][]Block, len(owners)), make([]int, len(owners))
	var (
		all    []owned
		series []byte
		field  string
	)
	for i, list := range owners {
		for _, b := range list {
			if series == nil {
				series, field = b.Series, b.Field
			} else if !bytes.Equal(series, b.Series) || field != b.Field {
				return nil, nil, 0, fmt.Errorf("blocks of %s %s and %s %s do not merge", series, field, b.Series, b.Field)
			}
			vs, err := b.Decode()
			if err != nil {
				return nil, nil, 0, err
			}
			for _, v := range vs {
				all = append(all, owned{v, i})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b owned) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })

	need := make([]tsm1.Values, len(owners))
	same := make([]bool, len(owners)) // owner i holds the winning value
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[to].UnixNano() == all[from].UnixNano() {
			to++
		}
		best, differ := vote(all[from:to])
		if differ {
			conflicts++
		}
		clear(same)
		want := canonical(best)
		for _, v := range all[from:to] {
			same[v.owner] = bytes.Equal(canonical(v.Value), want)
		}
		for i := range owners {
			if !same[i] {
				need[i] = append(need[i], best)
			}
		}
		from = to
	}
	for i, vs := range need {
		points[i] = len(vs)
		for chunk := range slices.Chunk(vs, blockPoints) {
			b, err := NewBlock(series, field, chunk)
			if err != nil {
				return nil, nil, 0, err
			}
			lacking[i] = append(lacking[i], b)
		}
	}
	return lacking, points, conflicts, nil
}

// vote picks among the values of one timestamp.
func vote(vs []owned) (best tsm1.Value, differ bool) {
	if len(vs) == 1 {
		return vs[0].Value, false
	}
	votes := 0
	var code []byte
	for _, v := range vs {
		c, n := canonical(v.Value), 0
		for _, o := range vs {
			if bytes.Equal(canonical(o.Value), c) {
				n++
			}
		}
		differ = differ || n < len(vs)
		if n > votes || (n == votes && bytes.Compare(c, code) > 0) {
			best, votes, code = v.Value, n, c
		}
	}
	return best, differ
}
