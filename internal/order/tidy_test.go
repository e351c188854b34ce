package order

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// filesIn lists the generations in a folder.
func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "0*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What is below the floor is forgotten, and what is not stays.
func TestFloor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir, MaxKeys: 1, MaxMemory: 1})
	for v := Version(1); v <= 9; v++ {
		_, w, err := j.Begin(1, v, mustPoints(t, fmt.Sprintf("m x=1 %d", v)), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
	}
	if err := j.SetFloor(6); err != nil {
		t.Fatal(err)
	}
	for v := Version(1); v <= 9; v++ {
		want := v
		if v < 6 {
			want = 0
		}
		if got := version(t, j, KeyOf(1, []byte("m"), "x", int64(v))); got != want {
			t.Errorf("version is %d, want %d", got, want)
		}
	}
	if files := filesIn(t, dir); len(files) != 4 {
		t.Errorf("files are %v, want 4", files)
	}
}

// Past its size on disk the journal forgets the oldest.
func TestFullJournalForgetsTheOldest(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 10, MaxMemory: 1, MaxDisk: 2000})
	for v := Version(1); v <= 500; v++ {
		_, w, err := j.Begin(1, v, mustPoints(t, fmt.Sprintf("m x=1 %d", v)), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
	}
	since := j.Since()
	if since == 0 || since > 500 {
		t.Fatalf("it knows since %d", since)
	}
	for v := since; v <= 500; v++ {
		if got := version(t, j, KeyOf(1, []byte("m"), "x", int64(v))); got != v {
			t.Errorf("version is %d, want %d", got, v)
		}
	}
}

// While the floor stands still, a generation takes writes until it is full: there is no new file every two seconds.
func TestNoNewGenerationsWhileTheFloorStandsStill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir})
	tick := func(v Version) {
		write(t, j, v, fmt.Sprintf("m x=1 %d", v))
		j.current().began = time.Now().Add(-time.Hour)
	}
	for v := Version(1); v <= 50; v++ {
		tick(v)
		if err := j.SetFloor(1); err != nil {
			t.Fatal(err)
		}
	}
	if files := filesIn(t, dir); len(files) > fewGenerations {
		t.Errorf("there are %d files, want %d at most", len(files), fewGenerations)
	}
	for v := Version(51); v <= 60; v++ { // the floor follows again
		tick(v)
		if err := j.SetFloor(v); err != nil {
			t.Fatal(err)
		}
	}
	if files := filesIn(t, dir); len(files) > 2 || j.current().keys > 2 {
		t.Errorf("there are %d files, and %d keys in the last one", len(files), j.current().keys)
	}
}

// However many generations there are, there are few files, and each version is known.
func TestSortedFilesAreFew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir, MaxKeys: 2, MaxMemory: 1})
	const writes = 600
	newest := make(map[int]Version)
	for v := Version(1); v <= writes; v++ {
		newest[int(v)%7], newest[100+int(v)] = v, v
		write(t, j, v, fmt.Sprintf("m x=1 %d\nm x=1 %d", v%7, 100+v))
	}
	for _, when := range []string{"before a restart", "after it"} {
		if files := filesIn(t, dir); len(files) > 16 {
			t.Errorf("%s there are %d files", when, len(files))
		}
		for at, want := range newest {
			if v := version(t, j, KeyOf(1, []byte("m"), "x", int64(at))); v != want {
				t.Errorf("%s: the version of %d is %d, want %d", when, at, v, want)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = mustJournal(t, JournalConfig{Dir: dir, MaxKeys: 2, MaxMemory: 1})
	}
}

// That the journal is full is logged once, and again when it was not full in between.
func TestFullJournalIsLoggedOnce(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	j, err := OpenJournal(JournalConfig{
		Dir: t.TempDir(), MaxKeys: 10, MaxMemory: 1, MaxDisk: 2000, Log: zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	for round := range 2 {
		for v := Version(1); v <= 500; v++ {
			write(t, j, Version(round*500)+v, fmt.Sprintf("m x=1 %d", v))
		}
		if logs.Len() != round+1 {
			t.Errorf("it was logged %d times by round %d", logs.Len(), round+1)
		}
		if err := j.SetFloor(Version(round*500) + 500); err != nil {
			t.Fatal(err)
		}
	}
}
