package distquery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/influxdata/influxdb/query"
)

// The points of an iterator on their way between nodes: docs/format/points.md
// draws them. The engine's own encoding of iterators is a message for each
// point, with the names and tags of its series in it; it costs as much as
// reading the point from the shard, and leaves unsigned values out.

// What a point has besides time and value.
const (
	newSeries  = 1 << iota // name and tags, which are not those of the point before
	isNil                  // and no value
	aggregated             // how many points it was made of
	hasAux
	newShard // which is not that of the point before
)

// Kinds of an auxiliary value. A nil of a type is its kind with auxNil.
const (
	auxUnknown = iota
	auxFloat
	auxInteger
	auxUnsigned
	auxString
	auxTrue
	auxFalse
	auxNil = 16
)

var errMalformed = errors.New("malformed points")

// encoder writes points into chunks and sends these. A point is never cut.
type encoder struct {
	size int // bytes of a chunk, which one point may exceed
	send func(chunk []byte) error

	buf        []byte
	name, tags string
	time       int64
	shard      uint64
	begun      bool

	from sharded // nil when the points are sent without their shards
}

// encode sends all points of an iterator, with their shards when it knows them.
func (e *encoder) encode(itr query.Iterator) error {
	e.from, _ = itr.(sharded)
	switch itr := itr.(type) {
	case query.FloatIterator:
		return encodeAll(e, itr, func(p *query.FloatPoint) {
			if e.head(p.Name, p.Tags, p.Time, p.Aux, p.Aggregated, p.Nil) {
				e.buf = binary.LittleEndian.AppendUint64(e.buf, math.Float64bits(p.Value))
			}
		})
	case query.IntegerIterator:
		return encodeAll(e, itr, func(p *query.IntegerPoint) {
			if e.head(p.Name, p.Tags, p.Time, p.Aux, p.Aggregated, p.Nil) {
				e.buf = binary.AppendVarint(e.buf, p.Value)
			}
		})
	case query.UnsignedIterator:
		return encodeAll(e, itr, func(p *query.UnsignedPoint) {
			if e.head(p.Name, p.Tags, p.Time, p.Aux, p.Aggregated, p.Nil) {
				e.buf = binary.AppendUvarint(e.buf, p.Value)
			}
		})
	case query.StringIterator:
		return encodeAll(e, itr, func(p *query.StringPoint) {
			if e.head(p.Name, p.Tags, p.Time, p.Aux, p.Aggregated, p.Nil) {
				e.string(p.Value)
			}
		})
	case query.BooleanIterator:
		return encodeAll(e, itr, func(p *query.BooleanPoint) {
			if e.head(p.Name, p.Tags, p.Time, p.Aux, p.Aggregated, p.Nil) {
				b := byte(0)
				if p.Value {
					b = 1
				}
				e.buf = append(e.buf, b)
			}
		})
	}
	return fmt.Errorf("unknown iterator %T", itr)
}

func encodeAll[P any](e *encoder, itr points[P], one func(*P)) error {
	for {
		p, err := itr.Next()
		if err != nil {
			return err
		}
		if p == nil {
			return e.flush()
		}
		one(p)
		if len(e.buf) >= e.size {
			if err := e.flush(); err != nil {
				return err
			}
			e.buf = make([]byte, 0, e.size+e.size/8) // gRPC may keep what was sent
		}
	}
}

func (e *encoder) flush() error {
	if len(e.buf) == 0 {
		return nil
	}
	b := e.buf
	e.buf = nil
	return e.send(b)
}

// head writes all of a point but its value, and tells whether that follows.
func (e *encoder) head(name string, tags query.Tags, at int64, aux []any, n uint32, null bool) bool {
	flags := byte(0)
	if id := tags.ID(); !e.begun || name != e.name || id != e.tags {
		flags |= newSeries
		e.begun, e.name, e.tags = true, name, id
	}
	if null {
		flags |= isNil
	}
	if n != 0 {
		flags |= aggregated
	}
	if len(aux) > 0 {
		flags |= hasAux
	}
	if e.from != nil {
		if shard := e.from.shard(); shard != e.shard {
			flags |= newShard
			e.shard = shard
		}
	}
	e.buf = append(e.buf, flags)
	if flags&newShard != 0 {
		e.buf = binary.AppendUvarint(e.buf, e.shard)
	}
	if flags&newSeries != 0 {
		e.string(e.name)
		e.string(e.tags)
	}
	e.buf = binary.AppendVarint(e.buf, at-e.time)
	e.time = at
	if flags&aggregated != 0 {
		e.buf = binary.AppendUvarint(e.buf, uint64(n))
	}
	if flags&hasAux != 0 {
		e.buf = binary.AppendUvarint(e.buf, uint64(len(aux)))
		for _, v := range aux {
			e.aux(v)
		}
	}
	return !null
}

