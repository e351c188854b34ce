package order

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"go.uber.org/zap"
)

// forget drops the generations and files whose versions are all below floor. tidying must be held.
func (j *Journal) forget(floor Version) error {
	j.mu.Lock()
	floor = j.leased(floor)
	var generations []*generation
	current := j.current()
	j.inMemory = slices.DeleteFunc(j.inMemory, func(g *generation) bool {
		if g == current || g.newest >= floor || g.underWay > 0 {
			return false
		}
		generations = append(generations, g)
		j.dropped = max(j.dropped, g.newest)
		return true
	})
	var files, kept []*sortedFile
	for _, f := range j.sorted {
		if f.newest >= floor {
			kept = append(kept, f)
			continue
		}
		files = append(files, f)
		j.dropped = max(j.dropped, f.newest)
	}
	j.sorted = kept
	if len(generations)+len(files) > 0 {
		j.full = false
	}
	j.mu.Unlock()
	return j.remove(generations, files, "")
}

// remove removes files of generations that are in the journal no more, except one.
func (j *Journal) remove(generations []*generation, files []*sortedFile, except string) error {
	var errs []error
	for _, g := range generations {
		errs = append(errs, g.remove())
	}
	if len(files) == 0 {
		return errors.Join(errs...)
	}
	j.reading.Lock()
	for _, f := range files {
		errs = append(errs, f.file.Close())
	}
	j.reading.Unlock()
	for _, f := range files {
		if f.path != except {
			errs = append(errs, os.Remove(f.path))
		}
	}
	return errors.Join(errs...)
}

// tidy keeps the generations in memory few, the sorted files few, and all files below MaxDisk. tidying must be held.
func (j *Journal) tidy() error {
	err := j.sortOld()
	if err == nil {
		err = j.mergeSome()
	}
	return errors.Join(err, j.giveUp())
}

// sortOld sorts the oldest generations until MaxMemory are left. One into which a write is under way waits.
func (j *Journal) sortOld() error {
	for {
		j.mu.Lock()
		g := firstIdle(j.inMemory[:max(0, len(j.inMemory)-j.cfg.MaxMemory)])
		j.mu.Unlock()
		if g == nil {
			return nil
		}
		if err := j.sort(g); err != nil {
			return fmt.Errorf("sort a file of the journal of writes: %w", err)
		}
	}
}

// firstIdle returns the first generation into which no write is under way, nil for none.
func firstIdle(generations []*generation) *generation {
	i := slices.IndexFunc(generations, func(g *generation) bool { return g.underWay == 0 })
	if i < 0 {
		return nil
	}
	return generations[i]
}

// without removes a generation from those in memory. mu must be held.
func (j *Journal) without(g *generation) {
	j.inMemory = slices.DeleteFunc(j.inMemory, func(o *generation) bool { return o == g })
}

// sort makes a generation in memory a sorted file. Nothing is added to it any more.
func (j *Journal) sort(g *generation) error {
	pairs := g.pairs()
	f, err := createSorted(j.cfg.Dir, g.id, g.newest, withoutError(pairs))
	if err != nil {
		return err
	}
	f.failed = g.failed
	j.mu.Lock()
	j.without(g)
	j.sorted = append(slices.Clone(j.sorted), f)
	j.sorts++
	j.mu.Unlock()
	return g.remove()
}

func withoutError(pairs []pair) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		for _, p := range pairs {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// fewFiles is how many sorted files need not be merged.
const fewFiles = 8

// mergeSome merges sorted files when they are many. Afterwards each is larger than all newer ones together, as far as
// files are not large. So a key is written again only a few times.
func (j *Journal) mergeSome() error {
	for {
		j.mu.Lock()
		many := len(j.sorted) > fewFiles
		files := newestOfAKind(j.sorted, j.cfg.MaxDisk/8)
		j.mu.Unlock()
		if !many || len(files) < 2 {
			return nil
		}
		if err := j.merge(files); err != nil {
			return fmt.Errorf("merge files of the journal of writes: %w", err)
		}
	}
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

// merge makes the newest files one. It gets the name of the newest, which it replaces in one step. After a crash the
// older ones may still be there: what they have is in the new one, too.
func (j *Journal) merge(files []*sortedFile) error {
	newest := Version(0)
	var failed failures
	for _, f := range files {
		newest = max(newest, f.newest)
		failed.addAll(f.failed)
	}
	f, err := createSorted(j.cfg.Dir, files[len(files)-1].id, newest, merged(files))
	if err != nil {
		return err
	}
	f.failed = failed
	j.mu.Lock()
	j.sorted = append(slices.Clone(j.sorted[:len(j.sorted)-len(files)]), f)
	j.mu.Unlock()
	return j.remove(nil, files, f.path)
}

// giveUp forgets the oldest writes while the files are larger than MaxDisk.
func (j *Journal) giveUp() error {
	j.mu.Lock()
	var generations []*generation
	var files []*sortedFile
	for j.diskBytes() > j.cfg.MaxDisk {
		if len(j.sorted) > 0 {
			files = append(files, j.sorted[0])
			j.since = max(j.since, j.sorted[0].newest+1)
			j.sorted = slices.Clone(j.sorted[1:])
		} else if g := firstIdle(j.inMemory[:len(j.inMemory)-1]); g != nil {
			generations = append(generations, g)
			j.since = max(j.since, g.newest+1)
			j.without(g)
		} else {
			break
		}
	}
	news := len(generations)+len(files) > 0 && !j.full
	j.full = j.full || news
	since := j.since
	j.mu.Unlock()
	if news {
		j.cfg.Log.Warn("The journal of writes is full: writes that are late by more may undo newer ones",
			zap.Time("begins", since.Time()), zap.Int64("max_bytes", j.cfg.MaxDisk))
	}
	return j.remove(generations, files, "")
}
