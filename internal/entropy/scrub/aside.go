package scrub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/compactions"
	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
)

// Aside sets damaged files of one shard aside.
type Aside struct {
	Shard *tsdb.Shard
	Dir   string // in which a folder is made for the damaged files
	// Wait is called before each read with its size.
	Wait func(context.Context, int) error
	// Hold keeps deletes back while a file is replaced, or fails when one came since the work began: its tombstones
	// would go with the old file.
	Hold func() (release func(), err error)
	// HoldWrites keeps writes to the shard back until release; nil for none.
	HoldWrites func() (release func())

	link func(from, to string) error // os.Link when nil
}

// Run replaces each damaged file by one with its good blocks, without what was deleted from
// them, and keeps the damaged one in a new folder. It returns that
// folder, and what was damaged; nothing is changed when nothing is.
//
// A file can be damaged in its tombstones alone: the engine still knows what they say, and
// the new file needs none.
func (a *Aside) Run(ctx context.Context) (kept string, found []*tsmfile.Damage, err error) {
	engine, err := tsmfile.EngineOf(a.Shard)
	if err != nil {
		return "", nil, err
	}
	if found, err = Verify(ctx, a.Shard.Path(), a.Wait); err != nil || len(found) == 0 {
		return "", found, err
	}
	kept = filepath.Join(a.Dir, fmt.Sprintf("%d-%s", a.Shard.ID(),
		time.Now().UTC().Format("20060102T150405.000000000Z")))
	if err := os.MkdirAll(kept, 0o750); err != nil {
		return "", found, err
	}
	done := make(map[string]bool)
	for _, d := range found {
		name := strings.TrimSuffix(d.File, filepath.Ext(d.File))
		if done[name] {
			continue
		}
		if filepath.Ext(d.File) == badExt {
			err = a.keep(ctx, filepath.Join(a.Shard.Path(), d.File), kept, true)
		} else {
			err = a.replace(ctx, engine, filepath.Join(a.Shard.Path(), name), kept)
		}
		if err != nil {
			if len(done) == 0 { // nothing was changed, and the next attempt makes a folder of its own
				err = errors.Join(err, os.RemoveAll(kept))
			}
			return kept, found, fmt.Errorf("set %s aside: %w", d.File, err)
		}
		done[name] = true
	}
	return kept, found, durable.SyncDir(a.Dir)
}

// keep links a file into a folder, or moves it there. Where the folder is on another file system the file is copied.
func (a *Aside) keep(ctx context.Context, path, dir string, move bool) error {
	link := a.link
	if link == nil {
		link = os.Link
	}
	to := filepath.Join(dir, filepath.Base(path))
	err := link(path, to)
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		err = a.copyFile(ctx, path, to) // another file system, or one without links
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := durable.SyncDir(dir); err != nil || !move {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// copyFile copies a file as it is. What the disk cannot read of it is zeroes in the copy.
func (a *Aside) copyFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	err = a.copyBytes(ctx, in, out)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// copyStep is what is copied at once; it is also how much a sector that cannot be read takes with it at most.
const copyStep = 64 << 10

func (a *Aside) copyBytes(ctx context.Context, in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, copyStep)
	for at := int64(0); at < info.Size(); {
		b := buf[:min(copyStep, info.Size()-at)]
		if err := a.Wait(ctx, len(b)); err != nil {
			return err
		}
		if n, err := in.ReadAt(b, at); err != nil {
			clear(b[n:])
		}
		if _, err := out.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

// writeGood writes the good blocks of a file to another one beside it. It returns no file when there are none.
func (a *Aside) writeGood(ctx context.Context, engine *tsm1.Engine, tsm string) (files []string, err error) {
	r, err := engine.FileStore.TSMReader(tsm)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errors.New("the engine does not have it")
	}
	defer r.Unref()
	generation, sequence, err := engine.FileStore.ParseFileName(tsm)
	if err != nil {
		return nil, err
	}
	var to string
	for taken := true; taken; {
		sequence++
		to = filepath.Join(filepath.Dir(tsm), tsm1.DefaultFormatFileName(generation, sequence)+tsmExt)
		_, err := os.Stat(to)
		taken = !errors.Is(err, fs.ErrNotExist)
	}
	to += "." + tsm1.TmpTSMFileExtension
	blocks, err := copyGood(ctx, tsm, to, r, a.Wait)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(to))
	}
	if blocks == 0 {
		return nil, nil
	}
	return []string{to}, nil
}

