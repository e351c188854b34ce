package patch

import (
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Span is what a block has: points of a type, the first and the last at these times.
type Span struct {
	Type        models.FieldType
	First, Last int64 // nanoseconds
	Points      int
}

// Spans tells what blocks have without keeping the points. The zero value works.
type Spans struct {
	floats   tsdb.FloatArray
	integers tsdb.IntegerArray
	unsigned tsdb.UnsignedArray
	booleans tsdb.BooleanArray
	strings  tsdb.StringArray
}

// Of returns the span of a block; anything that is not one whole block is ErrMalformed.
func (d *Spans) Of(b Block) (s Span, err error) {
	malformed := func(reason any) error {
		return fmt.Errorf("%w of %s %s: %v", ErrMalformed, b.Series, b.Field, reason)
	}
	// The engine's decoders trust their input: bytes from the network may make them panic.
	defer func() {
		if r := recover(); r != nil {
			err = malformed(r)
		}
	}()
	if len(b.Data) == 0 {
		return s, malformed("empty")
	}
	n, err := tsm1.BlockCount(b.Data)
	if err != nil || n < 1 || n > maxPoints {
		return s, malformed(fmt.Sprintf("%d points", n))
	}
	var times []int64
	switch b.Data[0] {
	case tsm1.BlockFloat64:
		err = tsm1.DecodeFloatArrayBlock(b.Data, &d.floats)
		s.Type, times, n = models.Float, d.floats.Timestamps, len(d.floats.Values)
	case tsm1.BlockInteger:
		err = tsm1.DecodeIntegerArrayBlock(b.Data, &d.integers)
		s.Type, times, n = models.Integer, d.integers.Timestamps, len(d.integers.Values)
	case tsm1.BlockUnsigned:
		err = tsm1.DecodeUnsignedArrayBlock(b.Data, &d.unsigned)
		s.Type, times, n = models.Unsigned, d.unsigned.Timestamps, len(d.unsigned.Values)
	case tsm1.BlockBoolean:
		err = tsm1.DecodeBooleanArrayBlock(b.Data, &d.booleans)
		s.Type, times, n = models.Boolean, d.booleans.Timestamps, len(d.booleans.Values)
	case tsm1.BlockString:
		err = tsm1.DecodeStringArrayBlock(b.Data, &d.strings)
		s.Type, times, n = models.String, d.strings.Timestamps, len(d.strings.Values)
	default:
		return s, malformed(fmt.Sprintf("type %d", b.Data[0]))
	}
	if err != nil {
		return s, malformed(err)
	}
	if len(times) == 0 || len(times) != n {
		return s, malformed(fmt.Sprintf("%d times of %d values", len(times), n))
	}
	for i := 1; i < len(times); i++ {
		if times[i] <= times[i-1] {
			return s, malformed("times do not ascend")
		}
	}
	s.First, s.Last, s.Points = times[0], times[n-1], n
	return s, nil
}
