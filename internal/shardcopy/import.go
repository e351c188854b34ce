package shardcopy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/drops"
	"concord/internal/durable"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
)

// Import makes the TSM files of a tar, of any shard, those of a shard that is missing or empty. They are gathered
// first: until all are there, the shard is open as it was. When Import fails the shard stays: an owner may have got a
// write in it meanwhile.
func Import(ctx context.Context, store *drops.Store, database, policy string, id uint64, r io.Reader) error {
	if store.Shard(id) == nil {
		if err := store.CreateShard(database, policy, id, true); err != nil {
			return fmt.Errorf("create shard %d: %w", id, err)
		}
	}
	sh := store.Shard(id)
	if sh == nil {
		return tsdb.ErrShardNotFound // dropped meanwhile
	}
	if err := checkEmpty(sh); err != nil {
		return err
	}
	// The engine removes it when it opens the shard, should this process end now.
	dir, err := os.MkdirTemp(sh.Path(), "import-*."+tsm1.TmpTSMFileExtension)
	if err != nil {
		return fmt.Errorf("restore shard %d: %w", id, err)
	}
	defer os.RemoveAll(dir)
	if err := gather(ctx, r, dir); err != nil {
		return fmt.Errorf("restore shard %d: %w", id, err)
	}
	err = store.Alone(ctx, sh, func() error {
		if err := checkEmpty(sh); err != nil {
			return err
		}
		if err := store.CloseShard(sh); err != nil {
			return err
		}
		return openWith(sh, dir)
	})
	if err != nil {
		return fmt.Errorf("restore shard %d: %w", id, err)
	}
	return nil
}

// openWith opens a closed shard that is empty, with the files of a folder, or without them when that fails.
func openWith(sh *tsdb.Shard, dir string) error {
	installed, err := installFiles(dir, sh.Path())
	if err == nil {
		err = sh.Open()
	}
	if err == nil {
		return nil
	}
	for _, path := range append(installed, filepath.Join(sh.Path(), "index")) { // which may list their series
		err = errors.Join(err, os.RemoveAll(path))
	}
	if unopened := sh.Open(); unopened != nil {
		err = fmt.Errorf("%w; the shard is closed, restart this node: %w", err, unopened)
	}
	return err
}

func checkEmpty(sh *tsdb.Shard) error {
	if _, err := sh.Engine(); err != nil {
		return fmt.Errorf("shard %d: %w", sh.ID(), err) // it is closed, and would seem empty
	}
	if sh.SeriesN() > 0 {
		return fmt.Errorf("shard %d is not empty: nothing is overwritten", sh.ID())
	}
	return nil
}

// gather takes the TSM files of a tar to a folder, durably, and verifies their blocks: the checksum of a backup may be
// of a file that was damaged before. The folders in the tar do not count.
func gather(ctx context.Context, r io.Reader, dir string) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		name := path.Base(path.Clean("/" + filepath.ToSlash(h.Name)))
		switch {
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg:
			return fmt.Errorf("%q is neither a file nor a folder", h.Name)
		case !strings.HasSuffix(name, tsmSuffix):
			continue
		}
		if _, _, err := tsm1.DefaultParseFileName(name); err != nil {
			return fmt.Errorf("%q is not a valid name of a TSM file", h.Name)
		}
		if err := writeFile(filepath.Join(dir, name), tr); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // the padding, and the checksum behind it
		return err
	}
	if err := durable.SyncDir(dir); err != nil {
		return err
	}
	damage, err := scrub.Verify(ctx, dir, func(ctx context.Context, _ int) error { return ctx.Err() })
	if err == nil && len(damage) > 0 {
		err = damage[0]
	}
	return err
}

// writeFile makes a file of what r has, durably.
func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// installFiles moves gathered files to the folder of a closed shard that is empty. Files that are there have only
// points that were deleted. They stay, with their tombstones, and the gathered ones get the names of later ones.
func installFiles(from, to string) (installed []string, err error) {
	last, err := lastGeneration(to)
	if err != nil {
		return nil, err
	}
	// Without the index of fields, the engine makes the indexes of the files.
	if err := fieldindex.Remove(to); err != nil {
		return nil, err
	}
	gathered, err := tsmfile.Glob(from, "*"+tsmSuffix)
	if err != nil {
		return nil, err
	}
	for _, file := range gathered {
		generation, sequence, err := tsm1.DefaultParseFileName(filepath.Base(file))
		if err != nil {
			return installed, err
		}
		path := filepath.Join(to, tsm1.DefaultFormatFileName(last+generation, sequence)+tsmSuffix)
		if err := os.Rename(file, path); err != nil {
			return installed, err
		}
		installed = append(installed, path)
	}
	return installed, durable.SyncDir(to)
}

// lastGeneration is the highest generation of the TSM files in a folder; 0 without any.
func lastGeneration(dir string) (last int, err error) {
	files, err := tsmfile.Glob(dir, "*"+tsmSuffix)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		generation, _, err := tsm1.DefaultParseFileName(filepath.Base(file))
		if err != nil {
			return 0, err
		}
		last = max(last, generation)
	}
	return last, nil
}
