package copystate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"concord/internal/durable"
)

// folders is what a node knows of its own folders: their name, which start of them this is, and how far their mark has
// grown. The other nodes remember the same. Where they remember more, the folders are older than they were.
type folders struct {
	self       self
	loadedName string          // as it was on disk when the node started
	loadedMark uint64          // likewise
	firstMark  uint64          // from which the marks of this process grow with time
	base       time.Time       // when they began to grow
	starts     map[uint64]bool // those of this process
	reached    uint64          // self.Reached as it was when this process began; 0 for not known
	wentBack   bool            // the folders turned out to be older than they were, in this process
	unnoted    bool            // and that is not on disk yet
	markHeard  bool            // another node has heard of a later mark than loadedMark
}

// goingBack reports whether the folders are older than they were, and what follows from that is not done yet.
func (f *folders) goingBack() bool { return f.unnoted || f.self.GoingBack }

// begin compares the name that the data folder has with that of the last start, and begins another start. The data
// folder needs another name when it is not self.Folder. Reached is a version that the clock had reached when the
// folders were written last.
func (f *folders) begin(name string, reached uint64) look {
	if f.self.Reached == 0 {
		f.self.Reached = reached
	}
	f.reached = f.self.Reached
	f.loadedName, f.loadedMark = f.self.Folder, f.self.Mark
	f.firstMark, f.base = f.self.Mark+1, time.Now()
	crashed := !f.self.Clean
	f.self.Clean = false
	first := f.self.Folder == "" // of this program on this meta folder
	same := name != "" && name == f.self.Folder
	if !same {
		f.rename()
	}
	f.starts = make(map[uint64]bool)
	f.restart(f.self.Start)
	return look{
		starting: true, newDisk: !first && !same, oldDisk: name != "" && slices.Contains(f.self.Former, name),
		adopt: first && name == "", crashed: crashed && !first && same,
	}
}

// restart takes a start that is greater than all until last.
func (f *folders) restart(last uint64) {
	f.self.restart(last)
	f.starts[f.self.Start] = true
}

func (s *self) restart(last uint64) {
	s.Start = nextStart(last)
	s.Starts = latest(append(s.Starts, s.Start))
}

// rename gives the folders another name.
func (f *folders) rename() {
	if f.self.Folder != "" {
		f.self.Former = latest(append(f.self.Former, f.self.Folder))
	}
	f.self.Folder = newFolder()
}

// maxPast is how many earlier names and starts a node remembers of its folders. An image that is older than all of them
// may not be noticed.
const maxPast = 32

// latest returns the last of a list that may have grown too long.
func latest[T any](all []T) []T { return slices.Clone(all[max(0, len(all)-maxPast):]) }

// nextStart is greater than all starts before it. Half of it is random: a node whose folders were rolled back counts
// its starts again from an older one, and the others must be able to tell the two apart.
func nextStart(last uint64) uint64 { return (last>>16+1)<<16 | uint64(mathrand.Uint32N(1<<16)) }

// remembered is what another node remembers of the folders of this one.
type remembered struct {
	version
	former []string
	mark   uint64
}

// knows reports whether another node remembers nothing, or a start of this process and no greater mark than this node
// has. One with a greater mark has heard of the start without comparing: in a message of which the answer was lost, or
// from a third node.
func (f *folders) knows(r remembered) bool {
	return r.start == 0 || f.starts[r.start] && (r.folder != f.self.Folder || r.mark <= f.self.Mark)
}

// compare compares the folders with what another node remembers of them. It reports whether they turn out to be older
// than they were, which it does once. Next is what is to be stored: it has a start that is greater than the remembered
// one, and the earlier names. The folders get another name by rename.
func (f *folders) compare(r remembered) (back bool, next self) {
	switch {
	case f.wentBack:
	case r.folder == f.self.Folder, r.folder == f.loadedName:
		back = r.mark > f.loadedMark || f.neverBegan(r.start)
	default: // the folders have another name now, which these do not know
		back = slices.Contains(r.former, f.self.Folder) || f.loadedName != "" && slices.Contains(r.former, f.loadedName)
	}
	if back {
		f.wentBack, f.unnoted, f.markHeard = true, true, r.mark > f.loadedMark
	}
	next = f.self
	if r.start>>16 >= next.Start>>16 {
		next.restart(r.start)
	}
	next.Former = next.withNames(append(slices.Clone(r.former), r.folder))
	return back, next
}

// neverBegan reports whether a start is none of these folders, and no older one than they know.
func (f *folders) neverBegan(start uint64) bool {
	return start>>16 >= f.self.Starts[0]>>16 && !slices.Contains(f.self.Starts, start)
}

// withNames returns the earlier names that another node remembers, and after them those that it does not.
func (s *self) withNames(names []string) []string {
	var all []string
	for _, name := range append(names, s.Former...) {
		if name != "" && name != s.Folder && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return latest(all)
}

// due is the mark that the folders have to have by now.
func (f *folders) due() uint64 {
	return max(f.self.Mark, f.firstMark+uint64(time.Since(f.base)/markEvery))
}

// folderFile is in the data folder, beside the databases. Without it the folder is new, or another node's.
const folderFile = "concord-folder"

// maxName is how long the name of a folder can be.
const maxName = 64

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
	if len(name) > maxName {
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
