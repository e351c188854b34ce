package order

import (
	"errors"
	"fmt"
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
	"go.uber.org/zap/zaptest/observer"
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

func version(t testing.TB, j *Journal, key Key) Version {
	t.Helper()
	v, err := j.Version(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
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

// However writes arrive, each field keeps the value with the greatest version that the engine took: with few keys in a
// generation, with sorted files, and after the journal was opened again. Those that are behind are refused.
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
				behind := false
				for range rapid.IntRange(1, 4).Draw(rt, "points") {
					s, at := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "series"), rapid.IntRange(1, 3).Draw(rt,
						"time")
					for _, f := range []string{"x", "y"} {
						key := fmt.Sprintf("m,s=%s %s %d", s, f, at)
						lines = append(lines, fmt.Sprintf("m,s=%s %s=%d %d", s, f, v, at))
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
				taken := kept
				if rapid.Bool().Draw(rt, "the engine takes all") {
					e.write(kept)
					w.Done()
				} else {
					taken = kept[:rapid.IntRange(0, len(kept)).Draw(rt, "points that it takes")]
					e.write(taken)
					w.Failed(taken)
				}
				for _, p := range taken {
					for f := p.FieldIterator(); f.Next(); {
						key := fmt.Sprintf("%s %s %d", p.Key(), f.FieldKey(), p.UnixNano())
						versions[key], want[key] = v, fmt.Sprint(uint64(v))
					}
				}
			},
			"tidy up": func(rt *rapid.T) {
				if err := j.SetFloor(0); err != nil {
					rt.Fatal(err)
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

// damagedJournal is a journal of ten versions in two sorted files and a log, of which tests damage copies.
type damagedJournal struct {
	dir   string
	files []string // the names of the three, in order
}

func newDamagedJournal(t *testing.T) (damagedJournal, *Journal) {
	t.Helper()
	d := damagedJournal{dir: t.TempDir()}
	j := mustJournal(t, JournalConfig{Dir: d.dir, MaxKeys: 4, MaxMemory: 1})
	if err := j.SetDurable(true); err != nil {
		t.Fatal(err)
	}
	for v := Version(1); v <= 10; v++ {
		_, w, err := j.Begin(1, v, mustPoints(t, fmt.Sprintf("m x=1 %d", v)), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(d.dir, "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files are %v, %v: want two sorted ones and a log", files, err)
	}
	for _, f := range files {
		d.files = append(d.files, filepath.Base(f))
	}
	return d, j
}

// read reads one of the files.
func (d damagedJournal) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// copy copies the folder, as it is after a crash.
func (d damagedJournal) copy(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// replace copies the folder with other contents of a file.
func (d damagedJournal) replace(t *testing.T, name string, b []byte) (dir string) {
	t.Helper()
	dir = d.copy(t)
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o640); err != nil {
		t.Fatal(err)
	}
	return dir
}

// countKnown is how many of the ten versions a journal knows.
func countKnown(t *testing.T, j *Journal) (n int) {
	t.Helper()
	for v := Version(1); v <= 10; v++ {
		if version(t, j, KeyOf(1, []byte("m"), "x", int64(v))) == v {
			n++
		}
	}
	return n
}

// After a crash at any byte, all whole records are there.
func TestCrashLosesOnlyTheRecordThatIsCut(t *testing.T) {
	t.Parallel()
	d, _ := newDamagedJournal(t)
	if n := countKnown(t, mustJournal(t, JournalConfig{Dir: d.copy(t)})); n != 10 {
		t.Errorf("%d of 10 are known after a crash", n)
	}
	log := d.read(t, d.files[2])
	for size := range len(log) {
		dir := d.replace(t, d.files[2], log[:size])
		want := 8 + recordsIn(size)
		if n := countKnown(t, mustJournal(t, JournalConfig{Dir: dir})); n != want {
			t.Errorf("%d are known with %d bytes of the last file, want %d", n, size, want)
		}
	}
}

// recordsIn is how many records of one key each are in the first bytes of a log. Each is followed by the mark that it
// has ended.
func recordsIn(size int) int {
	const record, mark = recordHeader + 8, recordHeader
	return (max(0, size-headerSize) + mark) / (record + mark)
}

// Any flipped byte of a sorted file is found.
func TestDamagedSortedFileIsKeptAside(t *testing.T) {
	t.Parallel()
	d, _ := newDamagedJournal(t)
	sorted := d.read(t, d.files[0])
	for at := range sorted {
		if at == 5 {
			continue // the format: another one is an error
		}
		bad := slices.Clone(sorted)
		bad[at] ^= 0x10
		dir := d.replace(t, d.files[0], bad)
		core, logged := observer.New(zap.WarnLevel)
		j, err := OpenJournal(JournalConfig{Dir: dir, Log: zap.New(core)})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if n := countKnown(t, j); n != 6 || j.Since() == 0 {
			t.Errorf("byte %d: %d are known, want 6", at, n)
		}
		kept := filepath.Join(dir, d.files[0]+".damaged")
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		if logged.FilterField(zap.String("kept", kept)).Len() != 1 {
			t.Errorf("byte %d: the log does not name %s: %v", at, kept, logged.All())
		}
		j.Close()
	}
}

// A log that was finished is damaged where it cannot be read; what is before that still counts.
func TestDamagedLogCountsUpToTheDamage(t *testing.T) {
	t.Parallel()
	d, j := newDamagedJournal(t)
	unfinished := len(d.read(t, d.files[2]))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	log := d.read(t, d.files[2])
	if len(log) != unfinished+recordHeader {
		t.Fatalf("the log has %d bytes, and had %d", len(log), unfinished)
	}
	for at := range log {
		if at == 5 {
			continue // the format: another one is an error
		}
		flipped := slices.Clone(log)
		flipped[at] ^= 0x10
		cut := slices.Delete(slices.Clone(log), at, at+1)
		for what, bad := range map[string][]byte{"flipped": flipped, "cut, in the middle": cut} {
			dir := d.replace(t, d.files[2], bad)
			j, err := OpenJournal(JournalConfig{Dir: dir, Log: zap.NewNop()})
			if err != nil {
				t.Fatalf("byte %d %s: %v", at, what, err)
			}
			end := at >= unfinished // the mark alone is damaged
			want := 8 + min(2, recordsIn(at))
			if n := countKnown(t, j); n != want || !end && !j.Damaged() {
				t.Errorf("byte %d %s: %d are known, want %d; damaged: %v", at, what, n, want, j.Damaged())
			}
			if _, err := os.Stat(filepath.Join(dir, d.files[2]+".damaged")); err != nil && !end {
				t.Errorf("byte %d %s: %v", at, what, err)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if j = mustJournal(t, JournalConfig{Dir: dir}); countKnown(t, j) != want || j.Damaged() {
				t.Errorf("byte %d %s: after another start %d are known, want %d", at, what, countKnown(t, j), want)
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
	w.Done()
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
		w.Done()
		if err := j.SetFloor(v - 100<<20); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/field")
}
