package order

import (
	"fmt"
	"os"
	"testing"

	"github.com/influxdata/influxdb/models"
)

// What a crash may have kept from the engine, what is being written, and what failed is not known for certain.
func TestCertain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir})
	if err := j.SetBegins(10); err != nil {
		t.Fatal(err)
	}
	point := func(at int) []models.Point { return mustPoints(t, fmt.Sprintf("m v=1 %d", at)) }
	key := func(at int64) Key { return KeyOf(1, []byte("m"), "v", at) }
	expect := func(what string, at int64, v, since Version) {
		t.Helper()
		if got := j.At(key(at)); got.Certain != v || got.Since != since {
			t.Errorf("%s: version %d, since %d, want %d and %d", what, got.Certain, got.Since, v, since)
		}
	}
	expect("nothing", 1, 0, 10)
	_, w, err := j.Begin(1, 20, point(1), false)
	if err != nil {
		t.Fatal(err)
	}
	expect("being written", 1, Uncertain, 10)
	if got, want := j.At(key(1)), (Point{Certain: Uncertain, Since: 10}); got != want {
		t.Errorf("of a point that is being written the journal says %+v, want %+v", got, want)
	}
	w.Done()
	expect("written", 1, 20, 10)
	_, w, err = j.Begin(1, 21, point(2), false)
	if err != nil {
		t.Fatal(err)
	}
	w.Failed(nil)
	expect("failed", 2, Uncertain, 10)
	if got, want := j.At(key(2)), (Point{Certain: Uncertain, Since: 10, Failed: 21}); got != want {
		t.Errorf("of a write that failed the journal says %+v, want %+v", got, want)
	}
	if _, w, err = j.Begin(1, 21, point(2), true); err != nil {
		t.Fatal(err)
	}
	w.Done()
	expect("written after it failed", 2, 21, 10)
	for k, want := range map[int64]Version{1: 20, 3: 0} {
		if v, underWay := j.Wrote(key(k)); v != want || underWay {
			t.Errorf("of key %d the journal says it wrote %d, under way %v; want %d", k, v, underWay, want)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustJournal(t, JournalConfig{Dir: dir})
	if err := j.SetBegins(30); err != nil {
		t.Fatal(err)
	}
	expect("of the process before", 1, 20, 30)
}

// The process is killed. What its log says that the engine had is certain. What was being written may be there or not,
// and so may what failed.
func TestWhatTheEngineHadIsCertainAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir})
	if err := j.SetBegins(10); err != nil {
		t.Fatal(err)
	}
	key := func(at int64) Key { return KeyOf(1, []byte("m"), "x", at) }
	begin := func(v Version, lines string) *Write {
		t.Helper()
		_, w, err := j.Begin(1, v, mustPoints(t, lines), true)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	write(t, j, 20, "m x=1 1\nm x=1 2\nm x=1 3\nm x=1 4")
	begin(21, "m x=2 2") // never ends
	begin(22, "m x=2 3\nm x=2 5").Failed(mustPoints(t, "m x=2 5"))
	begin(23, "m x=2 4").Failed(nil)
	begin(24, "m x=2 4").Done()
	late := begin(25, "m x=1 6")
	if err := j.rotate(); err != nil {
		t.Fatal(err)
	}
	late.Done() // its log has the mark of its end
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"after the kill", "after the next start"} {
		j := mustJournal(t, JournalConfig{Dir: killed})
		if err := j.SetBegins(30); err != nil {
			t.Fatal(err)
		}
		for at, want := range map[int64]Version{1: 20, 2: 0, 3: 0, 4: 24, 5: 22, 6: 25, 7: 0} {
			if got := j.At(key(at)); got.Certain != want || got.Since < 30 {
				t.Errorf("%s: of the time %d it says %+v, want the version %d", when, at, got, want)
			}
			if v, _ := j.Wrote(key(at)); v != 0 {
				t.Errorf("%s: the time %d counts as written by this process", when, at)
			}
		}
		if got := j.At(key(2)).Written; got != 21 {
			t.Errorf("%s: an older write than %d is not left out", when, got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j = mustJournal(t, JournalConfig{Dir: killed})
	if err := j.Lost(40); err != nil { // the power was off
		t.Fatal(err)
	}
	if got := j.At(key(1)); got.Certain != 0 {
		t.Errorf("with writes that were lost it says %+v", got)
	}
}

// A version that is not above what was forgotten is not known for certain: a greater one may have been forgotten.
func TestVersionsBelowWhatWasForgottenAreNotCertain(t *testing.T) {
	t.Parallel()
	for _, forgotten := range []string{"below the floor", "because the journal is full"} {
		j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 2})
		write(t, j, 20, "m x=1 1\nm x=1 4")
		_, w, err := j.Begin(1, 10, mustPoints(t, "m x=1 2"), true)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
		write(t, j, 30, "m x=1 3")
		if forgotten == "below the floor" {
			err = j.SetFloor(25) // the first generation goes
		} else {
			j.mu.Lock()
			j.since = 21
			j.mu.Unlock()
		}
		if err != nil {
			t.Fatal(err)
		}
		for at, want := range map[int64]Version{2: 0, 3: 30} {
			key := KeyOf(1, []byte("m"), "x", at)
			if at := j.At(key); at.Certain != want || at.Since < 20 || at.Since > 21 {
				t.Errorf("%s: certain is %d since %d, want %d since 20 or 21", forgotten, at.Certain, at.Since, want)
			}
			if v, underWay := j.Wrote(key); v != want || underWay {
				t.Errorf("%s: wrote %d, want %d", forgotten, v, want)
			}
		}
	}
}
