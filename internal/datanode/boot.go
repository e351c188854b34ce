package datanode

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"concord/internal/durable"
)

// bootID is a file with an ID of the current boot of the machine. Only Linux has it.
const bootID = "/proc/sys/kernel/random/boot_id"

// boot is a file that is there while a process runs on a folder. It has the ID of the boot of the machine.
type boot struct {
	path    string
	current []byte // the ID; empty where the machine has none
	begun   bool
}

// readBoot reports whether the machine went down while the process before ran on dir: what that process did not bring
// to the disk is lost. id is bootID, unless it is that of a test.
func readBoot(dir, id string) (b *boot, wentDown bool, err error) {
	b = &boot{path: filepath.Join(dir, "boot")}
	if b.current, err = os.ReadFile(id); errors.Is(err, fs.ErrNotExist) {
		return b, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("read which boot of the machine this is: %w", err)
	}
	before, err := os.ReadFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("read in which boot of the machine this node ran before: %w", err)
	}
	return b, !bytes.Equal(before, b.current), nil
}

// begin notes that this process runs. What is lost when the machine went down must be noted before.
func (b *boot) begin() error {
	if len(b.current) == 0 {
		return nil
	}
	if err := durable.WriteFile(b.path, b.current, 0o640); err != nil {
		return fmt.Errorf("note in which boot of the machine this node runs: %w", err)
	}
	b.begun = true
	return nil
}

// end notes that this process has ended. All that it had to say must be on the disk.
func (b *boot) end() error {
	if !b.begun {
		return nil
	}
	if err := os.Remove(b.path); err != nil {
		return fmt.Errorf("note that this node does not run any more: %w", err)
	}
	return durable.SyncDir(filepath.Dir(b.path))
}
