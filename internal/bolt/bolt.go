// Package bolt opens bbolt files that may be damaged. bbolt trusts what it maps into memory: a page that is not
// one makes it panic, fault or walk in a circle, in goroutines of its own as well, so that no caller can recover. Open
// therefore reads the whole file first, and lets bbolt have it only when every page is one. What is in the values is
// for the caller to check.
package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// DamagedError says that a file is no bbolt file, or no longer.
type DamagedError struct {
	Path   string
	Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.Path, e.Reason) }

// Open opens or creates a file. It returns a *DamagedError for a damaged one, and bbolterrors.ErrTimeout when another
// process has it open for that long.
func Open(path string, mode os.FileMode, timeout time.Duration) (*bbolt.DB, error) {
	deadline := time.Now().Add(timeout)
	if err := Check(path, timeout); err != nil {
		return nil, err
	}
	return bbolt.Open(path, mode, &bbolt.Options{Timeout: max(time.Until(deadline), time.Millisecond)})
}

// Check returns what Open would, and leaves the file closed: for those that open it themselves. A missing file is no
// error. It reads the file under bbolt's own lock: nobody writes to it meanwhile.
func Check(path string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close() // gives up the lock
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		} else if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(deadline) {
			return bbolterrors.ErrTimeout
		}
		time.Sleep(20 * time.Millisecond)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return err
	}
	if err := verify(b); errors.Is(err, bbolterrors.ErrVersionMismatch) {
		return fmt.Errorf("%s: %w", path, err)
	} else if err != nil {
		return &DamagedError{path, err.Error()}
	}
	return nil
}
