package order

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/zeebo/xxh3"
	"go.uber.org/zap"
)

// Key stands for one field of a point in a shard.
type Key uint64

// KeyOf returns the key of a field of the point of a series at a time, in nanoseconds.
func KeyOf(shard uint64, series []byte, field string, at int64) Key {
	return keyOf(xxh3.HashSeed(series, shard), []byte(field), at)
}

func keyOf(series uint64, field []byte, at int64) Key {
	h := xxh3.HashSeed(field, series) ^ uint64(at)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	if h == 0 {
		h = 1 // 0 is an empty slot
	}
	return Key(h)
}

// ErrBehind is for a write of which some points have greater versions.
var ErrBehind = errors.New("some of the points have newer values")

// JournalConfig is what a journal needs.
type JournalConfig struct {
	Dir       string
	MaxKeys   int     // of one generation; 0 is 1,000,000, which takes 32 MiB of memory at most
	MaxMemory int     // generations in memory, 0 is 3; older ones are in sorted files alone
	MaxDisk   int64   // bytes, 0 is 1 GiB; past it the oldest generation is forgotten
	Begins    Version // no write before it opens has a greater one
	Log       *zap.Logger
}

// Journal knows with which version each field of each point was written lately. It is a list of generations. All writes
// go into the newest, and one whose versions are all below the floor is dropped whole.
type Journal struct {
	cfg JournalConfig

	mu          sync.Mutex
	generations []*generation // the newest is last, and is not sorted
	nextID      uint64
	firstID     uint64 // of the generations that began since it was opened
	inFlight    map[Version]*Write
	durable     bool
	loaded      Version // the greatest of those that were on disk when it was opened
	since       Version // what is older may have been forgotten although it is above the floor
	dropped     Version // the greatest of those that were forgotten below the floor
	damaged     bool    // some of what was on disk when it was opened is lost
	superseded  int64
	failed      map[Version]struct{} // noted, and not or not all written
}

// Write is one that is being written.
type Write struct {
	journal *Journal
	version Version
	in      *generation // nil when nothing was noted
	end     int64       // of its record in the file
	done    chan struct{}
}

// rotateAfter is how long writes go into one generation.
const rotateAfter = 2 * time.Second

