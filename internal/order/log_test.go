package order

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

// A disk that fails while a log is read is an error. It is not a torn record, which would be cut off.
func TestReadErrorIsNoTornRecord(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
	write(t, j, 1, "m x=1 1")
	write(t, j, 2, "m x=1 2")
	log, err := os.ReadFile(j.current().path)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is broken")
	for n := range len(log) - headerSize {
		r := io.MultiReader(bytes.NewReader(log[headerSize:headerSize+n]), iotest.ErrReader(broken))
		g := &generation{size: headerSize}
		if err := g.readRecords(r, int64(len(log))); !errors.Is(err, broken) {
			t.Fatalf("after %d bytes the error is %v, want %v", n, err, broken)
		}
	}
}

// After a restart a write that failed still hides no older one. One with the same version that the engine took does:
// the parts of a large write have one version.
func TestFailedWriteHidesNoOlderOneAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir})
	write(t, j, 50, "m x=5 1")
	points := mustPoints(t, "m x=5 2\nm x=5 3")
	_, w, err := j.Begin(1, 50, points, false)
	if err != nil {
		t.Fatal(err)
	}
	w.Failed(points[:1])
	j = mustJournal(t, JournalConfig{Dir: dir}) // as after a crash
	if got, want := late(t, j, 30, "m x=3 1\nm x=3 2\nm x=3 3"), "m x=3 3"; got != want {
		t.Errorf("a late write keeps %q, want %q", got, want)
	}
}