// replace puts a file with the good blocks in the place of the one at path, which has no extension.
func (a *Aside) replace(ctx context.Context, engine *tsm1.Engine, path, kept string) error {
	// A compaction would write damaged blocks with a new checksum. It is kept away for one file and no
	// longer: others wait for it.
	release := func() {}
	if a.HoldWrites != nil {
		release = a.HoldWrites() // an empty cache is freed now, and a write that meets that would be lost
	}
	compact, err := compactions.Hold(a.Shard)
	release()
	if err != nil {
		return err
	}
	defer compact()
	tsm := path + tsmExt
	if err := a.keep(ctx, tsm, kept, false); errors.Is(err, fs.ErrNotExist) {
		return nil // compacted or dropped meanwhile; the mark of the damage stays until the copy equals another
	} else if err != nil {
		return err
	}
	if err := a.keep(ctx, path+tombstoneExt, kept, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := a.writeGood(ctx, engine, tsm)
	if err != nil {
		return err
	}
	release, err = a.Hold()
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		return err
	}
	defer release()
	return engine.FileStore.Replace([]string{tsm}, files)
}

// copyGood writes the good blocks of a file to another, and returns how many there are; with none there is no file.
// deleted tells what tombstones take out of them.
func copyGood(
	ctx context.Context, from, to string, deleted *tsm1.TSMReader, wait func(context.Context, int) error,
) (blocks int, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	if err != nil {
		return 0, err
	}
	w, err := tsm1.NewTSMWriter(out)
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	var buf []byte
	_, err = eachBlock(in, func(b block) error {
		if err := wait(ctx, int(b.Size)); err != nil {
			return err
		}
		var d *tsmfile.Damage
		if buf, d, err = readBlock(in, b, buf); err != nil || d != nil {
			return err
		}
		n, err := writeLeft(w, b, buf[checksumSize:], deleted)
		blocks += n
		return err
	})
	if err == nil && blocks > 0 {
		err = w.WriteIndex()
	}
	if err == nil && blocks > 0 {
		err = w.Flush() // syncs
	}
	if err = errors.Join(err, w.Close()); err == nil && blocks == 0 {
		err = os.Remove(to)
	}
	return blocks, err
}

// writeLeft writes what tombstones leave of a block, and returns how many blocks that is.
func writeLeft(w tsm1.TSMWriter, b block, data []byte, deleted *tsm1.TSMReader) (int, error) {
	if !contains(deleted, b.key) {
		return 0, nil
	}
	var ranges []tsm1.TimeRange
	for _, r := range deleted.TombstoneRange(b.key) {
		if r.Min <= b.MaxTime && r.Max >= b.MinTime {
			ranges = append(ranges, r)
		}
	}
	if len(ranges) == 0 {
		return 1, w.WriteBlock(b.key, b.MinTime, b.MaxTime, data)
	}
	values, err := tsm1.DecodeBlock(data, nil)
	if err != nil {
		return 0, err
	}
	left := tsm1.Values(values)
	for _, r := range ranges {
		left = left.Exclude(r.Min, r.Max)
	}
	if len(left) == 0 {
		return 0, nil
	}
	return 1, w.Write(b.key, left)
}

// contains tells whether the engine still has a key. The index that it asks may be the damaged part: then it does.
func contains(r *tsm1.TSMReader, key []byte) (has bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the file may have become shorter
	defer func() {
		if recover() != nil {
			has = true
		}
	}()
	return r.Contains(key)
}
