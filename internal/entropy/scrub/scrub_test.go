package scrub

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/compactions"
	"concord/internal/enginetest"
	"concord/internal/entropy/tsmfile"
)

func noWait(ctx context.Context, _ int) error { return ctx.Err() }

func noDelete() (func(), error) { return func() {}, nil }

// setAside sets what is damaged aside, as it is done while no delete comes.
func setAside(t *testing.T, sh *tsdb.Shard, dir string) (string, []*tsmfile.Damage, error) {
	return (&Aside{Shard: sh, Dir: dir, Wait: noWait, Hold: noDelete}).Run(t.Context())
}

// newShard has series a and b with 5000 points each in one file, of which a's from 1000 to 1999 are deleted.
func newShard(t testing.TB) (*tsdb.Store, *tsdb.Shard) {
	t.Helper()
	s := enginetest.New(t.TempDir(), tsdb.InmemIndexName)
	gate := NewGate(s.EngineOptions.Config, nil)
	s.EngineOptions.CompactionPlannerCreator = gate.Planner
	t.Cleanup(func() { gate.Close() })
	sh := enginetest.Shard(t, enginetest.Open(t, s), 1)
	if _, err := compactions.Hold(sh); err != nil { // the engine compacts a file with tombstones soon
		t.Fatal(err)
	}
	var points []models.Point
	for i := range 5000 {
		for _, name := range []string{"a", "b"} {
			points = append(points, models.MustNewPoint("m", models.NewTags(map[string]string{"s": name}),
				models.Fields{"v": float64(i)}, time.Unix(0, int64(i))))
		}
	}
	enginetest.WritePoints(t, s, 1, points...)
	enginetest.Flush(t, sh)
	err := s.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: "m"}},
		influxql.MustParseExpr("s = 'a' AND time >= 1000 AND time < 2000"))
	if err != nil {
		t.Fatal(err)
	}
	return s, sh
}

// more writes n files, each with a point of both series after those that there are.
func more(t testing.TB, s *tsdb.Store, n int) {
	t.Helper()
	for i := range n {
		var points []models.Point
		for _, name := range []string{"a", "b"} {
			points = append(points, models.MustNewPoint("m", models.NewTags(map[string]string{"s": name}),
				models.Fields{"v": 1.0}, time.Unix(0, int64(10_000+i))))
		}
		enginetest.WritePoints(t, s, 1, points...)
		e, err := tsmfile.EngineOf(s.Shard(1))
		if err == nil {
			err = e.WriteSnapshot()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// file is the path of the only file with an extension.
func file(t testing.TB, sh *tsdb.Shard, ext string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(sh.Path(), "*"+ext))
	if err != nil || len(names) != 1 {
		t.Fatalf("%v %v", names, err)
	}
	return names[0]
}

// count returns the points of each series as queries see them, or the error of the read.
func count(t testing.TB, sh *tsdb.Shard) map[string]int {
	t.Helper()
	cursors, err := sh.CreateCursorIterator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]int)
	for _, name := range []string{"a", "b"} {
		cur, err := cursors.Next(t.Context(), &tsdb.CursorRequest{
			Name: []byte("m"), Tags: models.NewTags(map[string]string{"s": name}), Field: "v", Ascending: true,
			StartTime: 0,
			EndTime:   1 << 40,
		})
		if err != nil || cur == nil {
			continue
		}
		for a := cur.(tsdb.FloatArrayCursor).Next(); a.Len() > 0; a = cur.(tsdb.FloatArrayCursor).Next() {
			out[name] += a.Len()
		}
		cur.Close()
	}
	return out
}

// change writes to the file in place, as a disk that goes bad does: the engine has it mapped.
func change(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		at += info.Size()
	}
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// indexOf is the offset of the index of a file.
func indexOf(t testing.TB, path string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(binary.BigEndian.Uint64(b[len(b)-footerSize:]))
}

