package order

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/influxdata/influxdb/models"
)

// write writes points of shard 1 that have no greater versions.
func write(t testing.TB, j *Journal, v Version, lines string) {
	t.Helper()
	_, w, err := j.Begin(1, v, mustPoints(t, lines), false)
	if err != nil {
		t.Fatal(err)
	}
	w.Done()
}

// late writes points of shard 1 that may have greater versions, and returns what is left of them.
func late(t testing.TB, j *Journal, v Version, lines string) string {
	t.Helper()
	left, w, err := j.Begin(1, v, mustPoints(t, lines), true)
	if err != nil {
		t.Fatal(err)
	}
	w.Done()
	return text(left)
}

func text(points []models.Point) string {
	var out []string
	for _, p := range points {
		out = append(out, p.String())
	}
	return strings.Join(out, "; ")
}

// A point loses the fields that have greater versions, and no others.
func TestPointLosesNewerFieldsAlone(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
	begin := func(v Version, lines string) string {
		kept, w, err := j.Begin(1, v, mustPoints(t, lines), true)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
		var out []string
		for _, p := range kept {
			out = append(out, p.String())
		}
		return strings.Join(out, "; ")
	}
	begin(20, "m,h=a x=2 1")
	if got, want := begin(10, "m,h=a x=1,y=\"1\" 1\nm,h=a x=1 1\nm,h=a x=1 2"), `m,h=a y="1" 1; m,h=a x=1 2`; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	if v := version(t, j, KeyOf(1, []byte("m,h=a"), "x", 1)); v != 20 {
		t.Errorf("version is %d, want 20", v)
	}
}

// Writes of the same points at the same time end as their versions say, whichever is faster. Others read the journal,
// sync it and tidy it up meanwhile.
func TestWritesAtTheSameTime(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 50})
	e := &engine{m: make(map[string]string)}
	if err := j.SetDurable(true); err != nil {
		t.Fatal(err)
	}
	const writes = 400
	order := rand.Perm(writes)
	var writers, others sync.WaitGroup
	for part := range slices.Chunk(order, writes/8) {
		writers.Go(func() {
			for _, n := range part {
				v := Version(n + 1)
				points := mustPoints(t, fmt.Sprintf("m x=%d 1\nm x=%d 2\nm,n=%d x=%d 1", v, v, n%7, v))
				kept, w, err := j.Begin(1, v, points, true)
				if err != nil {
					t.Error(err)
					return
				}
				e.write(kept)
				w.Done()
				if err := w.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	others.Go(func() {
		for last := Version(0); ; {
			select {
			case <-done:
				return
			default:
			}
			if err := j.SetFloor(0); err != nil {
				t.Error(err)
			}
			v, _ := j.Wrote(KeyOf(1, []byte("m"), "x", 1))
			if v < last {
				t.Errorf("the version fell from %d to %d", last, v)
			}
			last = v
		}
	})
	writers.Wait()
	close(done)
	others.Wait()
	for _, key := range []string{"m x 1", "m x 2"} {
		if e.m[key] != fmt.Sprint(writes) {
			t.Errorf("%s is %s, want %d", key, e.m[key], writes)
		}
	}
}

// A write that failed does not hide an older one that comes late: the engine may not have it.
func TestFailedWriteHidesNoOlderOne(t *testing.T) {
	t.Parallel()
	for _, inFiles := range []bool{false, true} {
		cfg := JournalConfig{Dir: t.TempDir()}
		if inFiles {
			cfg.MaxKeys, cfg.MaxMemory = 1, 1
		}
		j := mustJournal(t, cfg)
		write(t, j, 40, "m x=4 1")
		points := mustPoints(t, "m x=5 1\nm x=5 2\nm x=5 3")
		_, w, err := j.Begin(1, 50, points, false)
		if err != nil {
			t.Fatal(err)
		}
		w.Failed(points[1:2])
		write(t, j, 60, "m x=6 4")
		write(t, j, 61, "m x=6 5")
		write(t, j, 62, "m x=6 6")
		for at, want := range map[int64]Version{1: Uncertain, 2: 50, 3: Uncertain} {
			if v := j.At(KeyOf(1, []byte("m"), "x", at)).Certain; v != want {
				t.Errorf("in files %v: the version of %d is %d, want %d", inFiles, at, v, want)
			}
		}
		if got, want := late(t, j, 30, "m x=3 1\nm x=3 2\nm x=3 3"), "m x=3 3"; got != want {
			t.Errorf("in files %v: a late write keeps %q, want %q", inFiles, got, want)
		}
	}
}

// A late write that meets a newer one under way waits until it is known whether the engine takes that.
func TestLateWriteWaitsForANewerOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testLateWriteWaits)
}

func testLateWriteWaits(t *testing.T) {
	j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
	for v, taken := range map[Version]bool{100: true, 200: false} {
		points := mustPoints(t, fmt.Sprintf("m x=2 %d", v))
		_, newer, err := j.Begin(1, v, points, false)
		if err != nil {
			t.Fatal(err)
		}
		left := make(chan string)
		go func() { left <- late(t, j, v-10, fmt.Sprintf("m x=1 %d", v)) }()
		synctest.Wait()
		want := ""
		if taken {
			newer.Done()
		} else {
			newer.Failed(nil)
			want = fmt.Sprintf("m x=1 %d", v)
		}
		if got := <-left; got != want {
			t.Errorf("the newer write was taken: %v; of the late one is left %q, want %q", taken, got, want)
		}
	}
}

// A write that hangs in the engine keeps only its own generation in memory.
func TestWriteThatHangsHoldsOneGeneration(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 1, MaxMemory: 1})
	_, hangs, err := j.Begin(1, 1, mustPoints(t, "m x=1 1"), false)
	if err != nil {
		t.Fatal(err)
	}
	for v := Version(2); v <= 20; v++ {
		write(t, j, v, fmt.Sprintf("m x=1 %d", v))
	}
	if n := len(j.inMemory); n > 2 {
		t.Errorf("%d generations are in memory, want 2", n)
	}
	hangs.Done()
	if v := j.At(KeyOf(1, []byte("m"), "x", 1)).Certain; v != 1 {
		t.Errorf("the version is %d, want 1", v)
	}
	write(t, j, 21, "m x=1 21")
	if n := len(j.inMemory); n > 1 {
		t.Errorf("%d generations are in memory, want 1", n)
	}
}

