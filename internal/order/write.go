package order

import (
	"errors"
	"math"
	"math/bits"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/zeebo/xxh3"
)

// ErrBehind is for a write of which some points have greater versions.
var ErrBehind = errors.New("some of the points have newer values")

// Write is one that is being written to the engine. Done or Failed ends it.
type Write struct {
	noted
	journal *Journal
	shard   uint64
	own     *table        // has the keys, when it was asked for
	in      *generation   // nil when nothing was noted
	record  int64         // where its record ends in the log of in
	done    chan struct{} // closed when it has ended
}

// Begin notes a write of version v, of points of one shard, before they are written. The caller writes the points that
// it returns, and then calls Done or Failed. A point of which some fields have greater versions is returned as another
// one, without these fields. When late is false and any field has a greater version, nothing is noted, and the error is
// ErrBehind.
//
// The engine keeps what is written last. So Begin waits for writes of smaller versions of the same points that are
// under way. It waits for those of greater versions, too: only when they have ended it is known whether the engine has
// them.
func (j *Journal) Begin(shard uint64, v Version, points []models.Point, late bool) ([]models.Point, *Write, error) {
	w := &Write{noted: note(shard, v, points), journal: j, shard: shard, done: make(chan struct{})}
	for {
		left, begun, first, err := j.begin(w, points, late)
		if err != nil {
			return nil, nil, err
		}
		for _, o := range first {
			<-o.done
		}
		if begun {
			return left, w, nil
		}
	}
}

// note lists the keys of points.
func note(shard uint64, v Version, points []models.Point) noted {
	n := noted{version: v, first: math.MaxInt64, last: math.MinInt64}
	for i, p := range points {
		if i == 1 { // the others have as many fields, mostly
			n.keys = slices.Grow(n.keys, len(n.keys)*(len(points)-1))
		}
		series, at := xxh3.HashSeed(p.Key(), shard), p.UnixNano()
		n.first, n.last = min(n.first, at), max(n.last, at)
		for f := p.FieldIterator(); f.Next(); {
			n.keys = append(n.keys, keyOf(series, f.FieldKey(), at))
		}
	}
	return n
}