func TestDamageIsFoundAndSetAside(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, sh *tsdb.Shard)
		found  []string       // parts of the messages
		left   map[string]int // points after setting aside
	}{
		{"none", func(*testing.T, *tsdb.Shard) {}, nil, map[string]int{"a": 4000, "b": 5000}},
		{"a flipped bit in the first block", func(t *testing.T, sh *tsdb.Shard) {
			b, err := os.ReadFile(file(t, sh, ".tsm"))
			if err != nil {
				t.Fatal(err)
			}
			change(t, file(t, sh, ".tsm"), 200, []byte{b[200] ^ 4})
		}, []string{`block of "m,s=a v" at byte 5: its checksum is wrong`}, map[string]int{"a": 3000, "b": 5000}},
		{"a zeroed page of blocks", func(t *testing.T, sh *tsdb.Shard) {
			change(t, file(t, sh, ".tsm"), 4096, make([]byte, 4096))
		}, []string{"its checksum is wrong", "its checksum is wrong", "its checksum is wrong"}, nil},
		{"a wrong version", func(t *testing.T, sh *tsdb.Shard) {
			change(t, file(t, sh, ".tsm"), 4, []byte{9})
		}, []string{"it does not begin as a file of version 1 does"}, map[string]int{}},
		{"a wrong end", func(t *testing.T, sh *tsdb.Shard) {
			change(t, file(t, sh, ".tsm"), -8, []byte{1})
		}, []string{"there is no index where the end of the file says"}, map[string]int{}},
		{"an index without its first key", func(t *testing.T, sh *tsdb.Shard) {
			change(t, file(t, sh, ".tsm"), indexOf(t, file(t, sh, ".tsm")), []byte{0, 0})
		}, []string{"the index is not in order"}, map[string]int{}},
		{"an index entry of no block", func(t *testing.T, sh *tsdb.Shard) {
			// the second entry of the first key
			change(t, file(t, sh, ".tsm"), indexOf(t, file(t, sh, ".tsm"))+2+int64(len("m,s=a#!~#v"))+3+indexEntrySize+16,
				[]byte{9})
		}, []string{`the entry 1 of "m,s=a#!~#v" is none of a block`}, map[string]int{"a": 1000}},
		{"a damaged tombstone", func(t *testing.T, sh *tsdb.Shard) {
			change(t, file(t, sh, ".tombstone"), 12, []byte{1, 2, 3, 4, 5, 6})
		}, []string{".tombstone is damaged"}, map[string]int{"a": 4000, "b": 5000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, sh := newShard(t)
			tt.damage(t, sh)
			found, err := Verify(t.Context(), sh.Path(), noWait)
			if err != nil || len(found) != len(tt.found) {
				t.Fatalf("found %v, %v", found, err)
			}
			for i, want := range tt.found {
				if !strings.Contains(found[i].Error(), want) {
					t.Errorf("%v, want %s", found[i], want)
				}
			}
			dir := t.TempDir()
			before := names(t, sh.Path())
			kept, _, err := setAside(t, sh, dir)
			if err != nil {
				t.Fatal(err)
			}
			if tt.found == nil {
				if kept != "" || !slices.Equal(before, names(t, sh.Path())) {
					t.Error("a sound shard was changed")
				}
			} else if aside := names(t, kept); len(aside) != 2 { // the file and its tombstones
				t.Errorf("%v is kept", aside)
			}
			for _, open := range []bool{true, false} {
				if !open { // what is on disk is what the engine has
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = tsdb.NewStore(s.Path())
					s.EngineOptions.Config.WALDir = t.TempDir()
					if err := s.Open(); err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					sh = s.Shard(1)
				}
				if found, err := Verify(t.Context(), sh.Path(), noWait); err != nil || len(found) > 0 {
					t.Errorf("after setting aside: %v, %v", found, err)
				}
				got := count(t, sh)
				if tt.left != nil && fmt.Sprint(got) != fmt.Sprint(tt.left) {
					t.Errorf("%v are left, want %v", got, tt.left)
				}
				if tt.left == nil && (got["a"]+got["b"] > 7000 || got["b"] == 0) {
					t.Errorf("%v are left", got)
				}
			}
		})
	}
}

func names(t testing.TB, dir string) (out []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		out = append(out, n.Name())
	}
	return out
}

// A delete that comes while the good blocks are copied is not lost with the old file's tombstones.
func TestDeleteOvertakesSettingAside(t *testing.T) {
	t.Parallel()
	s, sh := newShard(t)
	change(t, file(t, sh, ".tsm"), 200, []byte{0xff, 0, 0xff, 0})
	overtaken := errors.New("a delete came")
	deleted := false
	dir := t.TempDir()
	a := Aside{Shard: sh, Dir: dir, Wait: noWait, Hold: func() (func(), error) {
		if err := s.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: "m"}},
			influxql.MustParseExpr("s = 'b' AND time < 1000")); err != nil {
			t.Error(err)
		}
		deleted = true
		return nil, overtaken
	}}
	if _, _, err := a.Run(t.Context()); !errors.Is(err, overtaken) || !deleted {
		t.Fatal(err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("an attempt that changed nothing leaves %v", left)
	}
	if _, _, err := setAside(t, sh, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if got := count(t, sh); got["b"] != 4000 || len(names(t, sh.Path())) > 3 {
		t.Errorf("%v are left in %v", got, names(t, sh.Path()))
	}
}

// A file that became shorter is damage and no fault.
func TestTruncatedFileIsDamage(t *testing.T) {
	t.Parallel()
	_, sh := newShard(t)
	path := file(t, sh, ".tsm")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for n := range len(b) {
		if n > 64 && n%97 != 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "000000001-000000001.tsm"), b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := Verify(t.Context(), dir, noWait); err != nil || len(found) == 0 {
			t.Fatalf("cut at %d: %v, %v", n, found, err)
		}
	}
}

