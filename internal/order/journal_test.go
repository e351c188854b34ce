package order

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustJournal(t testing.TB, cfg JournalConfig) *Journal {
	t.Helper()
	cfg.Log = zap.NewNop()
	j, err := OpenJournal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func mustPoints(t testing.TB, lines string) []models.Point {
	t.Helper()
	ps, err := models.ParsePointsString(lines)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// engine is what an owner has: the value of each field of each point.
type engine struct {
	mu sync.Mutex
	m  map[string]string
}

func (e *engine) write(points []models.Point) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range points {
		fields, err := p.Fields()
		if err != nil {
			panic(err)
		}
		for f, v := range fields {
			e.m[fmt.Sprintf("%s %s %d", p.Key(), f, p.UnixNano())] = fmt.Sprint(v)
		}
	}
}

// However writes arrive, each field keeps the value with the greatest version: with few keys in a generation, with
// sorted files, and after the journal was opened again. Those that are behind are refused.
func TestGreatestVersionStays(t *testing.T) {
	t.Parallel()
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		cfg := JournalConfig{
			Dir: filepath.Join(dir, fmt.Sprint(run)), Log: zap.NewNop(),
			MaxKeys:   rapid.IntRange(1, 20).Draw(rt, "keys of a generation"),
			MaxMemory: rapid.IntRange(1, 3).Draw(rt, "in memory"),
		}
		j, err := OpenJournal(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { j.Close() }()
		e := &engine{m: make(map[string]string)}
		want, versions := make(map[string]string), make(map[string]Version)
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				v := Version(rapid.Uint64Range(1, 200).Draw(rt, "version"))
				late := rapid.Bool().Draw(rt, "late")
				var lines []string
				keys, behind := make(map[string]string), false
				for range rapid.IntRange(1, 4).Draw(rt, "points") {
					s, at := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "series"), rapid.IntRange(1, 3).Draw(rt, "time")
					for _, f := range []string{"x", "y"} {
						key := fmt.Sprintf("m,s=%s %s %d", s, f, at)
						lines = append(lines, fmt.Sprintf("m,s=%s %s=%d %d", s, f, v, at))
						keys[key] = fmt.Sprint(uint64(v))
						behind = behind || versions[key] > v
					}
				}
				kept, w, err := j.Begin(7, v, mustPoints(t, strings.Join(lines, "\n")), late)
				if behind && !late {
					if !errors.Is(err, ErrBehind) {
						rt.Fatalf("error is %v, want %v", err, ErrBehind)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				e.write(kept)
				w.End(true)
				for key, value := range keys {
					if versions[key] <= v {
						versions[key], want[key] = v, value
					}
				}
			},
			"open again": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				if j, err = OpenJournal(cfg); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				if fmt.Sprint(e.m) != fmt.Sprint(want) {
					rt.Fatalf("the owner has %v, want %v", e.m, want)
				}
			},
		})
	})
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
		w.End(true)
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
	if v := j.Version(KeyOf(1, []byte("m,h=a"), "x", 1)); v != 20 {
		t.Errorf("version is %d, want 20", v)
	}
}

