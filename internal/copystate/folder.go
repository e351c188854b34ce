package copystate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"concord/internal/durable"
)

// folders is what a node knows of its own folders: their name, which start of them this is, and how far their mark has
// grown. The other nodes remember the same. Where they remember more, the folders are older than they were.
type folders struct {
	self       self
	loadedMark uint64          // as it was on disk when the node started
	firstMark  uint64          // from which the marks of this process grow with time
	base       time.Time       // when they began to grow
	starts     map[uint64]bool // those of this process
	reached    uint64          // self.Reached as it was when this process began; 0 for not known
	wentBack   bool            // the folders of this node are older than they were
	goingBack  bool            // and what follows from that is not done yet
}

// begin compares the name that the data folder has with that of the last start, and begins another start. The data
// folder needs another name when it is not self.Folder. Reached is a version that the clock had reached when the
// folders were written last.
func (f *folders) begin(name string, reached uint64) look {
	if f.self.Reached == 0 {
		f.self.Reached = reached
	}
	f.reached = f.self.Reached
	f.loadedMark, f.firstMark, f.base = f.self.Mark, f.self.Mark+1, time.Now()
	crashed := !f.self.Clean
	f.self.Clean = false
	first := f.self.Folder == "" // of this program on this meta folder
	same := name != "" && name == f.self.Folder
	if !same {
		f.self.Folder = newFolder()
	}
	f.starts = make(map[uint64]bool)
	f.restart(f.self.Start)
	return look{
		starting: true, newDisk: !first && !same, adopt: first && name == "", crashed: crashed && !first && same,
	}
}

// restart takes a start that is greater than all until last.
func (f *folders) restart(last uint64) {
	f.self.Start = nextStart(last)
	f.starts[f.self.Start] = true
}

// nextStart is greater than all starts before it. Half of it is random: a node whose folders were rolled back counts
// its starts again from an older one, and the others must be able to tell the two apart.
func nextStart(last uint64) uint64 { return (last>>16+1)<<16 | uint64(mathrand.Uint32N(1<<16)) }

// knows reports whether another node remembers a start of this process, or nothing.
func (f *folders) knows(start uint64) bool { return start == 0 || f.starts[start] }

// compare takes a start that is greater than one that another node remembers and this one does not. It reports
// whether the folders turn out to be older than they were, which it does once. They get another name by rename.
func (f *folders) compare(remembered version, mark uint64) (back bool) {
	later := remembered.start>>16 >= f.self.Start>>16
	back = remembered.folder == f.self.Folder && !f.wentBack && (mark > f.loadedMark || later)
	if later {
		f.restart(remembered.start)
	}
	if back {
		f.wentBack, f.goingBack = true, true
	}
	return back
}

// due is the mark that the folders have to have by now.
func (f *folders) due() uint64 {
	return max(f.self.Mark, f.firstMark+uint64(time.Since(f.base)/markEvery))
}

// folderFile is in the data folder, beside the databases. Without it the folder is new, or another node's.
const folderFile = "concord-folder"

func newFolder() string { return rand.Text() }

// readFolder returns the name of a data folder, empty when it has none.
func readFolder(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, folderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", fmt.Errorf("read the name of the data folder: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if len(name) > 64 {
		name = ""
	}
	return name, nil
}

// writeFolder gives the data folder its name, in one durable step.
func writeFolder(dir, name string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, folderFile), []byte(name+"\n"), 0o640)
	}
	if err != nil {
		return fmt.Errorf("name the data folder %s: %w", dir, err)
	}
	return nil
}
