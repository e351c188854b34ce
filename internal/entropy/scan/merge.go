package scan

import (
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"slices"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/pace"
	"concord/internal/entropy/tsmfile"
)

// Value is what a field has, by its type.
type Value interface {
	float64 | int64 | uint64 | bool | string
}

// codec is what the engine has for one type.
type codec[V Value] struct {
	block  byte
	decode func(b []byte, times []int64, values []V) ([]int64, []V, error)
	value  func(tsm1.Value) (V, bool)
}

// blockOf is the engine's number of a type.
func blockOf[V Value]() byte {
	var v V
	switch any(v).(type) {
	case float64:
		return tsm1.BlockFloat64
	case int64:
		return tsm1.BlockInteger
	case uint64:
		return tsm1.BlockUnsigned
	case bool:
		return tsm1.BlockBoolean
	}
	return tsm1.BlockString
}

func codecOf[V Value]() codec[V] {
	var c any
	switch blockOf[V]() {
	case tsm1.BlockFloat64:
		c = floats()
	case tsm1.BlockInteger:
		c = integers()
	case tsm1.BlockUnsigned:
		c = unsigneds()
	case tsm1.BlockBoolean:
		c = booleans()
	case tsm1.BlockString:
		c = texts()
	}
	return c.(codec[V])
}

// The codecs of the five types. They are written out: the engine's arrays have no type in common.

func floats() codec[float64] {
	var a tsdb.FloatArray
	return codec[float64]{tsm1.BlockFloat64, func(b []byte, times []int64, values []float64) ([]int64, []float64, error) {
		a.Timestamps, a.Values = times, values
		err := tsm1.DecodeFloatArrayBlock(b, &a)
		return a.Timestamps, a.Values, err
	}, func(v tsm1.Value) (x float64, ok bool) {
		if v, is := v.(tsm1.FloatValue); is {
			x, ok = v.Value().(float64)
		}
		return x, ok
	}}
}

func integers() codec[int64] {
	var a tsdb.IntegerArray
	return codec[int64]{tsm1.BlockInteger, func(b []byte, times []int64, values []int64) ([]int64, []int64, error) {
		a.Timestamps, a.Values = times, values
		err := tsm1.DecodeIntegerArrayBlock(b, &a)
		return a.Timestamps, a.Values, err
	}, func(v tsm1.Value) (x int64, ok bool) {
		if v, is := v.(tsm1.IntegerValue); is {
			x, ok = v.Value().(int64)
		}
		return x, ok
	}}
}

func unsigneds() codec[uint64] {
	var a tsdb.UnsignedArray
	return codec[uint64]{tsm1.BlockUnsigned, func(b []byte, times []int64, values []uint64) ([]int64, []uint64, error) {
		a.Timestamps, a.Values = times, values
		err := tsm1.DecodeUnsignedArrayBlock(b, &a)
		return a.Timestamps, a.Values, err
	}, func(v tsm1.Value) (x uint64, ok bool) {
		if v, is := v.(tsm1.UnsignedValue); is {
			x, ok = v.Value().(uint64)
		}
		return x, ok
	}}
}

func booleans() codec[bool] {
	var a tsdb.BooleanArray
	return codec[bool]{tsm1.BlockBoolean, func(b []byte, times []int64, values []bool) ([]int64, []bool, error) {
		a.Timestamps, a.Values = times, values
		err := tsm1.DecodeBooleanArrayBlock(b, &a)
		return a.Timestamps, a.Values, err
	}, func(v tsm1.Value) (x bool, ok bool) {
		if v, is := v.(tsm1.BooleanValue); is {
			x, ok = v.Value().(bool)
		}
		return x, ok
	}}
}

func texts() codec[string] {
	var a tsdb.StringArray
	return codec[string]{tsm1.BlockString, func(b []byte, times []int64, values []string) ([]int64, []string, error) {
		a.Timestamps, a.Values = times, values
		err := tsm1.DecodeStringArrayBlock(b, &a)
		return a.Timestamps, a.Values, err
	}, func(v tsm1.Value) (x string, ok bool) {
		if v, is := v.(tsm1.StringValue); is {
			x, ok = v.Value().(string)
		}
		return x, ok
	}}
}

// Each calls fn with the points in [min, max] of the series-field of the last Seek, ascending by time, each time
// once. fn must not keep the slices. A block that is damaged is a *tsmfile.Damage; what fn got before that is right.
//
// Only one block of each file is decoded at a time.
func Each[V Value](r *Reader, min, max int64, fn func(times []int64, values []V) error) error {
	m := mergerOf[V](r)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := m.reset(r, min, max); err != nil {
		return err
	}
	work := pace.Begin(r.ctx)
	for {
		times, values, err := m.next()
		if err != nil {
			return err
		}
		if len(times) == 0 {
			return work.Rest()
		}
		if err := work.Rest(); err != nil {
			return err
		}
		if err := fn(times, values); err != nil {
			return err
		}
	}
}