// The engine would take as much memory as a damaged length says.
func TestTombstoneWithAnImpossibleKeyIsDamage(t *testing.T) {
	t.Parallel()
	good, bad := []byte("\x00\x00\x00\x01k0123456701234567"), []byte("\xff\x00\x00\x00k")
	zip := func(b ...[]byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		for _, b := range b {
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for name, tt := range map[string]struct {
		body []byte
		want int
	}{
		"plain":              {slices.Concat([]byte{0, 0, 0x15, 2}, good, bad), 1},
		"plain, whole":       {slices.Concat([]byte{0, 0, 0x15, 2}, good, good), 0},
		"zipped":             {slices.Concat([]byte{0, 0, 0x15, 3}, zip(good, bad)), 1},
		"zipped, whole":      {slices.Concat([]byte{0, 0, 0x15, 3}, zip(good, good)), 0},
		"second stream":      {slices.Concat([]byte{0, 0, 0x15, 4}, zip(good), zip(bad)), 1},
		"two streams, whole": {slices.Concat([]byte{0, 0, 0x15, 4}, zip(good), zip(good)), 0},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "000000001-000000001.tombstone"), tt.body, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := Verify(t.Context(), dir, noWait)
		if err != nil || len(found) != tt.want ||
			tt.want > 0 && !strings.Contains(found[0].Reason, "a key has 4278190080 bytes") {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

// FuzzVerify damages a file of the engine: Verify ends without a fault, and of what it finds nothing wrong with the
// engine reads every block.
func FuzzVerify(f *testing.F) {
	_, sh := newShard(f)
	whole, err := os.ReadFile(file(f, sh, ".tsm"))
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "000000001-000000001.tsm")
	f.Add(uint32(0), []byte(nil), uint32(1<<31))
	f.Add(uint32(0), []byte(nil), uint32(100))
	f.Add(uint32(0), []byte(nil), uint32(0))
	index := uint32(binary.BigEndian.Uint64(whole[len(whole)-8:]))
	for at := index; at < uint32(len(whole)); at += 5 {
		f.Add(at, []byte{1}, uint32(1<<31))
		f.Add(at, []byte{255, 255, 255, 255}, uint32(1<<31))
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, end uint32) {
		data := slices.Clone(whole)
		copy(data[int(at)%len(data):], patch)
		data = data[:min(int(end), len(data))]
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := Verify(t.Context(), dir, noWait)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return
		}
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := tsm1.NewTSMReader(in)
		if err != nil {
			t.Fatalf("no damage, and the engine cannot open it: %v", err)
		}
		defer r.Close()
		for i := range r.KeyCount() {
			key, _ := r.KeyAt(i)
			if _, err := r.ReadAll(bytes.Clone(key)); err != nil {
				t.Fatalf("no damage, and the engine cannot read %q: %v", key, err)
			}
		}
	})
}

// FuzzVerifyTombstones does so with a file of tombstones.
func FuzzVerifyTombstones(f *testing.F) {
	dir := f.TempDir()
	t := tsm1.NewTombstoner(filepath.Join(dir, "000000001-000000001.tsm"), nil)
	if err := t.AddRange([][]byte{[]byte("m,s=a#!~#v"), []byte("m,s=b#!~#v")}, 10, 20); err != nil {
		f.Fatal(err)
	}
	if err := t.Flush(); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "000000001-000000001.tombstone")
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x15, 0x02, 0, 0, 0, 1, 'x'})
	f.Add([]byte{0, 0, 0x15, 0x03, 0, 0, 0, 1, 'x'})
	f.Add([]byte("m,s=a#!~#v\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), dir, noWait); err != nil {
			t.Fatal(err)
		}
	})
}