// What is known of failed writes is forgotten with their generation, and is bounded.
func TestFailuresAreBounded(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 1})
	fail := func(v Version, lines string) {
		_, w, err := j.Begin(1, v, mustPoints(t, lines), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Failed(nil)
	}
	fail(10, "m x=1 1")
	write(t, j, 20, "m x=1 2")
	key := KeyOf(1, []byte("m"), "x", 1)
	if v := j.At(key).Certain; v != Uncertain {
		t.Errorf("version is %d, want %d", v, Uncertain)
	}
	if err := j.SetFloor(15); err != nil {
		t.Fatal(err)
	}
	if at := j.At(key); at.Certain != 0 || at.Since != 10 {
		t.Errorf("version is %d since %d, want 0 since 10", at.Certain, at.Since)
	}
	var f failures
	for v := Version(1); v <= maxFailures+10; v++ {
		f.add(v, []Key{Key(v)})
	}
	if len(f.keys) != maxFailures || f.upTo != maxFailures+10 {
		t.Errorf("%d keys are listed, and others are not above %d", len(f.keys), f.upTo)
	}
}

// The disk is full when a write fails. Once it has space, the journal notes that the write failed: after a restart it
// does not count as written.
func TestWriteThatFailedOnAFullDiskIsNotedLater(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"later", "when the journal is closed"} {
		cfg := JournalConfig{Dir: t.TempDir()}
		j := mustJournal(t, cfg)
		write(t, j, 5, "m x=1 1")
		_, w, err := j.Begin(1, 7, mustPoints(t, "m x=2 1"), false)
		if err != nil {
			t.Fatal(err)
		}
		j.mu.Lock()
		g := j.current()
		log := g.file
		if g.file, err = os.Open(g.path); err != nil { // it takes no writes
			t.Fatal(err)
		}
		j.mu.Unlock()
		w.Failed(nil)
		if err := j.SetFloor(1); err == nil {
			t.Error("there is no error while the journal cannot be written")
		}
		j.mu.Lock()
		if err := g.file.Close(); err != nil {
			t.Fatal(err)
		}
		g.file = log
		j.mu.Unlock()
		if when == "later" {
			if err := j.SetFloor(1); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if v := version(t, mustJournal(t, cfg), KeyOf(1, []byte("m"), "x", 1)); v != 5 {
			t.Errorf("%s: after a restart the version is %d, want 5", when, v)
		}
	}
}

// While what was noted before cannot be made durable, SetDurable fails, each time.
func TestSetDurableFailsUntilAllIsDurable(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
	write(t, j, 1, "m x=1 1")
	broken := errors.New("the disk is broken")
	j.fsync = func(*os.File) error { return broken }
	for range 2 {
		if err := j.SetDurable(true); !errors.Is(err, broken) {
			t.Errorf("error is %v, want %v", err, broken)
		}
	}
	synced := 0
	j.fsync = func(*os.File) error { synced++; return nil }
	for range 2 {
		if err := j.SetDurable(true); err != nil || synced != 1 {
			t.Errorf("%v after %d syncs, want one", err, synced)
		}
	}
}

// What a journal that was closed has is on disk: the power may fail when the process has ended well.
func TestCloseBringsAllToDisk(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir()})
	write(t, j, 1, "m x=1 1")
	synced := 0
	j.fsync = func(*os.File) error { synced++; return nil }
	if err := j.Close(); err != nil || synced == 0 {
		t.Errorf("%v after %d syncs", err, synced)
	}
}

// BenchmarkWritesOutOfOrder notes writes of one point each that come in any order, with many in a generation.
func BenchmarkWritesOutOfOrder(b *testing.B) {
	j := mustJournal(b, JournalConfig{Dir: b.TempDir()})
	points := mustPoints(b, "m x=1 1")
	for b.Loop() {
		v := Version(rand.Uint64N(1<<40) + 1)
		points[0].SetTime(points[0].Time().Add(1))
		_, w, err := j.Begin(1, v, points, true)
		if err != nil {
			b.Fatal(err)
		}
		w.Done()
	}
}

// BenchmarkLateWriteOfManyFields notes a point of many fields when there are newer ones on disk.
func BenchmarkLateWriteOfManyFields(b *testing.B) {
	const fields = 100_000
	j := mustJournal(b, JournalConfig{Dir: b.TempDir(), MaxMemory: 1, MaxKeys: 1000})
	line := func(from int) string {
		var l strings.Builder
		l.WriteString("m last=1")
		for i := range fields {
			fmt.Fprintf(&l, ",f%d=1", from+i)
		}
		return l.String() + " 1"
	}
	write(b, j, 1<<40, line(1<<30)) // goes to disk with the next one
	write(b, j, 1<<41, "m x=1 1")
	points := mustPoints(b, line(0))
	v := Version(0)
	for b.Loop() {
		v++
		_, w, err := j.Begin(1, v, points, true)
		if err != nil {
			b.Fatal(err)
		}
		w.Done()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/fields, "ns/field")
}
