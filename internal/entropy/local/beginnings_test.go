package local

import (
	"os"
	"path/filepath"
	"testing"

	"concord/internal/copystate"
)

// A set that could not be read is not an empty one: a copy that lacks points would count as whole.
func TestBeginningsThatCannotBeReadAreNotForgotten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "begun")
	b := &beginnings{dir: dir}
	for id := uint64(1); id <= 3; id++ {
		if err := b.note(id, copystate.Beginning(10*id)); err != nil {
			t.Fatal(err)
		}
	}
	// What cannot be read at first: a folder in the place of a file.
	if err := os.Rename(b.path(2), filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.path(2), 0o750); err != nil {
		t.Fatal(err)
	}
	b = &beginnings{dir: dir}
	for id := uint64(1); id <= 3; id++ {
		if b.of(id) == copystate.FoundEqual {
			t.Errorf("shard %d counts as whole", id)
		}
	}
	if err := os.Remove(b.path(2)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "kept"), b.path(2)); err != nil {
		t.Fatal(err)
	}
	for id := uint64(1); id <= 3; id++ {
		if began := b.of(id); began != copystate.Beginning(10*id) {
			t.Errorf("shard %d: %d", id, began)
		}
	}
	if b.of(4) != copystate.FoundEqual {
		t.Error("a shard that never began is in the set")
	}
}
