package patch

import (
	"bytes"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// point is one value of a block for the engine. It has the names of a point that was made once for the
// block, and gives the value as it is: a models.Point holds text, which costs more to write and to parse than all the
// rest, and has no form for infinities.
type point struct {
	models.Point // the first of the block
	field        []byte
	value        tsm1.Value
}

// pointsOf returns the points of a block. An error is one that the block meets each time.
func pointsOf(b Block, values tsm1.Values) ([]models.Point, error) {
	name, tags := models.ParseKeyBytes(b.Series)
	if len(name) == 0 || b.Field == "" {
		return nil, fmt.Errorf("%w: no measurement or no field", ErrMalformed)
	}
	first, err := models.NewPoint(string(name), tags, models.Fields{b.Field: true}, time.Unix(0, 0))
	if err != nil {
		return nil, fmt.Errorf("point of %s: %w", b.Series, err)
	}
	if !bytes.Equal(first.Key(), b.Series) { // the engine would put them into another series
		return nil, fmt.Errorf("%q is not the key of a series", b.Series)
	}
	all, out, field := make([]point, len(values)), make([]models.Point, len(values)), []byte(b.Field)
	for i, v := range values {
		all[i] = point{first, field, v}
		out[i] = &all[i]
	}
	return out, nil
}

func (p *point) Time() time.Time                     { return time.Unix(0, p.value.UnixNano()).UTC() }
func (p *point) UnixNano() int64                     { return p.value.UnixNano() }
func (p *point) FieldIterator() models.FieldIterator { return &fieldOf{p: p} }
func (p *point) Fields() (models.Fields, error) {
	return models.Fields{string(p.field): p.value.Value()}, nil
}
func (p *point) String() string { return fmt.Sprintf("%s %s %v", p.Key(), p.field, p.value) }

// fieldOf iterates over the only field of a point.
type fieldOf struct {
	p     *point
	ended bool
}

func (f *fieldOf) Next() bool {
	next := !f.ended
	f.ended = true
	return next
}

func (f *fieldOf) Reset()           { f.ended = false }
func (f *fieldOf) FieldKey() []byte { return f.p.field }

func (f *fieldOf) Type() models.FieldType {
	switch f.p.value.(type) {
	case tsm1.FloatValue:
		return models.Float
	case tsm1.IntegerValue:
		return models.Integer
	case tsm1.UnsignedValue:
		return models.Unsigned
	case tsm1.BooleanValue:
		return models.Boolean
	case tsm1.StringValue:
		return models.String
	}
	return models.Empty
}

// valueOf is the value, if it has the asked type.
func valueOf[T any](f *fieldOf) (T, error) {
	v, ok := f.p.value.Value().(T)
	if !ok {
		return v, fmt.Errorf("the field %s is %T", f.p.field, f.p.value.Value())
	}
	return v, nil
}

func (f *fieldOf) FloatValue() (float64, error)   { return valueOf[float64](f) }
func (f *fieldOf) IntegerValue() (int64, error)   { return valueOf[int64](f) }
func (f *fieldOf) UnsignedValue() (uint64, error) { return valueOf[uint64](f) }
func (f *fieldOf) BooleanValue() (bool, error)    { return valueOf[bool](f) }

func (f *fieldOf) StringValue() string {
	s, _ := valueOf[string](f)
	return s
}
