package scrub

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"concord/internal/durable"
)

// Keep links a file into a folder. Where the folder is on another file system the file is copied.
func Keep(path, dir string) error { return unpaced().keep(context.Background(), path, dir, false) }

// Copy copies a file into a folder: one that is written to later.
func Copy(path, dir string) error {
	err := unpaced().copyFile(context.Background(), path, filepath.Join(dir, filepath.Base(path)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

func unpaced() *Aside {
	return &Aside{Wait: func(ctx context.Context, _ int) error { return ctx.Err() }}
}
