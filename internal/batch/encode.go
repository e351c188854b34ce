package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/influxdata/influxdb/models"
)

// docs/format/batch.md describes the form.
const (
	version  = 1
	MaxBytes = 8 << 20 // of a batch that is encoded

	sumSize = 4
)

// The types of fields, as they are encoded.
var codes = map[models.FieldType]byte{
	models.Float: 1, models.Integer: 2, models.Unsigned: 3, models.Boolean: 4, models.String: 5,
}

func typeOf(code byte) (models.FieldType, bool) {
	for t, c := range codes {
		if c == code {
			return t, true
		}
	}
	return models.Empty, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the encoded batch.
func (b *Batch) Append(to []byte) []byte {
	begin := len(to)
	to = append(to, version)
	to = binary.AppendUvarint(to, uint64(len(b.columns)))
	for _, c := range b.columns {
		to = appendBytes(append(to, codes[c.Type]), c.Field)
	}
	to = binary.AppendUvarint(to, uint64(len(b.series)))
	for _, s := range b.series {
		to = appendBytes(to, s.key)
	}
	to = binary.AppendUvarint(to, uint64(len(b.rows)))
	var last point
	for i := range b.rows {
		to = b.appendRow(to, &b.rows[i], &last)
		last = b.rows[i]
	}
	return seal(to, begin)
}

// seal appends the checksum of what begins at a place.
func seal(to []byte, begin int) []byte {
	return binary.LittleEndian.AppendUint32(to, crc32.Checksum(to[begin:], castagnoli))
}

// appendRow appends a point that comes after another one.
func (b *Batch) appendRow(to []byte, p, last *point) []byte {
	fields, before := b.fields[p.first:p.first+p.n], b.fields[last.first:last.first+last.n]
	same := slices.EqualFunc(fields, before, func(f, g field) bool { return f.column == g.column })
	head := uint64(p.series) << 1
	if same {
		head |= 1
	}
	to = binary.AppendUvarint(to, head)
	to = binary.AppendVarint(to, p.at-last.at)
	if !same {
		to = binary.AppendUvarint(to, uint64(len(fields)))
		for _, f := range fields {
			to = binary.AppendUvarint(to, uint64(f.column))
		}
	}
	for _, f := range fields {
		switch b.columns[f.column].Type {
		case models.Float:
			to = binary.LittleEndian.AppendUint64(to, f.bits)
		case models.Integer:
			to = binary.AppendVarint(to, int64(f.bits))
		case models.Unsigned:
			to = binary.AppendUvarint(to, f.bits)
		case models.Boolean:
			to = append(to, byte(f.bits))
		case models.String:
			to = appendBytes(to, b.text[f.bits:f.bits+uint64(f.length)])
		}
	}
	return to
}

func appendBytes(to, b []byte) []byte {
	return append(binary.AppendUvarint(to, uint64(len(b))), b...)
}

var errMalformed = errors.New("malformed batch of points")

// Decode returns the batch that was encoded, with the caller as its user. It keeps nothing of data.
func Decode(data []byte) (*Batch, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	if len(data) < 1+sumSize {
		return nil, errMalformed
	}
	if data[0] != version {
		return nil, fmt.Errorf("batch of points of version %d: this node knows version %d", data[0], version)
	}
	body, sum := data[:len(data)-sumSize], binary.LittleEndian.Uint32(data[len(data)-sumSize:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: the checksum is wrong", errMalformed)
	}
	b := get()
	if err := b.decode(&reader{b: body[1:]}); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

func (b *Batch) decode(r *reader) (err error) {
	defer func() {
		if p := recover(); p != nil { // the engine's reader of keys trusts its input
			err = fmt.Errorf("%w: %v", errMalformed, p)
		}
	}()
	b.readColumns(r)
	b.readSeries(r)
	n := r.count(minRow)
	b.rows = slices.Grow(b.rows, n)
	var last point
	for range n {
		if last = b.readRow(r, last); r.failed {
			break
		}
		b.rows = append(b.rows, last)
	}
	if r.failed || len(r.b) > 0 {
		return errMalformed
	}
	for _, s := range b.series {
		if len(s.key) > models.MaxKeyLength || len(s.name) == 0 {
			return fmt.Errorf("%w: a key of %d bytes", errMalformed, len(s.key))
		}
	}
	b.tags.Do(b.parseTags)
	return nil
}

func (b *Batch) readColumns(r *reader) {
	n := r.count(2)
	for range n {
		typ, ok := typeOf(r.byte())
		name := r.bytes()
		if r.failed = r.failed || !ok || len(name) == 0; r.failed {
			return
		}
		b.columns = append(b.columns, Column{Field: slices.Clone(name), Type: typ})
	}
}

// readSeries reads keys into memory of their own.
func (b *Batch) readSeries(r *reader) {
	n := r.count(1)
	all := *r // their bytes follow each other: one copy is enough
	size := 0
	for range n {
		size += len(r.bytes())
	}
	if r.failed {
		return
	}
	keys := make([]byte, 0, size)
	b.series = slices.Grow(b.series, n)
	for range n {
		at := len(keys)
		keys = append(keys, all.bytes()...)
		key := keys[at:len(keys):len(keys)]
		b.series = append(b.series, series{key: key, name: nameOf(key)})
	}
}

// minRow is the size of the smallest point: its head, its time and a value.
const minRow = 3

func (b *Batch) readRow(r *reader, last point) (p point) {
	head := r.uvarint()
	p = point{b: b, series: int32(head >> 1), at: last.at + r.varint(), first: uint32(len(b.fields))}
	if r.failed = r.failed || head>>1 >= uint64(len(b.series)) || !validTime(p.at); r.failed {
		return p
	}
	if head&1 != 0 {
		b.fields = append(b.fields, b.fields[last.first:last.first+last.n]...)
	} else {
		for range r.count(1) {
			column := r.uvarint()
			if r.failed = r.failed || column >= uint64(len(b.columns)); r.failed {
				return p
			}
			b.fields = append(b.fields, field{column: uint32(column)})
		}
	}
	p.n = uint32(len(b.fields)) - p.first
	r.failed = r.failed || p.n == 0
	for i := p.first; i < p.first+p.n && !r.failed; i++ {
		b.readValue(r, &b.fields[i])
	}
	return p
}

func (b *Batch) readValue(r *reader, f *field) {
	switch b.columns[f.column].Type {
	case models.Float:
		f.bits = r.uint64()
		r.failed = r.failed || !finite(f.bits)
	case models.Integer:
		f.bits = uint64(r.varint())
	case models.Unsigned:
		f.bits = r.uvarint()
	case models.Boolean:
		f.bits = uint64(r.byte())
		r.failed = r.failed || f.bits > 1
	case models.String:
		s := r.bytes()
		f.bits, f.length = uint64(len(b.text)), uint32(len(s))
		b.text = append(b.text, s...)
	}
}

func validTime(at int64) bool { return at >= models.MinNanoTime && at <= models.MaxNanoTime }

// reader reads what is encoded. After the first thing that is not there, it has failed and has nothing more.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() { r.b, r.failed = nil, true }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// count reads how many things follow, each of which takes least bytes at least.
func (r *reader) count(least int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/least) {
		r.fail()
		return 0
	}
	return int(n)
}
