//go:build linux

package process

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// small mounts a disk of 4 MiB, or skips the test.
func small(t *testing.T) (*disk, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	d, err := newDisk(dir, 4<<20)
	if err != nil {
		t.Skip(err)
	}
	return d, dir
}

func TestFullDiskHasNoSpaceUntilItsEnd(t *testing.T) {
	t.Parallel()
	d, dir := small(t)
	defer d.unmount(false)
	data := make([]byte, 64<<10)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	const leave = 16 << 10
	var filling sync.WaitGroup
	filling.Add(1)
	go func() {
		defer filling.Done()
		if err := d.fill(leave, 5*time.Second); err != nil {
			t.Error(err)
		}
	}()
	full := func() bool { free, _, err := d.free(); return err == nil && free <= leave }
	if !Poll(10*time.Second, full) {
		t.Error("the disk is not filled")
	}
	if err := os.WriteFile(filepath.Join(dir, "more"), data, 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write to the full disk: %v", err)
	}
	os.Remove(filepath.Join(dir, "more"))
	os.Remove(file) // what is given back is taken, too
	if !Poll(10*time.Second, full) {
		t.Error("the disk is not filled again")
	}
	filling.Wait()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Errorf("write after it: %v", err)
	}
}

func TestDiskIsGoneAfterItsUnmount(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{true, false} {
		d, dir := small(t)
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := d.unmount(keep); err != nil {
			t.Fatal(err)
		}
		var fs, above syscall.Statfs_t
		if err := errors.Join(syscall.Statfs(dir, &fs), syscall.Statfs(filepath.Dir(dir), &above)); err != nil ||
			fs.Fsid != above.Fsid {
			t.Errorf("%s is mounted yet: %v", dir, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); (err == nil) != keep {
			t.Errorf("keep %v: %v", keep, err)
		}
	}
}
