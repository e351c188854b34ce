package order

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"time"
)

// generation is what was written within some seconds, or longer while the floor stands still. The writes are in memory,
// and each has a record in a log on disk. When there are too many generations in memory, the oldest one becomes a
// sortedFile.
//
// In a healthy cluster nearly every write has a greater version than those before it. Such a write is only appended.
// Another write is compared with the few that have greater versions. When these are many, a table of all keys is made.
// So it has fields for what is in memory, for the table, and for the log.
type generation struct {
	id    uint64
	path  string
	file  *os.File // the log
	began time.Time

	// Journal.mu guards these.
	newest    Version // of all that were noted
	size      int64   // of the log
	keys      int     // that were noted
	underWay  int     // writes that have not ended
	written   []writtenBefore
	full      bool   // no other write is added
	finished  bool   // the log ends with the mark of its end
	buf       []byte // of the last record
	table     *table // of the first tabled of written
	tabled    int
	failed    failures
	withdrawn []withdrawn // writes that failed, of which the log does not say so yet

	// loaded is set for a log that was there when the journal was opened. interrupted has the keys of its writes that had
	// not ended, or that failed: the engine may have the new value or the one before.
	loaded      bool
	interrupted failures

	syncing sync.Mutex
	synced  int64 // the log is on disk up to here; syncing guards it
}

// noted is what the journal knows of one write.
type noted struct {
	version     Version
	first, last int64 // times of its points, nanoseconds
	keys        []Key
}

// writtenBefore is a write that the engine has.
type writtenBefore struct {
	noted
	greatest Version // of it and of all before it in the generation
}

// overlaps reports whether two writes may have points in common.
func (n noted) overlaps(o noted) bool { return n.first <= o.last && o.first <= n.last }

const (
	fewWrites = 32  // a write is compared with so many others, one by one, before a table of all keys is made
	maxPassed = 256 // so many others are passed to find them
)

// end takes what became of a write that was noted in a record: the engine has some keys, and may have the lost ones or
// not.
func (g *generation) end(record int64, has noted, lost []Key) {
	g.underWay--
	if len(has.keys) > 0 {
		g.keep(has)
	}
	if len(lost) > 0 {
		g.failed.add(has.version, lost)
		g.withdraw(record, has)
	} else {
		// Without the mark, the write counts as one that a crash interrupted.
		_ = g.append(ended(has.version, record))
	}
	if g.full && g.underWay == 0 {
		_ = g.finish()
	}
}

// keep notes that the engine has a write.
func (g *generation) keep(n noted) {
	greatest := n.version
	if last := len(g.written) - 1; last >= 0 {
		greatest = max(greatest, g.written[last].greatest)
	}
	g.written = append(g.written, writtenBefore{n, greatest})
}

// newer adds to found the keys of a write that the engine has with greater versions.
func (g *generation) newer(w *Write, found map[Key]bool) {
	if g.newest <= w.version {
		return
	}
	others, few := g.after(w.noted)
	if !few {
		for _, key := range w.keys {
			if g.version(key) > w.version {
				found[key] = true
			}
		}
		return
	}
	for _, o := range others {
		for _, key := range o.keys {
			if w.has(key) {
				found[key] = true
			}
		}
	}
}

// after returns the writes that have greater versions than another one, and may have points in common with it. It
// reports false when they are not few.
func (g *generation) after(n noted) (others []noted, few bool) {
	for i := len(g.written) - 1; i >= 0 && g.written[i].greatest > n.version; i-- {
		if o := g.written[i].noted; o.version > n.version && o.overlaps(n) {
			others = append(others, o)
		}
		if len(others) > fewWrites || len(g.written)-i > maxPassed {
			return nil, false
		}
	}
	return others, true
}

// version returns the greatest version with which the engine has a key, 0 for none.
func (g *generation) version(key Key) Version {
	for ; g.tabled < len(g.written); g.tabled++ {
		for _, k := range g.written[g.tabled].keys {
			g.table.put(k, g.written[g.tabled].version)
		}
	}
	return g.table.get(key)
}

// pairs returns all keys that the engine has, with their greatest versions, in the order of keys. The generation must
// not change meanwhile.
func (g *generation) pairs() []pair {
	out := make([]pair, 0, g.keys)
	for _, w := range g.written {
		for _, k := range w.keys {
			out = append(out, pair{k, w.version})
		}
	}
	slices.SortFunc(out, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(b.version, a.version))
	})
	return slices.CompactFunc(out, func(a, b pair) bool { return a.key == b.key })
}

// failures are keys of writes that failed, or that the engine took in part. The engine may have these keys with these
// versions, or with those before.
type failures struct {
	keys map[Key]Version // the greatest version of each
	upTo Version         // of the greatest write whose keys are not listed, because they are too many
}

// maxFailures is how many keys of failed writes one generation lists.
const maxFailures = 50_000

func (f *failures) add(v Version, keys []Key) {
	if len(f.keys)+len(keys) > maxFailures {
		f.upTo = max(f.upTo, v)
		return
	}
	if f.keys == nil && len(keys) > 0 {
		f.keys = make(map[Key]Version)
	}
	for _, k := range keys {
		f.keys[k] = max(f.keys[k], v)
	}
}

// addAll adds those of another generation.
func (f *failures) addAll(o failures) {
	f.upTo = max(f.upTo, o.upTo)
	for k, v := range o.keys {
		f.add(v, []Key{k})
	}
}
