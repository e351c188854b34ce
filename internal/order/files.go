package order

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// files keeps the generations of a journal few, and forgets the old ones. Package order says how.
type files struct {
	// tidying is held while generations are forgotten, sorted or merged. It comes before reading and mu.
	tidying sync.Mutex
	// reading is held for reading while sorted files are read, and for writing while some are closed. It comes before
	// mu.
	reading sync.RWMutex

	mu sync.Mutex
	generations
	horizon
	durability
	full   bool // it was logged that the journal is past its size
	closed bool
}

// rotateAfter is how long writes go into one generation while the floor follows.
const rotateAfter = 2 * time.Second

// fewGenerations is how many generations there are at most while the floor follows. When there are more, the floor is
// behind, and the newest one takes writes until it is full.
const fewGenerations = 3

// open reads the folder, and begins a generation.
func (f *files) open() (found onDisk, err error) {
	if err := os.MkdirAll(f.cfg.Dir, 0o750); err != nil {
		return found, err
	}
	found, err = f.load()
	if err == nil {
		err = f.loadForgot(found)
	}
	if err == nil {
		err = f.rotate()
	}
	if err != nil {
		return found, errors.Join(err, f.closeFiles())
	}
	f.loaded = found.newest
	return found, nil
}

// SetFloor forgets what is older than floor, and tidies up. Call it about once a second.
func (f *files) SetFloor(floor Version) error {
	f.tidying.Lock()
	defer f.tidying.Unlock()
	if f.isClosed() {
		return nil
	}
	f.mu.Lock()
	err := f.logWithdrawn()
	f.mu.Unlock()
	return errors.Join(err, f.rotateInTime(), f.forget(floor), f.tidy())
}

func (f *files) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// rotateInTime begins a generation when writes have gone into the last one for some time, and the floor follows.
func (f *files) rotateInTime() error {
	f.mu.Lock()
	id, last := f.nextID, f.current()
	due := last.keys > 0 && time.Since(last.began) > rotateAfter && len(f.inMemory)+len(f.sorted) < fewGenerations
	if due {
		f.nextID++
	}
	f.mu.Unlock()
	if !due {
		return nil
	}
	g, err := newGeneration(id, f.cfg.Dir) // writes do not wait for it
	if err != nil {
		return fmt.Errorf("begin a file of the journal of writes: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current() != last { // it was full meanwhile
		return g.remove()
	}
	return f.append(g)
}

// Close closes the files. What was noted is on disk, and is found again by OpenJournal.
func (f *files) Close() error {
	f.tidying.Lock()
	defer f.tidying.Unlock()
	f.mu.Lock()
	var err error
	if !f.closed {
		err = errors.Join(f.logWithdrawn(), f.current().finish())
	}
	f.closed = true
	f.mu.Unlock()
	return errors.Join(err, f.syncAll(), f.closeFiles())
}

func (f *files) closeFiles() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.generations.close()
}
