package order

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"go.uber.org/zap"
)

// forget drops the generations and files whose versions are all below floor. tidying must be held.
func (f *files) forget(floor Version) error {
	f.mu.Lock()
	newest := f.newestBelow(f.leased(floor))
	f.dropped = max(f.dropped, newest)
	f.mu.Unlock()
	if err := f.storeForgot(); err != nil {
		return err
	}
	f.mu.Lock()
	old := f.below(newest + 1)
	if old.any() {
		f.full = false
	}
	f.mu.Unlock()
	return f.remove(old, "")
}

// remove removes files of generations that are in the journal no more, except one.
func (f *files) remove(old removed, except string) error {
	var errs []error
	for _, g := range old.generations {
		errs = append(errs, g.remove())
	}
	if len(old.files) == 0 {
		return errors.Join(errs...)
	}
	f.reading.Lock()
	for _, s := range old.files {
		errs = append(errs, s.file.Close())
	}
	f.reading.Unlock()
	for _, s := range old.files {
		if s.path != except {
			errs = append(errs, os.Remove(s.path))
		}
	}
	return errors.Join(errs...)
}

// tidy keeps the generations in memory few, the sorted files few, and all files below MaxDisk. tidying must be held.
func (f *files) tidy() error {
	err := f.sortOld()
	if err == nil {
		err = f.mergeSome()
	}
	return errors.Join(err, f.giveUp())
}

// sortOld sorts the oldest generations until MaxMemory are left. One into which a write is under way waits.
func (f *files) sortOld() error {
	for {
		f.mu.Lock()
		g := f.toSort()
		f.mu.Unlock()
		if g == nil {
			return nil
		}
		if err := f.sort(g); err != nil {
			return fmt.Errorf("sort a file of the journal of writes: %w", err)
		}
	}
}

// sort makes a generation in memory a sorted file. Nothing is added to it any more.
func (f *files) sort(g *generation) error {
	pairs := g.pairs()
	s, err := createSorted(f.cfg.Dir, g.id, g.newest, withoutError(pairs))
	if err != nil {
		return err
	}
	s.failed = g.failed
	f.mu.Lock()
	f.wasSorted(g, s)
	f.mu.Unlock()
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

// mergeSome merges sorted files when they are many. Afterwards each is larger than all newer ones together, as far as
// files are not large. So a key is written again only a few times.
func (f *files) mergeSome() error {
	for {
		f.mu.Lock()
		several := f.toMerge()
		f.mu.Unlock()
		if several == nil {
			return nil
		}
		if err := f.merge(several); err != nil {
			return fmt.Errorf("merge files of the journal of writes: %w", err)
		}
	}
}

// merge makes the newest files one. It gets the name of the newest, which it replaces in one step. After a crash the
// older ones may still be there: what they have is in the new one, too.
func (f *files) merge(several []*sortedFile) error {
	newest := Version(0)
	var failed failures
	for _, s := range several {
		newest = max(newest, s.newest)
		failed.addAll(s.failed)
	}
	one, err := createSorted(f.cfg.Dir, several[len(several)-1].id, newest, merged(several))
	if err != nil {
		return err
	}
	one.failed = failed
	f.mu.Lock()
	f.wereMerged(len(several), one)
	f.mu.Unlock()
	return f.remove(removed{files: several}, one.path)
}

// giveUp forgets the oldest writes while the files are larger than MaxDisk.
func (f *files) giveUp() error {
	f.mu.Lock()
	old := f.pastSize()
	if old.any() {
		f.since = max(f.since, old.newest+1)
	}
	news := old.any() && !f.full
	f.full = f.full || news
	since := f.since
	f.mu.Unlock()
	if news {
		f.cfg.Log.Warn("The journal of writes reached its limit, and forgot older writes: a write that arrives late "+
			"may undo a newer one",
			zap.Time("begins", since.Time()), zap.Int64("max_bytes", f.cfg.MaxDisk))
	}
	// What it holds is too much, also when nothing can be stored: SetFloor stores it later.
	return errors.Join(f.storeForgot(), f.remove(old, ""))
}
