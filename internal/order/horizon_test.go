package order

import (
	"testing"
	"testing/synctest"
	"time"
)

// What a repair has asked for is not forgotten until its time is over, and what is forgotten is not promised.
func TestLeasesHoldTheFloor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
		now := func() Version { return AtTime(time.Now()) }
		forget := func() {
			t.Helper()
			time.Sleep(2 * rotateAfter) // of the clock of the test
			for range 2 {               // the first one begins a generation
				if err := j.SetFloor(now()); err != nil {
					t.Fatal(err)
				}
			}
		}
		asked := now()
		if !j.Keep(asked, time.Minute) {
			t.Error("an empty journal has forgotten something")
		}
		time.Sleep(time.Second)
		written := now()
		_, w, err := j.Begin(1, written, mustPoints(t, "m v=1 1"), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
		key := KeyOf(1, []byte("m"), "v", 1)
		forget()
		if v := version(t, j, key); v != written {
			t.Errorf("the version is %d, want %d", v, written)
		}
		if !j.Keep(asked, time.Minute) {
			t.Error("it has forgotten what it was to keep")
		}
		time.Sleep(time.Minute)
		forget()
		if v := version(t, j, key); v != 0 {
			t.Errorf("the version is %d after its time", v)
		}
		if j.Keep(asked, time.Minute) {
			t.Error("it promises what it has forgotten")
		}
		if !j.Keep(now(), time.Minute) {
			t.Error("it does not promise what is written from now on")
		}
	})
}

// A write that came after the question has a smaller version when the clock of its node is behind. One that is under
// way has a smaller version anyway.
func TestLeasesHoldWritesWithSmallerVersions(t *testing.T) {
	t.Parallel()
	for _, underWay := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
			time.Sleep(time.Second) // of the clock of the test
			keep := func() {
				if !j.Keep(AtTime(time.Now()), time.Minute) {
					t.Error("an empty journal has forgotten something")
				}
			}
			if !underWay {
				keep()
			}
			behind := AtTime(time.Now().Add(-time.Millisecond))
			_, w, err := j.Begin(1, behind, mustPoints(t, "m v=1 1"), false)
			if err != nil {
				t.Fatal(err)
			}
			if underWay {
				keep()
			}
			j.Keep(1, time.Second) // as a write that is relayed
			w.Done()
			for range 3 {
				time.Sleep(2 * rotateAfter)
				if err := j.SetFloor(AtTime(time.Now())); err != nil {
					t.Fatal(err)
				}
			}
			if v := version(t, j, KeyOf(1, []byte("m"), "v", 1)); v != behind {
				t.Errorf("under way %t: the version is %d, want %d", underWay, v, behind)
			}
		})
	}
}

// Many questions make few leases.
func TestLeasesAreFew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
		for range 10_000 {
			j.Keep(AtTime(time.Now()), 10*time.Second)
			time.Sleep(10 * time.Millisecond) // of the clock of the test
		}
		if n := len(j.leases); n > 11 {
			t.Errorf("%d leases of ten seconds", n)
		}
	})
}
