// Package batch has the points of a write as one value. Their text is read once, into memory that is used again, and
// they are sent as one run of bytes.
//
// The engine and the journal go over the fields of a point some six times for each copy. A point of the engine's own
// package reads its text anew each time, and takes some 400 bytes of memory. The points of a batch are the engine's
// interface over numbers that are read already.
//
// What memory a batch lends, and for how long:
//
//   - The points, their fields and their texts are used again after the last Release. Keep makes a point that stays.
//   - Keys, names and tags of series and the names of fields are never used again: indexes of the engine may keep them.
package batch

import (
	"bytes"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/influxdata/influxdb/models"
)

// Batch is the points of a write. Of and Decode make one. Its users share it: each calls Retain before it gets the
// batch, and Release when it is done with it and with its points. It has many methods because reading each part of the
// encoded form is one.
type Batch struct {
	columns []Column
	series  []series
	rows    []point // in the order in which they came
	fields  []field // of all rows
	text    []byte  // of all values that are text

	views []models.Point // room for what Points returns
	lent  atomic.Bool    // rows and views are a caller's of Points
	tags  sync.Once      // those of the series are parsed
	users atomic.Int32

	encoding sync.Once
	encoded  []byte

	index // of Of
}

// Column is the name and type of a field of a measurement. A batch has each once, or a few times when it was decoded.
type Column struct {
	Measurement []byte // nil in a batch that was decoded
	Field       []byte
	Type        models.FieldType
}

// series is the part of a point that many points share.
type series struct {
	key         []byte // with the measurement, as line protocol escapes it
	name        []byte // of the measurement
	tags        models.Tags
	measurement int32 // in index.measurements
}

// field is one value. Numbers are in bits, and so are 0 and 1 for a boolean. Of a text it is where it begins.
type field struct {
	column uint32
	length uint32 // of a text
	bits   uint64
}

// index finds what a batch has already while points are added to it.
type index struct {
	slots        []int32 // open hash table: 1 + the place in series, 0 for an empty slot; the number is a power of two
	measurements []measurement
	byName       map[string]int32
	byColumn     map[columnKey]uint32
}

// measurement has where the fields of its last row are: the next row has the same ones, mostly.
type measurement struct {
	name     []byte
	first, n uint32
}

type columnKey struct {
	measurement int32
	typ         models.FieldType
	field       string
}

var pool = sync.Pool{New: func() any { return &Batch{} }}

// mostPooled is how many fields a batch may have that is kept for the next write. It is some 4 MB then.
const mostPooled = 1 << 17

func get() *Batch {
	b := pool.Get().(*Batch)
	b.users.Store(1)
	return b
}

// Retain makes the caller one more user.
func (b *Batch) Retain() { b.users.Add(1) }

// Release ends the use by one user. After the last one the points are those of another write.
func (b *Batch) Release() {
	if left := b.users.Add(-1); left > 0 {
		return
	} else if left < 0 {
		panic("batch: released too often")
	}
	if cap(b.fields) > mostPooled || cap(b.rows) > mostPooled || cap(b.text)+cap(b.encoded) > 32*mostPooled {
		return
	}
	clear(b.columns)
	clear(b.series)
	clear(b.rows) // a point that someone still has is of no batch from now on
	clear(b.views)
	clear(b.measurements)
	*b = Batch{
		columns: b.columns[:0], series: b.series[:0], rows: b.rows[:0], fields: b.fields[:0], text: b.text[:0],
		views: b.views[:0], encoded: b.encoded[:0],
		index: index{slots: b.slots[:0], measurements: b.measurements[:0], byName: b.byName, byColumn: b.byColumn},
	}
	clear(b.byName)
	clear(b.byColumn)
	pool.Put(b)
}

// Len is the number of points.
func (b *Batch) Len() int { return len(b.rows) }

// Values is the number of fields of all points.
func (b *Batch) Values() int { return len(b.fields) }

// Size is about how many bytes of memory the points take.
func (b *Batch) Size() int {
	return len(b.rows)*int(unsafe.Sizeof(point{})) + len(b.fields)*int(unsafe.Sizeof(field{})) + len(b.text) +
		len(b.Encoded())
}

// Encoded returns the batch as another node gets it, in memory that is used again after the last Release.
func (b *Batch) Encoded() []byte {
	b.encoding.Do(func() { b.encoded = b.Append(b.encoded[:0]) })
	return b.encoded
}

// Columns are the names and types of all fields.
func (b *Batch) Columns() []Column { return b.columns }

// HasField reports whether any point has a field of that name.
func (b *Batch) HasField(name []byte) bool {
	for _, c := range b.columns {
		if bytes.Equal(c.Field, name) {
			return true
		}
	}
	return false
}

// Points returns the points. The caller may put them into another order. Points of two calls may be used at the same
// time, but those of one call may not: each is also the iterator over its fields.
func (b *Batch) Points() []models.Point {
	b.tags.Do(b.parseTags)
	rows, views := b.rows, []models.Point(nil)
	first := b.lent.CompareAndSwap(false, true)
	if first {
		views = b.views[:0]
	} else {
		rows = make([]point, len(b.rows))
		for i := range rows {
			rows[i] = b.rows[i].anew()
		}
	}
	if cap(views) < len(rows) {
		views = make([]models.Point, 0, len(rows))
	}
	for i := range rows {
		views = append(views, &rows[i])
	}
	if first {
		b.views = views
	}
	return views
}