// begin attempts to begin a write. The caller waits for the writes in first. When begun is false it tries again then.
func (j *Journal) begin(w *Write, points []models.Point, late bool) (
	left []models.Point, begun bool, first []*Write, err error,
) {
	newer := make(map[Key]bool)
	sorts, err := j.newerOnDisk(w, newer)
	if err != nil {
		return nil, false, nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sorts != sorts { // what was in memory may be in a file that was not looked into
		return nil, false, nil, nil
	}
	if same := j.inFlight[w.version]; same != nil { // it came twice
		return nil, false, []*Write{same}, nil
	}
	for _, g := range j.inMemory {
		g.newer(w, newer)
	}
	smaller, greater := j.underWay(w, newer)
	switch {
	case !late && len(newer)+len(greater) > 0:
		return nil, false, nil, ErrBehind
	case len(greater) > 0:
		return nil, false, greater, nil
	case len(newer) > 0:
		all := len(w.keys)
		points, w.keys = without(points, w.keys, newer)
		w.own = nil
		j.superseded += int64(all - len(w.keys))
	}
	if err := j.add(w); err != nil {
		return nil, false, nil, err
	}
	j.wrote(w.version)
	j.inFlight[w.version] = w
	return points, true, smaller, nil
}

// newerOnDisk adds to found the keys of a write that sorted files have with greater versions. It returns how many
// generations were sorted by then.
func (j *Journal) newerOnDisk(w *Write, found map[Key]bool) (sorts int, err error) {
	j.reading.RLock()
	defer j.reading.RUnlock()
	j.mu.Lock()
	files, sorts := j.sorted, j.sorts
	j.mu.Unlock()
	files = slices.DeleteFunc(slices.Clone(files), func(f *sortedFile) bool { return f.newest <= w.version })
	if len(files) == 0 {
		return sorts, nil
	}
	keys := slices.Clone(w.keys)
	slices.Sort(keys)
	for _, f := range files {
		in := f.lookups()
		for _, key := range keys {
			if found[key] {
				continue
			}
			v, err := in.version(key)
			if err != nil {
				return 0, err
			}
			if v > w.version {
				found[key] = true
			}
		}
	}
	return sorts, nil
}

// underWay returns the other writes that are under way and have keys of a write: those of smaller versions, and those
// of greater versions that have a key which is not known to be newer anyway. mu must be held.
func (j *Journal) underWay(w *Write, newer map[Key]bool) (smaller, greater []*Write) {
	for _, o := range j.inFlight {
		if o.shard != w.shard || !o.overlaps(w.noted) {
			continue
		}
		is := o.version > w.version
		if !slices.ContainsFunc(o.keys, func(k Key) bool { return w.has(k) && !(is && newer[k]) }) {
			continue
		}
		if is {
			greater = append(greater, o)
		} else {
			smaller = append(smaller, o)
		}
	}
	return smaller, greater
}

// has reports whether a key is one of the write. Journal.mu must be held when others may have the write.
func (w *Write) has(key Key) bool {
	if w.own == nil {
		w.own = newTable(1 << bits.Len(uint(2*len(w.keys))))
		for _, k := range w.keys {
			w.own.put(k, 1)
		}
	}
	return w.own.get(key) != 0
}

// without returns points and their keys without the fields that have greater versions.
func without(points []models.Point, keys []Key, newer map[Key]bool) (left []models.Point, leftKeys []Key) {
	for _, p := range points {
		n := 0
		for f := p.FieldIterator(); f.Next(); n++ {
		}
		own := keys[:n]
		keys = keys[n:]
		lost := 0
		for _, k := range own {
			if newer[k] {
				lost++
			}
		}
		if lost > 0 {
			if p = withoutFields(p, own, newer); p == nil {
				continue
			}
		}
		left = append(left, p)
		for _, k := range own {
			if !newer[k] {
				leftKeys = append(leftKeys, k)
			}
		}
	}
	return left, leftKeys
}

// withoutFields returns a point without the fields that have greater versions, nil when none is left.
func withoutFields(p models.Point, keys []Key, newer map[Key]bool) models.Point {
	fields, err := p.Fields()
	if err != nil {
		return nil // no engine takes it
	}
	i := 0
	for f := p.FieldIterator(); f.Next(); i++ {
		if newer[keys[i]] {
			delete(fields, string(f.FieldKey()))
		}
	}
	if len(fields) == 0 {
		return nil
	}
	left, err := models.NewPoint(string(p.Name()), p.Tags(), fields, p.Time())
	if err != nil {
		return nil
	}
	return left
}

// Done ends a write. The engine has all of the points.
func (w *Write) Done() { w.end(w.noted, nil) }

// Failed ends a write of which the engine has only the points in has for certain. What it has of the others is not
// known.
func (w *Write) Failed(has []models.Point) {
	written := &Write{noted: note(w.shard, w.version, has)}
	w.end(written.noted, slices.DeleteFunc(slices.Clone(w.keys), written.has))
}

func (w *Write) end(has noted, lost []Key) {
	j := w.journal
	j.mu.Lock()
	delete(j.inFlight, w.version)
	if w.in != nil {
		w.in.end(w.record, has, lost)
	}
	waiting := len(j.inMemory) - j.cfg.MaxMemory // generations that are to be sorted
	j.mu.Unlock()
	close(w.done)
	// The error comes again from SetFloor, which tries again. Only when sorting lags behind a write waits for it.
	if waiting > 2 {
		j.tidying.Lock()
	} else if waiting <= 0 || !j.tidying.TryLock() {
		return
	}
	defer j.tidying.Unlock()
	if !j.isClosed() {
		j.tidy()
	}
}