func (e *encoder) string(s string) {
	e.buf = binary.AppendUvarint(e.buf, uint64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) aux(v any) {
	switch v := v.(type) {
	case float64:
		e.buf = binary.LittleEndian.AppendUint64(append(e.buf, auxFloat), math.Float64bits(v))
	case int64:
		e.buf = binary.AppendVarint(append(e.buf, auxInteger), v)
	case uint64:
		e.buf = binary.AppendUvarint(append(e.buf, auxUnsigned), v)
	case string:
		e.buf = append(e.buf, auxString)
		e.string(v)
	case bool:
		if v {
			e.buf = append(e.buf, auxTrue)
		} else {
			e.buf = append(e.buf, auxFalse)
		}
	case *float64:
		e.buf = append(e.buf, auxNil+auxFloat)
	case *int64:
		e.buf = append(e.buf, auxNil+auxInteger)
	case *uint64:
		e.buf = append(e.buf, auxNil+auxUnsigned)
	case *string:
		e.buf = append(e.buf, auxNil+auxString)
	case *bool:
		e.buf = append(e.buf, auxNil+auxTrue)
	default:
		e.buf = append(e.buf, auxUnknown)
	}
}

// slab is how many points, or auxiliary values of points, are allocated at once.
const slab = 64

// decoder reads points from chunks. It trusts nothing that it reads.
type decoder struct {
	next func() ([]byte, error) // the next chunk, empty after the last one

	data []byte
	bad  bool // data was not what it should be

	// Of the point that is being read; shard, series and time are also those to which the next one refers.
	shard      uint64
	name       string
	tags       query.Tags
	time       int64
	aggregated uint32
	null       bool
	aux        []any

	auxSlab []any
}

// head reads all of the next point but its value; more is false at the end.
func (d *decoder) head() (more bool, err error) {
	if len(d.data) == 0 {
		if d.data, err = d.next(); err != nil || len(d.data) == 0 {
			return false, err
		}
	}
	flags := d.byte()
	if flags&newShard != 0 {
		d.shard = d.uvarint()
	}
	if flags&newSeries != 0 {
		d.name = d.string()
		d.tags = tagsOf(d.string())
	}
	d.time += d.varint()
	d.null = flags&isNil != 0
	d.aggregated = 0
	if flags&aggregated != 0 {
		d.aggregated = uint32(d.uvarint())
	}
	d.aux = nil
	if flags&hasAux != 0 {
		n := d.uvarint()
		if n > uint64(len(d.data)) { // each has a byte at least
			d.bad = true
			return false, errMalformed
		}
		if uint64(len(d.auxSlab)) < n {
			d.auxSlab = make([]any, max(n, slab))
		}
		d.aux, d.auxSlab = d.auxSlab[:n:n], d.auxSlab[n:]
		for i := range d.aux {
			d.aux[i] = d.auxValue()
		}
	}
	if d.bad {
		return false, errMalformed
	}
	return true, nil
}

// tagsOf is the inverse of query.Tags.ID: keys and then values, a zero byte between them.
func tagsOf(id string) query.Tags {
	parts := strings.Split(id, "\x00")
	n := len(parts) / 2
	m := make(map[string]string, n)
	for i := range n {
		m[parts[i]] = parts[i+n]
	}
	return query.NewTags(m)
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.bad = true
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) float() float64 {
	if len(d.data) < 8 {
		d.bad = true
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.data))
	d.data = d.data[8:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.bad = true
		return ""
	}
	s := string(d.data[:n])
	d.data = d.data[n:]
	return s
}

func (d *decoder) auxValue() any {
	switch d.byte() {
	case auxFloat:
		return d.float()
	case auxInteger:
		return d.varint()
	case auxUnsigned:
		return d.uvarint()
	case auxString:
		return d.string()
	case auxTrue:
		return true
	case auxFalse:
		return false
	case auxNil + auxFloat:
		return (*float64)(nil)
	case auxNil + auxInteger:
		return (*int64)(nil)
	case auxNil + auxUnsigned:
		return (*uint64)(nil)
	case auxNil + auxString:
		return (*string)(nil)
	case auxNil + auxTrue:
		return (*bool)(nil)
	}
	return nil
}

// decoded are the points of one type of a decoder. They are allocated slab by
// slab and never used again: whoever gets one may keep it.
type decoded[P any] struct {
	decoder
	fill func(d *decoder, p *P)
	slab []P
}

func (r *decoded[P]) Next() (*P, error) {
	more, err := r.head()
	if !more || err != nil {
		return nil, err
	}
	if len(r.slab) == 0 {
		r.slab = make([]P, slab)
	}
	p := &r.slab[0]
	r.slab = r.slab[1:]
	r.fill(&r.decoder, p)
	if r.bad {
		return nil, errMalformed
	}
	return p, nil
}

func fillFloat(d *decoder, p *query.FloatPoint) {
	*p = query.FloatPoint{Name: d.name, Tags: d.tags, Time: d.time, Aux: d.aux, Aggregated: d.aggregated, Nil: d.null}
	if !d.null {
		p.Value = d.float()
	}
}

func fillInteger(d *decoder, p *query.IntegerPoint) {
	*p = query.IntegerPoint{Name: d.name, Tags: d.tags, Time: d.time, Aux: d.aux, Aggregated: d.aggregated, Nil: d.null}
	if !d.null {
		p.Value = d.varint()
	}
}

func fillUnsigned(d *decoder, p *query.UnsignedPoint) {
	*p = query.UnsignedPoint{Name: d.name, Tags: d.tags, Time: d.time, Aux: d.aux, Aggregated: d.aggregated, Nil: d.null}
	if !d.null {
		p.Value = d.uvarint()
	}
}

func fillString(d *decoder, p *query.StringPoint) {
	*p = query.StringPoint{Name: d.name, Tags: d.tags, Time: d.time, Aux: d.aux, Aggregated: d.aggregated, Nil: d.null}
	if !d.null {
		p.Value = d.string()
	}
}

func fillBoolean(d *decoder, p *query.BooleanPoint) {
	*p = query.BooleanPoint{Name: d.name, Tags: d.tags, Time: d.time, Aux: d.aux, Aggregated: d.aggregated, Nil: d.null}
	if !d.null {
		p.Value = d.byte() != 0
	}
}
