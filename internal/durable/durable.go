// Package durable writes files that survive a crash and a power failure.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
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

// SetAside renames a file that is not to be read any more, and is kept for whoever wants to look at it. The new name is
// path.suffix-1, or has a greater number when that is there. It is on disk when SetAside returns it. Without a file it
// is "".
func SetAside(path, suffix string) (aside string, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for n := 1; ; n++ {
		aside = fmt.Sprintf("%s.%s-%d", path, suffix, n)
		if _, err := os.Lstat(aside); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		return aside, errors.Join(os.Rename(path, aside), SyncDir(filepath.Dir(path)))
	}
}
