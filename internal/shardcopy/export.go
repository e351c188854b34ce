package shardcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	intar "github.com/influxdata/influxdb/pkg/tar"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"

	"concord/internal/snapshot"
)

const (
	tsmSuffix       = "." + tsm1.TSMFileExtension
	tombstoneSuffix = "." + tsm1.TombstoneFileExtension
	tarBuffer       = 1 << 20
)

// Range limits an export to blocks with points in it, both ends included; the zero value is all.
type Range struct{ Start, End int64 }

func (r Range) all() bool { return r.Start == 0 && r.End == 0 }

// Export writes a shard as a tar of its TSM files. The write cache is flushed
// first. The engine restores no tombstones, so deletes are carried out on the
// files that leave: a file with tombstones is compacted in the snapshot.
func Export(store *tsdb.Store, id uint64, in Range, w io.Writer) error {
	if store.Shard(id) == nil {
		return fmt.Errorf("shard %d: %w", id, tsdb.ErrShardNotFound)
	}
	base, err := store.ShardRelativePath(id)
	if err != nil {
		return err
	}
	dir, err := snapshot.Take(store, id)
	if err != nil {
		return fmt.Errorf("snapshot of shard %d: %w", id, err)
	}
	defer os.RemoveAll(dir)
	if err := applyTombstones(dir); err != nil {
		return fmt.Errorf("apply the tombstones of shard %d: %w", id, err)
	}
	err = intar.Stream(w, dir, base, tarBuffer, func(f os.FileInfo, rel, full string, tw *tar.Writer,
		size uint64) error {
		if !f.Mode().IsRegular() || !strings.HasSuffix(f.Name(), tsmSuffix) {
			return nil
		}
		kept, err := in.keep(full)
		if err != nil || kept == "" {
			return err
		}
		if kept == full {
			return intar.StreamFile(f, rel, full, tw, size)
		}
		defer os.Remove(kept)
		part, err := os.Stat(kept)
		if err != nil {
			return err
		}
		return intar.StreamRenameFile(part, f.Name(), rel, kept, tw, size)
	})
	if err != nil {
		return fmt.Errorf("export shard %d: %w", id, err)
	}
	return nil
}

// keep returns a file with the blocks of a TSM file that have points in the range: the file itself when all have,
// another one beside it when some have, and none when no block has.
func (r Range) keep(file string) (kept string, err error) {
	if r.all() {
		return file, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	from, err := tsm1.NewTSMReader(f)
	if err != nil {
		f.Close()
		return "", err
	}
	defer from.Close()
	switch first, last := from.TimeRange(); {
	case first >= r.Start && last <= r.End:
		return file, nil
	case first > r.End || last < r.Start:
		return "", nil
	}
	kept = file + ".part"
	n, err := r.copyBlocks(from, kept)
	if err != nil || n == 0 {
		return "", errors.Join(err, os.Remove(kept))
	}
	return kept, nil
}

// copyBlocks writes the blocks of a file that have points in the range to a new one, and returns how many these are. A
// file without any is no TSM file.
func (r Range) copyBlocks(from *tsm1.TSMReader, path string) (n int, err error) {
	out, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	w, err := tsm1.NewTSMWriter(out)
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	blocks := from.BlockIterator()
	for blocks.Next() {
		key, first, last, _, _, block, err := blocks.Read()
		if err != nil {
			return 0, err
		}
		if first > r.End || last < r.Start {
			continue
		}
		if err := w.WriteBlock(key, first, last, block); err != nil {
			return 0, err
		}
		n++
	}
	if err := blocks.Err(); err != nil || n == 0 {
		return 0, err
	}
	return n, w.WriteIndex()
}

// applyTombstones compacts each file of dir that has tombstones, by itself, so
// that the order of files stays.
func applyTombstones(dir string) error {
	tombs, err := filepath.Glob(filepath.Join(dir, "*"+tombstoneSuffix))
	if err != nil || len(tombs) == 0 {
		return err
	}
	fs := tsm1.NewFileStore(dir)
	if err := fs.Open(); err != nil {
		return err
	}
	defer fs.Close()
	c := tsm1.NewCompactor()
	c.Dir, c.FileStore = dir, fs
	c.Open()
	defer c.Close()
	for _, tomb := range tombs {
		old := strings.TrimSuffix(tomb, tombstoneSuffix) + tsmSuffix
		if _, err := os.Stat(old); errors.Is(err, os.ErrNotExist) {
			continue
		}
		made, err := c.CompactFull([]string{old}, zap.NewNop(), tsdb.DefaultMaxPointsPerBlock)
		if err != nil {
			return err
		}
		// Under the name of the old one: the next sequence number may be another file's.
		switch len(made) {
		case 0: // all of it was deleted
			err = os.Remove(old)
		case 1:
			err = os.Rename(made[0], old)
		default:
			err = fmt.Errorf("%s became %d files without what was deleted", filepath.Base(old), len(made))
		}
		if err = errors.Join(err, os.Remove(tomb)); err != nil {
			return err
		}
	}
	return nil
}
