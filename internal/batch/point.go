package batch

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/influxdata/influxdb/models"
)

// point is one point of a batch, and the iterator over its fields. It has the methods of models.Point and of
// models.FieldIterator.
type point struct {
	b        *Batch
	series   int32
	first, n uint32 // in b.fields
	next     uint32 // of the iterator
	at       int64  // nanoseconds
}

// Keep returns a point that stays when its batch is released. Other points are returned as they are.
func Keep(p models.Point) models.Point {
	if own, ok := p.(*point); ok {
		return own.plain()
	}
	return p
}

// plain returns the point as one of the engine's own package. Its memory is its own.
func (p *point) plain() models.Point {
	b, err := p.MarshalBinary()
	if err == nil {
		var out models.Point
		if out, err = models.NewPointFromBytes(b); err == nil {
			return out
		}
	}
	panic("batch: " + err.Error()) // Of and Decode took it
}

// nameOf returns the measurement in the key of a series, as the engine's points have it.
func nameOf(key []byte) []byte {
	if bytes.IndexByte(key, '\\') < 0 {
		name, _, _ := bytes.Cut(key, []byte{','})
		return slices.Clip(name)
	}
	p, err := models.NewPointFromBytes(encode(key, []byte("x=1"), time.Unix(0, 0)))
	if err != nil {
		return nil
	}
	return p.Name()
}

// encode returns a point as models.Point.MarshalBinary does.
func encode(key, fields []byte, at time.Time) []byte {
	t, err := at.UTC().MarshalBinary()
	if err != nil {
		panic(err) // only of a zone with odd seconds
	}
	b := make([]byte, 0, 8+len(key)+len(fields)+len(t))
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(key))), key...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(fields))), fields...)
	return append(b, t...)
}

// The methods that the engine and the journal call for each point.

func (p *point) Key() []byte       { return p.b.series[p.series].key }
func (p *point) Name() []byte      { return p.b.series[p.series].name }
func (p *point) Tags() models.Tags { return p.b.series[p.series].tags }
func (p *point) Time() time.Time   { return time.Unix(0, p.at).UTC() }
func (p *point) UnixNano() int64   { return p.at }

// StringSize is at least the bytes of any text of the point, which is what the engine asks it for.
func (p *point) StringSize() int {
	size := len(p.Key()) + len(" -9223372036854775808")
	for _, f := range p.fields() {
		size += len(p.b.columns[f.column].Field) + len(`=-1.2345678901234567e-308,`) + int(f.length)
	}
	return size
}

func (p *point) fields() []field { return p.b.fields[p.first : p.first+p.n] }

func (p *point) FieldIterator() models.FieldIterator {
	p.next = 0
	return p
}

func (p *point) Reset() { p.next = 0 }

func (p *point) Next() bool {
	if p.next >= p.n {
		return false
	}
	p.next++
	return true
}

func (p *point) field() *field { return &p.b.fields[p.first+p.next-1] }

func (p *point) FieldKey() []byte { return p.b.columns[p.field().column].Field }

func (p *point) Type() models.FieldType {
	if p.next == 0 {
		return models.Empty
	}
	return p.b.columns[p.field().column].Type
}

func (p *point) StringValue() string {
	f := p.field()
	return string(p.b.text[f.bits : f.bits+uint64(f.length)])
}

func (p *point) IntegerValue() (int64, error)   { return int64(p.field().bits), nil }
func (p *point) UnsignedValue() (uint64, error) { return p.field().bits, nil }
func (p *point) BooleanValue() (bool, error)    { return p.field().bits != 0, nil }
func (p *point) FloatValue() (float64, error)   { return math.Float64frombits(p.field().bits), nil }

// anew returns the same point, with its iterator at the beginning. Another user may be iterating over p meanwhile.
func (p *point) anew() point {
	return point{b: p.b, series: p.series, first: p.first, n: p.n, at: p.at}
}

// again returns an iterator of its own over the fields.
func (p *point) again() *point {
	own := p.anew()
	return &own
}

// Fields returns the fields in memory of their own.
func (p *point) Fields() (models.Fields, error) {
	out := make(models.Fields, p.n)
	for f := p.again(); f.Next(); {
		out[string(f.FieldKey())] = f.value()
	}
	return out, nil
}

// value is that of the current field.
func (p *point) value() any {
	switch bits := p.field().bits; p.Type() {
	case models.Float:
		return math.Float64frombits(bits)
	case models.Integer:
		return int64(bits)
	case models.Unsigned:
		return bits
	case models.Boolean:
		return bits != 0
	}
	return p.StringValue()
}

// MarshalBinary returns the point as the engine's own do. A field that comes twice is there twice.
func (p *point) MarshalBinary() ([]byte, error) {
	var fields []byte
	for f := p.again(); f.Next(); {
		if len(fields) > 0 {
			fields = append(fields, ',')
		}
		fields = append(fields, models.Fields{string(f.FieldKey()): f.value()}.MarshalBinary()...)
	}
	return encode(p.Key(), fields, p.Time()), nil
}

// What nobody calls for points of a batch, and what is not worth a second form.

func (p *point) ForEachTag(fn func(k, v []byte) bool) { p.plain().ForEachTag(fn) }
func (p *point) HasTag(tag []byte) bool               { return p.plain().HasTag(tag) }
func (p *point) ForEachField(fn func(k, v []byte) bool) error {
	return p.plain().ForEachField(fn)
}
func (p *point) HashID() uint64                          { return p.plain().HashID() }
func (p *point) String() string                          { return p.plain().String() }
func (p *point) AppendString(buf []byte) []byte          { return p.plain().AppendString(buf) }
func (p *point) PrecisionString(precision string) string { return p.plain().PrecisionString(precision) }
func (p *point) RoundedString(d time.Duration) string    { return p.plain().RoundedString(d) }
func (p *point) Split(size int) []models.Point           { return p.plain().Split(size) }

// Points of a batch share their series: a change would be one of others, too.

func (p *point) SetTime(t time.Time)   { p.at = t.UnixNano() }
func (p *point) Round(d time.Duration) { p.SetTime(p.Time().Round(d)) }
func (p *point) SetName(string)        { panic(unchangeable) }
func (p *point) AddTag(_, _ string)    { panic(unchangeable) }
func (p *point) SetTags(models.Tags)   { panic(unchangeable) }

const unchangeable = "batch: the series of a point of a batch cannot be changed; Keep returns one that can"