// OpenJournal opens the journal in a folder. What was torn off by a crash is cut; other damage is set aside.
func OpenJournal(cfg JournalConfig) (*Journal, error) {
	cfg.MaxKeys = cmp.Or(cfg.MaxKeys, 1_000_000)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, 3)
	cfg.MaxDisk = cmp.Or(cfg.MaxDisk, 1<<30)
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	j := &Journal{cfg: cfg, inFlight: make(map[Version]*Write), failed: make(map[Version]struct{}), nextID: 1}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ext, _ := strings.Cut(e.Name(), ".")
		id, err := strconv.ParseUint(name, 10, 64)
		path := filepath.Join(cfg.Dir, e.Name())
		switch {
		case ext == "tmp" || strings.HasSuffix(ext, ".tmp"):
			err = os.Remove(path)
		case err != nil:
			continue
		case ext == logExt || ext == sortedExt:
			err = j.load(id, path, ext == sortedExt)
			j.nextID = max(j.nextID, id+1)
		}
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
	}
	j.firstID = j.nextID
	for _, g := range j.generations {
		j.loaded = max(j.loaded, g.newest)
	}
	slices.SortStableFunc(j.generations, func(a, b *generation) int { return cmp.Compare(a.id, b.id) })
	if err := j.rotate(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// load opens the generation in a file. A damaged file is kept aside: what it had behind the damage may have been
// anything that was written until now.
func (j *Journal) load(id uint64, path string, sorted bool) error {
	read := readLog
	if sorted {
		read = openSorted
	}
	g, err := read(id, path)
	var damaged *damagedError
	switch {
	case errors.As(err, &damaged):
		j.since, j.damaged = max(j.since, damaged.newest), true
		aside := path + ".damaged"
		j.cfg.Log.Warn("The journal of writes is damaged, and kept aside: late writes may undo newer ones of that time",
			zap.String("kept", aside), zap.Error(err))
		if err := os.Rename(path, aside); err != nil || g == nil {
			return err
		}
		if err := g.moveTo(path); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	// A crash may leave the file that a generation was sorted from.
	if i := slices.IndexFunc(j.generations, func(o *generation) bool { return o.id == id }); i >= 0 {
		unsorted := g
		if !j.generations[i].sorted {
			unsorted, j.generations[i] = j.generations[i], g
		}
		return unsorted.remove()
	}
	j.generations = append(j.generations, g)
	return nil
}

// Begin notes a write of version v, of points of one shard, before they are written. The caller writes the points that
// it returns, and calls End. A point of which some fields have greater versions is returned without these, as another
// one. When late is false and any field has a greater version, nothing is noted, and the error is ErrBehind.
//
// A point that is being written with a smaller version is waited for: the engine keeps what is written last.
func (j *Journal) Begin(shard uint64, v Version, points []models.Point, late bool) ([]models.Point, *Write, error) {
	n := note(shard, v, points)
	w := &Write{journal: j, version: v, done: make(chan struct{})}
	j.mu.Lock()
	for same := j.inFlight[v]; same != nil; same = j.inFlight[v] { // it came twice
		j.mu.Unlock()
		<-same.done
		j.mu.Lock()
	}
	newer, before := j.look(n)
	if len(newer) > 0 {
		if !late {
			j.mu.Unlock()
			return nil, nil, ErrBehind
		}
		j.superseded += int64(len(newer))
		points, n.keys = without(points, n.keys, newer)
	}
	if err := j.add(w, n); err != nil {
		j.mu.Unlock()
		return nil, nil, err
	}
	j.inFlight[v] = w
	j.mu.Unlock()
	for _, b := range before {
		<-b.done
	}
	return points, w, nil
}

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

// fewWrites is with how many others of a generation a write is compared one by one, before a table of them is made.
const fewWrites = 32

// look returns which keys of a write have greater versions, and the writes under way of smaller ones. mu must be held.
func (j *Journal) look(n noted) (newer map[int]bool, before []*Write) {
	oldest := ^Version(0) // under way
	for f := range j.inFlight {
		oldest = min(oldest, f)
	}
	var own *table // keys of the write: version 1, or 2 when another write has it with a greater version
	found := false
	for _, g := range j.generations {
		if g.newest < n.version && g.newest < oldest {
			continue // nothing greater, and nothing under way
		}
		var others []noted
		for _, o := range g.writes {
			if !o.overlaps(n) || o.version == n.version || o.version < n.version && j.inFlight[o.version] == nil {
				continue
			}
			if others = append(others, o); len(others) > fewWrites {
				break
			}
		}
		if g.sorted || len(others) > fewWrites {
			for k, key := range n.keys {
				have := g.version(key)
				if have > n.version {
					if newer == nil {
						newer = make(map[int]bool)
					}
					newer[k] = true
				} else if f := j.inFlight[have]; f != nil && have < n.version && !slices.Contains(before, f) {
					before = append(before, f)
				}
			}
			continue
		}
		for _, o := range others {
			if own == nil {
				own = newTable(ownSlots(len(n.keys)))
				for _, key := range n.keys {
					own.put(key, 1)
				}
			}
			for _, key := range o.keys {
				s := own.slot(key)
				switch {
				case s.key == 0:
				case o.version > n.version:
					s.version, found = 2, true
				case !slices.Contains(before, j.inFlight[o.version]):
					before = append(before, j.inFlight[o.version])
				}
			}
		}
	}
	for k, key := range n.keys {
		if found && own.get(key) == 2 {
			if newer == nil {
				newer = make(map[int]bool)
			}
			newer[k] = true
		}
	}
	return newer, before
}

// ownSlots is a power of two for a table of n keys.
func ownSlots(n int) int { return 1 << bits.Len(uint(2*n)) }

// without returns points and keys without the fields that have greater versions.
func without(points []models.Point, keys []Key, newer map[int]bool) ([]models.Point, []Key) {
	var left []models.Point
	var leftKeys []Key
	at := 0
	for _, p := range points {
		from, lost := at, 0
		for f := p.FieldIterator(); f.Next(); at++ {
			if newer[at] {
				lost++
			}
		}
		switch {
		case lost == at-from:
			continue
		case lost > 0:
			fields, err := p.Fields()
			if err != nil {
				continue // no engine takes it
			}
			i := from
			for f := p.FieldIterator(); f.Next(); i++ {
				if newer[i] {
					delete(fields, string(f.FieldKey()))
				}
			}
			if p, err = models.NewPoint(string(p.Name()), p.Tags(), fields, p.Time()); err != nil {
				continue
			}
		}
		left = append(left, p)
		for i := from; i < at; i++ {
			if !newer[i] {
				leftKeys = append(leftKeys, keys[i])
			}
		}
	}
	return left, leftKeys
}

// add puts a write into the newest generation. mu must be held.
func (j *Journal) add(w *Write, n noted) (err error) {
	if len(n.keys) == 0 {
		return nil
	}
	if j.current().keys() >= j.cfg.MaxKeys {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	w.in = j.current()
	w.end, err = w.in.add(n)
	return err
}

func (j *Journal) current() *generation { return j.generations[len(j.generations)-1] }

// rotate begins a generation. mu must be held.
func (j *Journal) rotate() error {
	if j.durable {
		if err := j.current().sync(0); err != nil {
			return err
		}
	}
	g, err := newGeneration(j.nextID, j.cfg.Dir)
	if err != nil {
		return fmt.Errorf("begin a file of the journal of writes: %w", err)
	}
	if before := len(j.generations); before > 0 && j.generations[before-1].id >= j.firstID {
		if err := j.current().finish(); err != nil {
			return errors.Join(err, g.remove())
		}
	}
	j.nextID++
	j.generations = append(j.generations, g)
	inMemory, onDisk := 0, int64(0)
	for i := len(j.generations) - 1; i >= 0; i-- {
		g := j.generations[i]
		if !g.sorted {
			if inMemory++; inMemory > j.cfg.MaxMemory {
				if err := g.sort(); err != nil {
					return fmt.Errorf("sort a file of the journal of writes: %w", err)
				}
			}
		}
		if onDisk += g.size; onDisk > j.cfg.MaxDisk && i < len(j.generations)-1 {
			return j.giveUp(i + 1)
		}
	}
	return nil
}

// giveUp forgets the oldest n generations. mu must be held.
func (j *Journal) giveUp(n int) error {
	var errs []error
	for _, g := range j.generations[:n] {
		j.since = max(j.since, g.newest+1)
		errs = append(errs, g.remove())
	}
	j.generations = slices.Delete(j.generations, 0, n)
	j.cfg.Log.Warn("The journal of writes is full: writes that are late by more may undo newer ones",
		zap.Time("begins", j.since.Time()), zap.Int64("max_bytes", j.cfg.MaxDisk))
	return errors.Join(errs...)
}

// SetFloor forgets what is older than floor.
func (j *Journal) SetFloor(floor Version) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g := j.current(); g.keys() > 0 && time.Since(g.began) > rotateAfter {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	var errs []error
	j.generations = slices.DeleteFunc(j.generations, func(g *generation) bool {
		if g == j.current() || g.newest >= floor {
			return false
		}
		j.dropped = max(j.dropped, g.newest)
		maps.DeleteFunc(j.failed, func(v Version, _ struct{}) bool { return v < floor && v <= g.newest })
		errs = append(errs, g.remove())
		return true
	})
	return errors.Join(errs...)
}

// SetDurable makes writes wait, in Sync, until what is noted of them is on disk. When it returns this is true of all
// that was noted before.
func (j *Journal) SetDurable(on bool) error {
	j.mu.Lock()
	was := j.durable
	j.durable = on
	generations := slices.Clone(j.generations)
	j.mu.Unlock()
	if !on || was {
		return nil
	}
	for _, g := range generations {
		if err := g.sync(0); err != nil {
			return err
		}
	}
	return nil
}

// Version returns with which version a field was written lately, 0 when that is not known.
func (j *Journal) Version(key Key) Version {
	var newest Version
	var onDisk []sortedFile
	j.mu.Lock()
	for _, g := range j.generations {
		if g.sorted {
			onDisk = append(onDisk, g.sortedFile())
		} else {
			newest = max(newest, g.version(key))
		}
	}
	j.mu.Unlock()
	for _, f := range slices.Backward(onDisk) { // writes do not wait for reads
		if f.newest > newest {
			newest = max(newest, f.version(key))
		}
	}
	return newest
}

// Unsettled is the version of a field that is being written, or was not: the engine may have it, or what it had before.
const Unsettled = ^Version(0)

// Certain returns with which version a field was written, or Unsettled, and a version above which the journal knows all
// writes. The first is 0 when that is not known for certain: what was on disk when the journal was opened may be of
// writes that a crash kept from the engine, and may lack the last ones.
func (j *Journal) Certain(key Key) (v, since Version) {
	v = j.Version(key)
	j.mu.Lock()
	defer j.mu.Unlock()
	since = max(j.cfg.Begins, j.loaded, j.since, j.dropped)
	if _, failed := j.failed[v]; failed || j.inFlight[v] != nil {
		return Unsettled, since
	}
	if v <= max(j.cfg.Begins, j.loaded) {
		return 0, since
	}
	return v, since
}

// Wrote returns with which version a field was written since the journal was opened, or is being written; 0 for none.
// What is known of the time before says nothing of the engine, whose disk may be another one.
func (j *Journal) Wrote(key Key) Version {
	v := j.Version(key)
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, failed := j.failed[v]; failed || v <= max(j.cfg.Begins, j.loaded) {
		return 0
	}
	return v
}

// Loaded is the greatest version that the journal had when it was opened, 0 for none.
func (j *Journal) Loaded() Version { return j.loaded }

// Since is a version below which the journal may have forgotten some that are above the floor.
func (j *Journal) Since() Version {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.since
}

// Damaged reports whether some of what was on disk when the journal was opened is lost. A late write that came since
// may have undone a newer one.
func (j *Journal) Damaged() bool { return j.damaged }

// Statistics are those of the measurement order.
func (j *Journal) Statistics(tags map[string]string) []models.Statistic {
	j.mu.Lock()
	defer j.mu.Unlock()
	keys, size := 0, int64(0)
	for _, g := range j.generations {
		keys += g.keys()
		size += g.size
	}
	return []models.Statistic{{
		Name: "order", Tags: tags,
		Values: map[string]any{"keys": int64(keys), "diskBytes": size, "superseded": j.superseded},
	}}
}

// Close closes the files.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for i, g := range j.generations {
		if i == len(j.generations)-1 {
			errs = append(errs, g.finish())
		}
		errs = append(errs, g.close())
	}
	return errors.Join(errs...)
}

// End is called when the engine has the points, or when it did not take all of them.
func (w *Write) End(wrote bool) {
	w.journal.mu.Lock()
	delete(w.journal.inFlight, w.version)
	if wrote {
		delete(w.journal.failed, w.version)
	} else if w.in != nil {
		w.journal.failed[w.version] = struct{}{}
	}
	w.journal.mu.Unlock()
	close(w.done)
}

// Sync returns when what was noted of the write is on disk, or at once while the journal need not be durable.
func (w *Write) Sync() error {
	w.journal.mu.Lock()
	due := w.journal.durable && w.in != nil
	w.journal.mu.Unlock()
	if !due {
		return nil
	}
	return w.in.sync(w.end)
}
