package entropy

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// diskFree tells the bytes that are free for unprivileged users, and all bytes, of the file system of dir.
func diskFree(dir string) (free, total uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize), fs.Blocks * uint64(fs.Bsize), nil
}
