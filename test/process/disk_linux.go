package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a small file system of a node's own, in memory. A process stands by
// that unmounts it when this one closes the pipe to it, or ends in any other way, as on a timeout.
type disk struct {
	dir     string
	standby *exec.Cmd
	end     io.Closer
}

// newDisk mounts a file system of so many bytes on dir, which needs root.
func newDisk(dir string, size int64) (*disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		return nil, fmt.Errorf("mount a file system on %s: %w", dir, err)
	}
	d := &disk{dir: dir, standby: exec.Command("sh", "-c", `cat; umount -l "$0"`, dir)}
	d.standby.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the tests is not for it
	var err error
	if d.end, err = d.standby.StdinPipe(); err == nil {
		err = d.standby.Start()
	}
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return d, nil
}

// unmount is called when the node is down. keep copies what is on the disk to where it was mounted.
func (d *disk) unmount(keep bool) error {
	var err error
	kept := d.dir + ".kept"
	if keep {
		err = os.CopyFS(kept, os.DirFS(d.dir))
	}
	d.end.Close()
	err = errors.Join(err, d.standby.Wait())
	if keep && err == nil {
		err = errors.Join(os.Remove(d.dir), os.Rename(kept, d.dir))
	}
	return err
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// free is how many bytes are free, and how many there are.
func (d *disk) free() (free, all int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return 0, 0, err
	}
	return int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, nil
}

// fill keeps all but leave bytes of the disk taken for a time, whatever the node gives back meanwhile.
func (d *disk) fill(leave int64, hold time.Duration) (err error) {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(d.ballast())) }()
	var size int64
	Poll(hold, func() bool {
		var free int64
		if free, _, err = d.free(); err != nil {
			return true
		}
		if more := free - leave; more > 0 {
			// The node may have been faster, and the next round takes what is left.
			if err = unix.Fallocate(int(f.Fd()), 0, size, more); err == nil {
				size += more
			} else if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINTR) {
				err = nil
			}
		}
		return err != nil
	})
	return err
}