// parseTags parses the tags of all series, into one slice.
func (b *Batch) parseTags() {
	n := 0
	for _, s := range b.series {
		n += bytes.Count(s.key, []byte{','})
	}
	all := make(models.Tags, 0, n)
	for i := range b.series {
		s := &b.series[i]
		room := bytes.Count(s.key, []byte{','})
		_, s.tags = models.ParseKeyBytesWithTags(s.key, all[len(all):len(all):len(all)+room])
		all = all[:len(all)+room]
	}
}

// Of returns the batch of points, with the caller as its user. It is nil when a point is not as clients send them: a
// value that cannot be read, no time. The engine's own points then say what is wrong.
//
// The points must stay as they are until the last Release.
func Of(points []models.Point) *Batch {
	b := get()
	if !b.addAll(points) {
		b.Release()
		return nil
	}
	return b
}

func (b *Batch) addAll(points []models.Point) (ok bool) {
	defer func() {
		if recover() != nil { // the engine's iterator trusts the text of a point
			ok = false
		}
	}()
	b.begin(len(points))
	for _, p := range points {
		if !b.add(p) {
			return false
		}
	}
	return true
}

// begin makes room for n points.
func (b *Batch) begin(n int) {
	if size := 1 << bits.Len(uint(2*n)); cap(b.slots) < size {
		b.slots = make([]int32, size)
	} else {
		b.slots = b.slots[:size]
		clear(b.slots)
	}
	if cap(b.rows) < n {
		b.rows = make([]point, 0, n)
	}
	if b.byName == nil {
		b.byName, b.byColumn = make(map[string]int32), make(map[columnKey]uint32)
	}
}

func (b *Batch) add(p models.Point) bool {
	t := p.Time()
	if t.IsZero() || models.CheckTime(t) != nil {
		return false
	}
	s, ok := b.seriesOf(p)
	if !ok {
		return false
	}
	first, m := uint32(len(b.fields)), b.series[s].measurement
	last := b.measurements[m]
	for f := p.FieldIterator(); f.Next(); {
		guess := -1
		if at := uint32(len(b.fields)) - first; at < last.n {
			guess = int(b.fields[last.first+at].column)
		}
		v, ok := b.value(f)
		if !ok {
			return false
		}
		v.column = b.column(m, f.FieldKey(), f.Type(), guess)
		b.fields = append(b.fields, v)
	}
	n := uint32(len(b.fields)) - first
	b.measurements[m].first, b.measurements[m].n = first, n
	b.rows = append(b.rows, point{b: b, series: s, at: t.UnixNano(), first: first, n: n})
	return n > 0
}

// value reads the value of a field. It reports false for one that the engine would refuse.
func (b *Batch) value(f models.FieldIterator) (v field, ok bool) {
	if len(f.FieldKey()) == 0 {
		return v, false
	}
	switch f.Type() {
	case models.Float:
		x, err := f.FloatValue()
		v.bits = math.Float64bits(x)
		return v, err == nil && finite(v.bits)
	case models.Integer:
		x, err := f.IntegerValue()
		v.bits = uint64(x)
		return v, err == nil
	case models.Unsigned:
		x, err := f.UnsignedValue()
		v.bits = x
		return v, err == nil
	case models.Boolean:
		x, err := f.BooleanValue()
		if x {
			v.bits = 1
		}
		return v, err == nil
	case models.String:
		s := f.StringValue()
		v.bits, v.length = uint64(len(b.text)), uint32(len(s))
		b.text = append(b.text, s...)
		return v, true
	}
	return v, false
}

// finite reports whether the bits of a float are a number.
func finite(b uint64) bool { return b>>52&0x7ff != 0x7ff }

var seed = maphash.MakeSeed() // clients choose the keys

// seriesOf returns the place of the series of a point.
func (b *Batch) seriesOf(p models.Point) (at int32, ok bool) {
	key := p.Key()
	mask := uint64(len(b.slots) - 1)
	i := maphash.Bytes(seed, key) & mask
	for ; b.slots[i] != 0; i = (i + 1) & mask {
		if at := b.slots[i] - 1; bytes.Equal(b.series[at].key, key) {
			return at, true
		}
	}
	if len(key) > models.MaxKeyLength {
		return 0, false
	}
	name := nameOf(key)
	if len(name) == 0 {
		return 0, false
	}
	at = int32(len(b.series))
	b.slots[i] = at + 1
	m, known := b.byName[string(name)]
	if !known {
		m = int32(len(b.measurements))
		b.byName[string(name)] = m
		b.measurements = append(b.measurements, measurement{name: name})
	}
	b.series = append(b.series, series{key: key, name: name, measurement: m})
	return at, true
}

// column returns the place of a column. Guess is where it is, probably, or negative.
func (b *Batch) column(m int32, name []byte, typ models.FieldType, guess int) uint32 {
	if guess >= 0 {
		if c := &b.columns[guess]; c.Type == typ && bytes.Equal(c.Field, name) {
			return uint32(guess)
		}
	}
	at, known := b.byColumn[columnKey{m, typ, string(name)}]
	if !known {
		at = uint32(len(b.columns))
		b.byColumn[columnKey{m, typ, string(name)}] = at
		b.columns = append(b.columns, Column{b.measurements[m].name, bytes.Clone(name), typ})
	}
	return at
}
