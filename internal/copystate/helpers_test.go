package copystate

import (
	"os"
	"testing"
)

func removeAll(path string) error { return os.RemoveAll(path) }

func mustCopy(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// foldersOf is what a node knows of its folders now.
func (w *world) foldersOf(id uint64) folders {
	s := w.nodes[id].s
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.folders
}
