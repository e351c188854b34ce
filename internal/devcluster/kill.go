package devcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// KillData ends a data node as kill -9 does: its folders keep what it had handed to the operating system, and nothing
// of what its parts do when they are closed. StartData starts it again.
func (c *Cluster) KillData(i int) error {
	if was := c.Cut(i); !was { // what it does after the moment that its folders keep reaches no other node
		defer c.Heal(i)
	}
	dir := c.DataDir(i)
	kept := dir + ".killed"
	err := copyOfOneMoment(kept, dir)
	if err = errors.Join(err, c.StopData(i)); err != nil {
		return fmt.Errorf("kill data node %d: %w", i+1, err)
	}
	return errors.Join(os.RemoveAll(dir), os.Rename(kept, dir))
}

const (
	// fileTimes is how far apart two writes to a file are at least when the file system gives them different times.
	fileTimes = 20 * time.Millisecond
	// quietIn is how long a copy may wait for a moment in which nobody writes.
	quietIn = time.Minute
)

// copyOfOneMoment copies a folder. It begins anew when a file changed meanwhile.
func copyOfOneMoment(to, from string) error {
	for began := time.Now(); ; time.Sleep(fileTimes) {
		before, err := listFiles(from)
		if err == nil && before.changed(time.Now().Add(-fileTimes)) {
			err = errNotQuiet
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from)))
		}
		var after files
		if err == nil {
			after, err = listFiles(from)
		}
		switch {
		case err == nil && maps.Equal(before, after):
			return nil
		case err == nil:
			err = errNotQuiet
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotQuiet): // a file may be removed meanwhile
			return err
		}
		if time.Since(began) > quietIn {
			return fmt.Errorf("copy %s: %w", from, err)
		}
	}
}

var errNotQuiet = errors.New("its files change all the time")

// files are those of a folder by path, as far as they show that somebody wrote to them.
type files map[string]file

type file struct {
	size    int64
	written time.Time
}

func listFiles(dir string) (files, error) {
	out := files{}
	return out, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[path] = file{info.Size(), info.ModTime()}
		return nil
	})
}

// changed reports whether a file was written after a time.
func (f files) changed(after time.Time) bool {
	for _, file := range f {
		if file.written.After(after) {
			return true
		}
	}
	return false
}
