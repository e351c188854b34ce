package order

// known is what the journal knows of a key.
type known struct {
	written  Version // the greatest with which the engine has it, 0 for none
	underWay Version // the greatest of the writes of it that have not ended
	failed   Version // the greatest of the failed writes of it, which the engine may have or not
	failedTo Version // other writes of it that failed have no greater version
	since    Version // the journal knows all writes above it since it was opened

	// Before it was opened: the greatest version of the logs, of those of which it is not known whether the engine has
	// them, and that up to which writes may be forgotten.
	loaded      Version
	interrupted Version
	forgotten   Version
}

// endedBefore reports whether the engine had taken the last write of the key for certain when the journal was opened.
func (k known) endedBefore() bool {
	return k.written == k.loaded && k.written > max(k.interrupted, k.forgotten, k.failedTo)
}

// version is the greatest with which the key was written, or is being written.
func (k known) version() Version { return max(k.written, k.underWay) }

func (j *Journal) known(key Key) (known, error) {
	j.reading.RLock()
	defer j.reading.RUnlock()
	k, files := j.knownInMemory(key)
	for _, f := range files { // writes do not wait for these reads
		if f.newest <= k.written {
			continue
		}
		v, err := f.version(key)
		if err != nil {
			return k, err
		}
		k.written = max(k.written, v)
	}
	return k, nil
}

// knownInMemory returns what is known without the sorted files, and these.
func (j *Journal) knownInMemory(key Key) (k known, files []*sortedFile) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k.since, k.forgotten = j.forgotten(), max(j.since, j.dropped)
	for _, w := range j.inFlight {
		if w.version > k.underWay && w.has(key) {
			k.underWay = w.version
		}
	}
	for _, g := range j.inMemory {
		k.written = max(k.written, g.version(key))
		k.failed = max(k.failed, g.failed.keys[key])
		k.failedTo = max(k.failedTo, g.failed.upTo)
		if g.loaded {
			k.loaded = max(k.loaded, g.version(key))
			k.interrupted = max(k.interrupted, g.interrupted.keys[key], g.interrupted.upTo)
		}
	}
	for _, f := range j.sorted {
		k.failed = max(k.failed, f.failed.keys[key])
		k.failedTo = max(k.failedTo, f.failed.upTo)
	}
	return k, j.sorted
}

// Version returns with which version a field was written lately, or is being written. It is 0 when that is not known.
func (j *Journal) Version(key Key) (Version, error) {
	k, err := j.known(key)
	return k.version(), err
}

// Written returns the greatest version with which the engine has a field, and the greatest of the writes of the field
// that are under way. They are 0 when there are none, or none is known.
func (j *Journal) Written(key Key) (written, underWay Version, err error) {
	k, err := j.known(key)
	return k.written, k.underWay, err
}

// Uncertain is the version of a field that is being written, or of which a write failed. The engine may have that
// value, or what it had before.
const Uncertain = ^Version(0)

// Point is what the journal knows of the value that the engine has of a field.
type Point struct {
	// Certain is the version of the value. It is Uncertain while that may be one or the other. It is 0 when a greater one
	// may have been forgotten, or a crash may have kept a write from the engine or from the journal.
	Certain Version
	// Since is a version above which the journal knows of all writes. A value whose version is not known is not newer.
	Since Version
	// Written is the greatest version with which the engine has the field, 0 when none is known.
	Written Version
	// Failed is, when Certain is Uncertain because of a write that failed, the version of that write. It is 0 while a
	// write is under way, and Uncertain when a file cannot be read.
	Failed Version
}

// At returns what the journal knows of a field.
func (j *Journal) At(key Key) Point {
	k, err := j.known(key)
	p := Point{Certain: k.written, Since: max(k.since, k.failedTo), Written: k.written}
	switch {
	case err != nil:
		return Point{Certain: Uncertain, Since: p.Since, Failed: Uncertain}
	case k.underWay > k.written:
		p.Certain = Uncertain
	case k.failed > k.written:
		p.Certain, p.Failed = Uncertain, k.failed
	case k.written <= p.Since && !k.endedBefore():
		p.Certain = 0
	}
	return p
}

// Wrote returns with which version a field was written since the journal was opened, or is being written: underWay is
// true then, and the engine may not have it yet. It is 0 when no such write is known. What was written before the
// journal was opened does not count: the disk of the engine may be another one. Uncertain is for a file that cannot be
// read.
func (j *Journal) Wrote(key Key) (v Version, underWay bool) {
	k, err := j.known(key)
	switch {
	case err != nil:
		return Uncertain, false
	case k.version() <= k.since:
		return 0, false
	}
	return k.version(), k.underWay > k.written
}

// Loaded returns the greatest version that the journal had when it was opened, 0 for none.
func (j *Journal) Loaded() Version { return j.loaded }

// Since returns a version below which the journal may have forgotten some that are above the floor.
func (j *Journal) Since() Version {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.since
}

// Forgot returns the greatest version that the journal may have forgotten or lost, also before it was opened.
func (j *Journal) Forgot() Version {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.since, j.dropped)
}

// Damaged reports whether some of what was on disk when the journal was opened is lost. A late write that came since
// may have undone a newer one.
func (j *Journal) Damaged() bool { return j.damaged }
