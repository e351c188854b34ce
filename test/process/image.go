package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// folders are all that a data node keeps.
var folders = []string{"meta", "data", "wal", "hh"}

// Image copies all folders of a running data node to dir, as they are at one moment: the process is stopped
// meanwhile, as by the snapshot of a virtual machine. An older image in dir is replaced.
func (n *Node) Image(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	n.Signal(syscall.SIGSTOP)
	defer n.Signal(syscall.SIGCONT)
	return copyFolders(n.Dir, dir)
}

// Restore puts an image in the place of all folders of a data node that is down.
func (n *Node) Restore(dir string) error {
	n.Wipe(folders...)
	return copyFolders(dir, n.Dir)
}

// copyFolders copies with cp: it knows holes, of which the files of series are full.
func copyFolders(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	args := []string{"-a", "--"}
	for _, f := range folders {
		if _, err := os.Stat(filepath.Join(from, f)); err == nil {
			args = append(args, filepath.Join(from, f))
		}
	}
	if out, err := exec.Command("cp", append(args, to)...).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the folders of %s: %w: %s", from, err, out)
	}
	return nil
}
