package scan

import "runtime/debug"

// First returns the first point in [min, max] of the series-field of the last Seek; ok is false when there is none. It
// decodes no more blocks than it must.
func First[V Value](r *Reader, min, max int64) (t int64, v V, ok bool, err error) {
	m := mergerOf[V](r)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := m.reset(r, min, max); err != nil {
		return 0, v, false, err
	}
	times, values, err := m.next()
	if err != nil || len(times) == 0 {
		return 0, v, false, err
	}
	return times[0], values[0], true, nil
}

// Last returns the last point in [min, max] of the series-field of the last Seek; ok is false when there is none. It
// decodes no more blocks than it must.
func Last[V Value](r *Reader, min, max int64) (t int64, v V, ok bool, err error) {
	m := mergerOf[V](r)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := m.reset(r, min, max); err != nil {
		return 0, v, false, err
	}
	from := -1 // the stream of the point
	for {
		// The stream whose last block ends last, of several the newest.
		next, until := -1, int64(0)
		for i := range m.streams {
			if to, left := m.streams[i].tail(); left && (next < 0 || to >= until) {
				next, until = i, to
			}
		}
		if next < 0 || ok && until < t {
			return t, v, ok, nil
		}
		block, err := m.loadLast(&m.streams[next])
		if err != nil {
			return 0, v, false, err
		}
		n := len(block.times) - 1
		if n >= 0 && (!ok || block.times[n] > t || block.times[n] == t && next > from) {
			t, v, ok, from = block.times[n], block.values[n], true, next
		}
	}
}

// tail is a time that no point of the stream, that was not returned yet, is after; ok is false at its end.
func (s *stream[V]) tail() (t int64, ok bool) {
	switch {
	case len(s.entries) > 0:
		return s.entries[len(s.entries)-1].MaxTime, true
	case len(s.cached) > 0:
		return s.cached[len(s.cached)-1].UnixNano(), true
	}
	return 0, false
}

// loadLast decodes the last block of a stream and takes it out of the stream. It may have no points.
func (m *merger[V]) loadLast(s *stream[V]) (run[V], error) {
	if s.file == nil {
		s.cached = s.cached[len(s.cached)-1:]
		err := m.take(s)
		return s.run, err
	}
	n := len(s.entries) - 1
	s.done = n
	err := m.load(s)
	s.entries = s.entries[:n]
	return s.run, err
}