// Writes of the same points at the same time end as their versions say, whichever is faster.
func TestWritesAtTheSameTime(t *testing.T) {
	t.Parallel()
	j := mustJournal(t, JournalConfig{Dir: t.TempDir(), MaxKeys: 50})
	e := &engine{m: make(map[string]string)}
	const writes = 400
	order := rand.Perm(writes)
	var wg sync.WaitGroup
	for part := range slices.Chunk(order, writes/8) {
		wg.Go(func() {
			for _, n := range part {
				v := Version(n + 1)
				points := mustPoints(t, fmt.Sprintf("m x=%d 1\nm x=%d 2\nm,n=%d x=%d 1", v, v, n%7, v))
				kept, w, err := j.Begin(1, v, points, true)
				if err != nil {
					t.Error(err)
					return
				}
				e.write(kept)
				w.End(true)
			}
		})
	}
	wg.Wait()
	for _, key := range []string{"m x 1", "m x 2"} {
		if e.m[key] != fmt.Sprint(writes) {
			t.Errorf("%s is %s, want %d", key, e.m[key], writes)
		}
	}
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
		w.End(true)
	}
	if err := j.SetFloor(6); err != nil {
		t.Fatal(err)
	}
	for v := Version(1); v <= 9; v++ {
		want := v
		if v < 6 {
			want = 0
		}
		if got := j.Version(KeyOf(1, []byte("m"), "x", int64(v))); got != want {
			t.Errorf("version is %d, want %d", got, want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 4 {
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
		w.End(true)
	}
	since := j.Since()
	if since == 0 || since > 500 {
		t.Fatalf("it knows since %d", since)
	}
	for v := since; v <= 500; v++ {
		if got := j.Version(KeyOf(1, []byte("m"), "x", int64(v))); got != v {
			t.Errorf("version is %d, want %d", got, v)
		}
	}
}

// After a crash at any byte, all whole records are there. Any flipped byte of a sorted file is found.
func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir, MaxKeys: 4, MaxMemory: 1})
	if err := j.SetDurable(true); err != nil {
		t.Fatal(err)
	}
	for v := Version(1); v <= 10; v++ {
		_, w, err := j.Begin(1, v, mustPoints(t, fmt.Sprintf("m x=1 %d", v)), false)
		if err != nil {
			t.Fatal(err)
		}
		w.End(true)
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	known := func(j *Journal) (n int) {
		for v := Version(1); v <= 10; v++ {
			if j.Version(KeyOf(1, []byte("m"), "x", int64(v))) == v {
				n++
			}
		}
		return n
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files are %v, %v: want two sorted ones and a log", files, err)
	}
	copied := func() string {
		to := t.TempDir()
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		return to
	}
	if n := known(mustJournal(t, JournalConfig{Dir: copied()})); n != 10 {
		t.Errorf("%d of 10 are known after a crash", n)
	}
	last, err := os.ReadFile(files[2])
	if err != nil {
		t.Fatal(err)
	}
	for size := range len(last) {
		to := copied()
		if err := os.Truncate(filepath.Join(to, filepath.Base(files[2])), int64(size)); err != nil {
			t.Fatal(err)
		}
		want := 8 + max(0, size-headerSize)/(recordHeader+8)
		if n := known(mustJournal(t, JournalConfig{Dir: to})); n != want {
			t.Errorf("%d are known with %d bytes of the last file, want %d", n, size, want)
		}
	}
	sorted, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := range sorted {
		if at == 5 {
			continue // the format: another one is an error
		}
		to := copied()
		bad := slices.Clone(sorted)
		bad[at] ^= 0x10
		if err := os.WriteFile(filepath.Join(to, filepath.Base(files[0])), bad, 0o640); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJournal(JournalConfig{Dir: to, Log: zap.NewNop()})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if n := known(j); n != 6 || j.Since() == 0 {
			t.Errorf("byte %d: %d are known, want 6", at, n)
		}
		if _, err := os.Stat(filepath.Join(to, filepath.Base(files[0])+".damaged")); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		j.Close()
	}

	// A log that was finished is damaged where it cannot be read; what is before that still counts.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(files[2])
	if err != nil || len(log) != len(last)+recordHeader {
		t.Fatalf("the log has %d bytes, and had %d: %v", len(log), len(last), err)
	}
	for at := range log {
		if at == 5 {
			continue
		}
		for what, bad := range map[string][]byte{"flipped": slices.Clone(log), "cut, in the middle": slices.Clone(log)} {
			if bad[at] ^= 0x10; what != "flipped" {
				bad = slices.Delete(bad, at, at+1)
			}
			to := copied()
			if err := os.WriteFile(filepath.Join(to, filepath.Base(files[2])), bad, 0o640); err != nil {
				t.Fatal(err)
			}
			j, err := OpenJournal(JournalConfig{Dir: to, Log: zap.NewNop()})
			if err != nil {
				t.Fatalf("byte %d %s: %v", at, what, err)
			}
			end := at >= len(last) // the mark alone is damaged
			want := 8 + min(2, max(0, at-headerSize)/(recordHeader+8))
			if n := known(j); n != want || !end && !j.Damaged() {
				t.Errorf("byte %d %s: %d are known, want %d; damaged: %v", at, what, n, want, j.Damaged())
			}
			if _, err := os.Stat(filepath.Join(to, filepath.Base(files[2])+".damaged")); err != nil && !end {
				t.Errorf("byte %d %s: %v", at, what, err)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if j = mustJournal(t, JournalConfig{Dir: to}); known(j) != want || j.Damaged() {
				t.Errorf("byte %d %s: after another start %d are known, want %d", at, what, known(j), want)
			}
		}
	}
}

func FuzzReadLog(f *testing.F) {
	j := mustJournal(f, JournalConfig{Dir: f.TempDir()})
	_, w, err := j.Begin(1, 5, mustPoints(f, "m x=1 1"), false)
	if err != nil {
		f.Fatal(err)
	}
	w.End(true)
	b, err := os.ReadFile(j.current().path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for _, name := range []string{"00000001.log", "00000002.sorted"} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if j, err := OpenJournal(JournalConfig{Dir: dir, Log: zap.NewNop()}); err == nil {
			j.Close()
		}
	})
}

// BenchmarkBegin notes batches of 5,000 points with one field, as of collectors: new points, versions that grow.
func BenchmarkBegin(b *testing.B) {
	j := mustJournal(b, JournalConfig{Dir: b.TempDir()})
	var lines strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&lines, "cpu,host=server%04d,region=west usage=1.5 1\n", i)
	}
	points := mustPoints(b, lines.String())
	v := Version(1)
	for b.Loop() {
		v += 1 << 20
		for _, p := range points {
			p.SetTime(time.Unix(0, int64(v)))
		}
		_, w, err := j.Begin(1, v, points, false)
		if err != nil {
			b.Fatal(err)
		}
		w.End(true)
		if err := j.SetFloor(v - 100<<20); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/field")
}

// What a crash may have kept from the engine, what is being written, and what failed is not known for certain.
func TestCertain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir, Begins: 10})
	point := func(at int) []models.Point { return mustPoints(t, fmt.Sprintf("m v=1 %d", at)) }
	key := func(at int64) Key { return KeyOf(1, []byte("m"), "v", at) }
	expect := func(what string, at int64, v, since Version) {
		t.Helper()
		if got, s := j.Certain(key(at)); got != v || s != since {
			t.Errorf("%s: version %d, since %d, want %d and %d", what, got, s, v, since)
		}
	}
	expect("nothing", 1, 0, 10)
	_, w, err := j.Begin(1, 20, point(1), false)
	if err != nil {
		t.Fatal(err)
	}
	expect("being written", 1, Unsettled, 10)
	w.End(true)
	expect("written", 1, 20, 10)
	_, w, err = j.Begin(1, 21, point(2), false)
	if err != nil {
		t.Fatal(err)
	}
	w.End(false)
	expect("failed", 2, Unsettled, 10)
	if _, w, err = j.Begin(1, 21, point(2), true); err != nil {
		t.Fatal(err)
	}
	w.End(true)
	expect("written after it failed", 2, 21, 10)
	if j.Wrote(key(1)) != 20 || j.Wrote(key(3)) != 0 {
		t.Error("what was written is not what the journal says")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustJournal(t, JournalConfig{Dir: dir, Begins: 30})
	expect("of the process before", 1, 0, 30)
}
