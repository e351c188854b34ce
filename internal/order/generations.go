package order

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// generations is the list of all generations of a journal, in memory and in sorted files. files.mu guards it.
// It has many methods because each step that reads or changes the list, from opening it to closing it, is a short one
// under this lock.
type generations struct {
	cfg      JournalConfig
	inMemory []*generation // the oldest first; the last one takes the writes
	sorted   []*sortedFile // the oldest first; older than those in memory; the slice is replaced and never changed
	sorts    int           // grows when a generation goes from memory to a file
	nextID   uint64        // of the next generation
}

// onDisk is what was found on disk when the journal was opened.
type onDisk struct {
	newest  Version // the greatest version of all
	damaged bool    // some of it is lost
	lostTo  Version // nothing that is lost has a greater version
}

// load opens the files of the folder.
func (l *generations) load() (found onDisk, err error) {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return found, err
	}
	for _, e := range entries {
		path := filepath.Join(l.cfg.Dir, e.Name())
		name, ext, _ := strings.Cut(e.Name(), ".")
		id, notNumber := strconv.ParseUint(name, 10, 64)
		switch {
		case strings.HasSuffix(e.Name(), ".tmp"):
			err = os.Remove(path)
		case notNumber != nil:
		case ext == sortedExt:
			err = l.loadSorted(id, path, &found)
		case ext == logExt:
			err = l.loadLog(id, path, &found)
		}
		if err != nil {
			return found, err
		}
		if notNumber == nil {
			l.nextID = max(l.nextID, id+1)
		}
	}
	slices.SortFunc(l.sorted, func(a, b *sortedFile) int { return cmp.Compare(a.id, b.id) })
	slices.SortFunc(l.inMemory, func(a, b *generation) int { return cmp.Compare(a.id, b.id) })
	return found, l.removeTwins()
}

