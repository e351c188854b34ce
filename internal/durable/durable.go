// Package durable writes files that survive a crash and a power failure.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path in one step: after a crash it has its old contents or b, and never a part. The
// new contents are on disk when WriteFile returns.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	return Replace(path, path+".tmp", mode, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// Replace is WriteFile of what write writes to a file. That file is called tmp, in the same file system as path, until
// all of it is on disk. Replace closes it. After an error it is gone; after a crash it may be there, and the next
// Replace begins it anew.
func Replace(path, tmp string, mode os.FileMode, write func(*os.File) error) error {
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable: files that were made, renamed or removed in it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
