package entropy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// begunShards keeps a set of shards as empty files named by their IDs.
type begunShards struct {
	dir string

	mu  sync.Mutex
	ids map[uint64]bool // nil until it is read
}

// read is called with mu held.
func (b *begunShards) read() error {
	if b.ids != nil {
		return nil
	}
	if err := os.MkdirAll(b.dir, 0o750); err != nil {
		return err
	}
	names, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	b.ids = make(map[uint64]bool)
	for _, n := range names {
		if id, err := strconv.ParseUint(n.Name(), 10, 64); err == nil {
			b.ids[id] = true
		}
	}
	return nil
}

func (b *begunShards) has(id uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read() == nil && b.ids[id]
}

func (b *begunShards) add(id uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		return fmt.Errorf("note that shard %d begins: %w", id, err)
	}
	if b.ids[id] {
		return nil
	}
	f, err := os.OpenFile(b.path(id), os.O_CREATE|os.O_WRONLY, 0o640)
	if err == nil {
		err = errors.Join(f.Close(), b.sync())
	}
	if err != nil {
		return fmt.Errorf("note that shard %d begins: %w", id, err)
	}
	b.ids[id] = true
	return nil
}

func (b *begunShards) remove(id uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil || !b.ids[id] {
		return err
	}
	// Coming back after a crash does no harm: no fsync.
	if err := os.Remove(b.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(b.ids, id)
	return nil
}

func (b *begunShards) path(id uint64) string {
	return filepath.Join(b.dir, strconv.FormatUint(id, 10))
}

func (b *begunShards) sync() error {
	d, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
