package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"concord/internal/copystate"
	"concord/internal/durable"
)

// beginnings keeps how the copies of shards began. Each copy that is not copystate.FoundEqual has a file, named by the
// shard's ID, that holds its copystate.Beginning as a decimal number.
type beginnings struct {
	dir string

	mu      sync.Mutex
	byShard map[uint64]copystate.Beginning // nil until the folder is read
}

// mu must be held.
func (b *beginnings) read() error {
	if b.byShard != nil {
		return nil
	}
	if err := os.MkdirAll(b.dir, 0o750); err != nil {
		return err
	}
	names, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	byShard := make(map[uint64]copystate.Beginning)
	for _, n := range names {
		id, ok := noteID(n.Name())
		if !ok {
			continue
		}
		text, err := os.ReadFile(b.path(id))
		if err != nil {
			return err
		}
		at, err := strconv.ParseInt(string(text), 10, 64)
		began := copystate.Beginning(at)
		if err != nil || at < 1 { // torn: FoundEqual would make the copy count as whole
			began = copystate.LongAgo
		}
		byShard[id] = began
	}
	b.byShard = byShard
	return nil
}

// of is how the copy of a shard began. When the folder cannot be read it is LongAgo: a copy that lacks points must not
// count as whole.
func (b *beginnings) of(id uint64) copystate.Beginning {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read() != nil {
		return copystate.LongAgo
	}
	return b.byShard[id]
}

// note stores, durably, how a copy began. When there is a note already, the later beginning stays.
func (b *beginnings) note(id uint64, began copystate.Beginning) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		return fmt.Errorf("note how shard %d begins: %w", id, err)
	}
	if b.byShard[id] >= began {
		return nil
	}
	if err := durable.WriteFile(b.path(id), strconv.AppendInt(nil, int64(began), 10), 0o640); err != nil {
		return fmt.Errorf("note how shard %d begins: %w", id, err)
	}
	b.byShard[id] = began
	return nil
}

// forget removes the note: the copy is FoundEqual.
func (b *beginnings) forget(id uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil || b.byShard[id] == copystate.FoundEqual {
		return err
	}
	// Coming back after a crash does no harm: no fsync.
	if err := os.Remove(b.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(b.byShard, id)
	return nil
}

func (b *beginnings) path(id uint64) string {
	return filepath.Join(b.dir, strconv.FormatUint(id, 10))
}