// mergerOf returns the reader's merger of one type, with its buffers.
func mergerOf[V Value](r *Reader) *merger[V] {
	kind := blockOf[V]()
	m, ok := r.mergers[kind].(*merger[V])
	if !ok {
		m = &merger[V]{codec: codecOf[V]()}
		r.mergers[kind] = m
	}
	return m
}

// merger merges the streams of one series-field.
type merger[V Value] struct {
	codec[V]
	reader   *Reader
	key      []byte
	min, max int64

	streams []stream[V] // oldest first: of two points of one time, the one of the later stream wins
	out     [2]run[V]   // merged so far, in turns
}

// run is points ascending by time.
type run[V Value] struct {
	times  []int64
	values []V
}

func (r run[V]) first() int64 { return r.times[0] }
func (r run[V]) last() int64  { return r.times[len(r.times)-1] }

// upTo is the points until t.
func (r run[V]) upTo(t int64) run[V] {
	n := len(r.times)
	if n > 0 && r.times[n-1] > t {
		n, _ = slices.BinarySearch(r.times, t+1)
	}
	return run[V]{r.times[:n], r.values[:n]}
}

// stream is points ascending by time: of a file, or of the write cache.
type stream[V Value] struct {
	file    *file
	tombs   []tsm1.TimeRange
	entries []tsm1.IndexEntry // of its blocks
	done    int               // of them are decoded
	cached  tsm1.Values       // that are still to be taken
	run[V]                    // of the last block, what was not returned yet
	buf     run[V]            // of its decoded block
}

// reset begins with the series-field of the last Seek.
func (m *merger[V]) reset(r *Reader, min, max int64) (err error) {
	m.reader, m.key, m.min, m.max = r, r.key, min, max
	used := m.streams[:0]
	add := func() *stream[V] {
		used = slices.Grow(used, 1)[:len(used)+1] // with the buffers of before
		s := &used[len(used)-1]
		*s = stream[V]{buf: s.buf, entries: s.entries[:0]}
		return s
	}
	defer r.damaged(&err)
	for _, f := range r.having {
		r.at = f
		var s *stream[V]
		tombs := f.TombstoneRange(m.key)
		for _, e := range f.index() {
			if e.MaxTime < min || e.MinTime > max || covered(tombs, e.MinTime, e.MaxTime) {
				continue
			}
			// The blocks of a file do not overlap; if they should, the later ones are a stream of their own.
			if s == nil || len(s.entries) > 0 && s.entries[len(s.entries)-1].MaxTime >= e.MinTime {
				s = add()
				s.file, s.tombs = f, tombs
			}
			s.entries = append(s.entries, e)
		}
	}
	if len(r.cached) > 0 {
		s := add()
		s.cached = r.cached
		n, _ := slices.BinarySearchFunc(s.cached, min, compareTime)
		s.cached = s.cached[n:]
		if n, found := slices.BinarySearchFunc(s.cached, max, compareTime); found {
			s.cached = s.cached[:n+1]
		} else {
			s.cached = s.cached[:n]
		}
	}
	m.streams = used
	return nil
}

func compareTime(v tsm1.Value, t int64) int {
	switch u := v.UnixNano(); {
	case u < t:
		return -1
	case u > t:
		return 1
	}
	return 0
}

// head is a time that no point of the stream is before; ok is false at its end.
func (s *stream[V]) head() (t int64, ok bool) {
	switch {
	case len(s.times) > 0:
		return s.first(), true
	case s.done < len(s.entries):
		return s.entries[s.done].MinTime, true
	case len(s.cached) > 0:
		return s.cached[0].UnixNano(), true
	}
	return 0, false
}

// next returns the points that follow, none at the end. They are valid until the next call.
func (m *merger[V]) next() (times []int64, values []V, err error) {
again:
	// The stream that goes on first has points up to limit, the end of its block. No other
	// one has more of them than in its own next block, when that begins until then.
	var first *stream[V]
	var from int64
	for i := range m.streams {
		if t, ok := m.streams[i].head(); ok && (first == nil || t < from) {
			first, from = &m.streams[i], t
		}
	}
	if first == nil {
		return nil, nil, nil
	}
	if len(first.times) == 0 {
		if err := m.load(first); err != nil {
			return nil, nil, err
		}
		goto again
	}
	limit, alone := first.last(), true
	for i := range m.streams {
		s := &m.streams[i]
		if t, ok := s.head(); s == first || !ok || t > limit {
			continue
		}
		if len(s.times) == 0 {
			if err := m.load(s); err != nil {
				return nil, nil, err
			}
			goto again
		}
		limit, alone = min(limit, s.last()), false
	}
	if alone {
		r := first.run
		first.run = run[V]{}
		return r.times, r.values, nil
	}
	times, values = m.upTo(limit)
	return times, values, nil
}