func (l *generations) loadSorted(id uint64, path string, found *onDisk) error {
	f, err := openSorted(id, path)
	var broken *damagedError
	if errors.As(err, &broken) {
		return l.setAside(path, broken, found)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	l.sorted = append(l.sorted, f)
	found.newest = max(found.newest, f.newest)
	return nil
}

func (l *generations) loadLog(id uint64, path string, found *onDisk) error {
	g, err := readLog(id, path)
	var broken *damagedError
	switch {
	case errors.As(err, &broken):
		if err := l.setAside(path, broken, found); err != nil || g == nil {
			return err
		}
		if err := g.moveTo(path); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	l.inMemory = append(l.inMemory, g)
	found.newest = max(found.newest, g.newest)
	return nil
}

// setAside gives a damaged file another name. What it had behind the damage may be of any time before its last change.
func (l *generations) setAside(path string, why *damagedError, found *onDisk) error {
	found.damaged, found.lostTo = true, max(found.lostTo, why.newest)
	aside := path + ".damaged"
	l.cfg.Log.Warn("The journal of writes is damaged, and kept aside: late writes may undo newer ones of that time",
		zap.String("kept", aside), zap.Error(why))
	return os.Rename(path, aside)
}

// removeTwins removes each log of which there is a sorted file. A crash can leave both.
func (l *generations) removeTwins() (err error) {
	l.inMemory = slices.DeleteFunc(l.inMemory, func(g *generation) bool {
		twin := slices.ContainsFunc(l.sorted, func(f *sortedFile) bool { return f.id == g.id })
		if twin {
			err = errors.Join(err, g.remove())
		}
		return twin
	})
	return err
}

func (l *generations) current() *generation { return l.inMemory[len(l.inMemory)-1] }

// rotate begins a generation.
func (l *generations) rotate() error {
	g, err := newGeneration(l.nextID, l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("begin a file of the journal of writes: %w", err)
	}
	l.nextID++
	return l.append(g)
}

// append makes a generation the newest one.
func (l *generations) append(g *generation) error {
	if len(l.inMemory) > 0 {
		if err := l.current().finish(); err != nil {
			return errors.Join(err, g.remove())
		}
	}
	l.inMemory = append(l.inMemory, g)
	return nil
}

// add notes a write in the newest generation.
func (l *generations) add(w *Write) (err error) {
	if len(w.keys) == 0 {
		return nil
	}
	if l.current().keys >= l.cfg.MaxKeys {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	w.record, err = l.current().add(w.noted)
	if err == nil {
		w.in = l.current()
	}
	return err
}

// logWithdrawn writes to the logs which writes failed, where that was not possible before.
func (l *generations) logWithdrawn() error {
	var errs []error
	for _, g := range l.inMemory {
		errs = append(errs, g.logWithdrawn())
	}
	return errors.Join(errs...)
}

// toSort returns the oldest generation of those in memory that are too many, nil for none.
func (l *generations) toSort() *generation {
	return firstIdle(l.inMemory[:max(0, len(l.inMemory)-l.cfg.MaxMemory)])
}

// firstIdle returns the first generation into which no write is under way, nil for none.
func firstIdle(generations []*generation) *generation {
	i := slices.IndexFunc(generations, func(g *generation) bool { return g.underWay == 0 })
	if i < 0 {
		return nil
	}
	return generations[i]
}

// wasSorted replaces a generation in memory with the file that was made of it.
func (l *generations) wasSorted(g *generation, f *sortedFile) {
	l.without(g)
	l.sorted = append(slices.Clone(l.sorted), f)
	l.sorts++
}

// fewFiles is how many sorted files need not be merged.
const fewFiles = 8

// toMerge returns the newest sorted files that are to be one, nil for none.
func (l *generations) toMerge() []*sortedFile {
	if len(l.sorted) <= fewFiles {
		return nil
	}
	files := newestOfAKind(l.sorted, l.cfg.MaxDisk/8)
	if len(files) < 2 {
		return nil
	}
	return files
}

// newestOfAKind returns the newest files, each of which is no larger than all newer ones together, up to a size.
func newestOfAKind(files []*sortedFile, most int64) []*sortedFile {
	total := int64(0)
	for i, f := range slices.Backward(files) {
		if newest := i == len(files)-1; !newest && f.size() > total || total+f.size() > most {
			return files[i+1:]
		}
		total += f.size()
	}
	return files
}

// wereMerged replaces the newest n sorted files with the one that was made of them.
func (l *generations) wereMerged(n int, f *sortedFile) {
	l.sorted = append(slices.Clone(l.sorted[:len(l.sorted)-n]), f)
}

// without removes a generation from those in memory.
func (l *generations) without(g *generation) {
	l.inMemory = slices.DeleteFunc(l.inMemory, func(o *generation) bool { return o == g })
}

// removed is what is in the list no more. Its files are still there.
type removed struct {
	generations []*generation
	files       []*sortedFile
	newest      Version // with pastSize: the greatest in them
}

func (r *removed) any() bool { return len(r.generations)+len(r.files) > 0 }

// endsBelow reports whether a generation in memory may be forgotten, and has no version from floor on.
func (l *generations) endsBelow(g *generation, floor Version) bool {
	return g != l.current() && g.newest < floor && g.underWay == 0
}

// newestBelow returns the greatest version of what below would take out of the list.
func (l *generations) newestBelow(floor Version) (newest Version) {
	for _, g := range l.inMemory {
		if l.endsBelow(g, floor) {
			newest = max(newest, g.newest)
		}
	}
	for _, f := range l.sorted {
		if f.newest < floor {
			newest = max(newest, f.newest)
		}
	}
	return newest
}

// below takes out of the list what has no version from floor on.
func (l *generations) below(floor Version) (out removed) {
	kept := make([]*generation, 0, len(l.inMemory))
	for _, g := range l.inMemory {
		if l.endsBelow(g, floor) {
			out.generations = append(out.generations, g)
		} else {
			kept = append(kept, g)
		}
	}
	l.inMemory = kept
	var files []*sortedFile
	for _, f := range l.sorted {
		if f.newest >= floor {
			files = append(files, f)
			continue
		}
		out.files = append(out.files, f)
	}
	l.sorted = files
	return out
}

// pastSize takes the oldest writes out of the list while the files are larger than MaxDisk.
func (l *generations) pastSize() (out removed) {
	for l.diskBytes() > l.cfg.MaxDisk {
		if len(l.sorted) > 0 {
			out.files = append(out.files, l.sorted[0])
			out.newest = max(out.newest, l.sorted[0].newest)
			l.sorted = slices.Clone(l.sorted[1:])
		} else if g := firstIdle(l.inMemory[:len(l.inMemory)-1]); g != nil {
			out.generations = append(out.generations, g)
			out.newest = max(out.newest, g.newest)
			l.without(g)
		} else {
			break
		}
	}
	return out
}

// keys returns how many keys there are.
func (l *generations) keys() (n int64) {
	for _, g := range l.inMemory {
		n += int64(g.keys)
	}
	for _, f := range l.sorted {
		n += f.pairs
	}
	return n
}

// diskBytes returns the size of all files.
func (l *generations) diskBytes() (n int64) {
	for _, g := range l.inMemory {
		n += g.size
	}
	for _, f := range l.sorted {
		n += f.size()
	}
	return n
}

// close closes all files.
func (l *generations) close() error {
	var errs []error
	for _, g := range l.inMemory {
		errs = append(errs, g.close())
	}
	for _, f := range l.sorted {
		errs = append(errs, f.file.Close())
	}
	return errors.Join(errs...)
}
