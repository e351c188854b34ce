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

// begunShards keeps a set of shards, each with a time, as files named by their IDs.
type begunShards struct {
	dir string

	mu  sync.Mutex
	ids map[uint64]int64 // nanoseconds; nil until it is read
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
	ids := make(map[uint64]int64)
	for _, n := range names {
		id, ok := noteID(n.Name())
		if !ok {
			continue
		}
		text, err := os.ReadFile(b.path(id))
		if err != nil {
			return err
		}
		// A torn time is one long ago. 0 would be none: the shard would count as whole.
		at, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil || at < 1 {
			at = 1
		}
		ids[id] = at
	}
	b.ids = ids
	return nil
}

// at is when a shard began, 0 when it is not in the set. When that cannot be
// read it is long ago: a copy that lacks points must not count as whole.
func (b *begunShards) at(id uint64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read() != nil {
		return 1
	}
	return b.ids[id]
}

func (b *begunShards) add(id uint64, at int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		return fmt.Errorf("note that shard %d begins: %w", id, err)
	}
	if b.ids[id] >= at {
		return nil
	}
	f, err := os.OpenFile(b.path(id), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err == nil {
		_, err = f.WriteString(strconv.FormatInt(at, 10))
		err = errors.Join(err, f.Sync(), f.Close(), b.sync())
	}
	if err != nil {
		return fmt.Errorf("note that shard %d begins: %w", id, err)
	}
	b.ids[id] = at
	return nil
}

func (b *begunShards) remove(id uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil || b.ids[id] == 0 {
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