// upTo takes the points until limit from all streams.
func (m *merger[V]) upTo(limit int64) ([]int64, []V) {
	var merged run[V]
	out := 0
	for i := range m.streams {
		s := &m.streams[i]
		part := s.upTo(limit)
		s.run = run[V]{s.times[len(part.times):], s.values[len(part.times):]}
		switch {
		case len(merged.times) == 0:
			merged = part
		case len(part.times) > 0:
			m.out[out].merge(merged, part)
			merged = m.out[out]
			out = 1 - out
		}
	}
	return merged.times, merged.values
}

// merge makes r the union of two others; of two points of one time it takes the one of newer.
func (r *run[V]) merge(older, newer run[V]) {
	t, v := r.times[:0], r.values[:0]
	i, j := 0, 0
	for i < len(older.times) && j < len(newer.times) {
		a, b := older.times[i], newer.times[j]
		if a < b {
			t, v = append(t, a), append(v, older.values[i])
			i++
			continue
		}
		if a == b {
			i++
		}
		t, v = append(t, b), append(v, newer.values[j])
		j++
	}
	t, v = append(t, older.times[i:]...), append(v, older.values[i:]...)
	r.times, r.values = append(t, newer.times[j:]...), append(v, newer.values[j:]...)
}

// load decodes the next block of a stream; that may have no points.
func (m *merger[V]) load(s *stream[V]) error {
	if s.file == nil {
		return m.take(s)
	}
	e := &s.entries[s.done]
	s.done++
	if err := m.read(s, e); err != nil {
		return err
	}
	b := s.buf
	for _, t := range s.tombs {
		if t.Max >= e.MinTime && t.Min <= e.MaxTime {
			b = b.without(t.Min, t.Max)
		}
	}
	if e.MinTime < m.min {
		n, _ := slices.BinarySearch(b.times, m.min)
		b = run[V]{b.times[n:], b.values[n:]}
	}
	s.run = b.upTo(m.max)
	return nil
}

// without takes points out, in place.
func (r run[V]) without(min, max int64) run[V] {
	from, _ := slices.BinarySearch(r.times, min)
	to := from + len(run[V]{r.times[from:], r.values[from:]}.upTo(max).times)
	return run[V]{slices.Delete(r.times, from, to), slices.Delete(r.values, from, to)}
}

// read decodes a block into the buffers of a stream.
func (m *merger[V]) read(s *stream[V], e *tsm1.IndexEntry) (err error) {
	defer func() {
		if p := recover(); p != nil { // the engine trusts what it decodes
			err = m.damaged(s, e, fmt.Sprint(p))
		}
	}()
	sum, b, err := s.file.ReadBytes(e, nil)
	switch {
	case err != nil:
		return m.damaged(s, e, err.Error())
	case crc32.ChecksumIEEE(b) != sum:
		return m.damaged(s, e, "its checksum is wrong")
	case len(b) == 0:
		return m.damaged(s, e, "it is empty")
	case b[0] != m.block:
		return fmt.Errorf("%s: the block of %q at byte %d has values of type %d, and the field has type %d",
			s.file.name, m.key, e.Offset, b[0], m.block)
	}
	m.reader.blocks[m.block]++
	s.buf.times, s.buf.values, err = m.decode(b, s.buf.times, s.buf.values)
	if err != nil {
		return m.damaged(s, e, err.Error())
	}
	if len(s.buf.times) != len(s.buf.values) {
		return m.damaged(s, e, fmt.Sprintf("%d times of %d values", len(s.buf.times), len(s.buf.values)))
	}
	return nil
}

func (m *merger[V]) damaged(s *stream[V], e *tsm1.IndexEntry, reason string) error {
	return &tsmfile.Damage{File: s.file.name, Offset: e.Offset, Key: string(m.key), Reason: reason}
}

// take makes the next points of the write cache the next block of its stream.
func (m *merger[V]) take(s *stream[V]) error {
	b := &s.buf
	b.times, b.values = b.times[:0], b.values[:0]
	n := min(len(s.cached), tsdb.DefaultMaxPointsPerBlock)
	for _, v := range s.cached[:n] {
		x, ok := m.value(v)
		if !ok {
			return errors.New("the write cache has values of another type than the field")
		}
		b.times, b.values = append(b.times, v.UnixNano()), append(b.values, x)
	}
	s.cached = s.cached[n:]
	s.run = *b
	return nil
}
