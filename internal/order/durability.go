package order

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// durability says whether writes wait until they are on disk. files.mu guards it.
type durability struct {
	durable    bool // they do
	allDurable bool // with durable: those that were noted before are on disk, too

	fsync func(*os.File) error // tests replace it
}

// SetDurable makes writes wait, in Sync, until they are noted on disk. When it returns without an error, this is true
// of all that was noted before.
func (f *files) SetDurable(on bool) error {
	f.mu.Lock()
	if f.durable = on; !on || f.closed {
		f.allDurable = false
	}
	due := on && !f.allDurable && !f.closed
	f.mu.Unlock()
	if !due {
		return nil
	}
	if err := f.syncAll(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.allDurable = f.durable
	return nil
}

// syncAll returns when all that was noted before is on disk.
func (f *files) syncAll() error {
	f.mu.Lock()
	generations := slices.Clone(f.inMemory)
	f.mu.Unlock()
	for _, g := range generations {
		f.mu.Lock()
		end := g.size
		f.mu.Unlock()
		if err := g.syncTo(end, &f.mu, f.fsync); err != nil {
			return err
		}
	}
	return nil
}

// Sync returns when what was noted of the write is on disk. It returns at once while the journal need not be durable.
func (w *Write) Sync() error {
	j := w.journal
	j.mu.Lock()
	due := j.durable && w.in != nil
	j.mu.Unlock()
	if !due {
		return nil
	}
	return w.in.syncTo(w.record, &j.mu, j.fsync)
}

// syncTo returns when the log of a generation is on disk up to end. mu guards its size.
func (g *generation) syncTo(end int64, mu *sync.Mutex, fsync func(*os.File) error) error {
	g.syncing.Lock()
	defer g.syncing.Unlock()
	if g.synced >= end {
		return nil
	}
	mu.Lock()
	end = g.size // with the records that other writes added meanwhile
	mu.Unlock()
	err := fsync(g.file)
	if errors.Is(err, os.ErrClosed) {
		return nil // it is in a sorted file, which is on disk, or it was forgotten
	} else if err != nil {
		return fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.synced = end
	return nil
}
