package datanode

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"concord/internal/cluster"
)

// shardFiles are the files in two folders, with what is in them.
func shardFiles(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*", "*", "*", "file"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.TrimPrefix(f, filepath.Dir(dir))] = string(b)
		}
	}
	return out
}

// Folders change their names also where the new name of one is the old name of another, and after a crash between any
// two renames.
func TestAdoptionIsFinishedAfterACrash(t *testing.T) {
	t.Parallel()
	moves := []cluster.ShardMove{
		{Database: "db", RetentionPolicy: "rp", From: 1, To: 2},
		{Database: "db", RetentionPolicy: "rp", From: 2, To: 3},
		{Database: "db", RetentionPolicy: "rp", From: 3, To: 1}, {Database: "db", RetentionPolicy: "rp", From: 7},
	}
	want := map[string]string{
		"/data/db/rp/2/file": "1", "/data/db/rp/3/file": "2", "/data/db/rp/1/file": "3",
		"/data/db/rp/7.aside/file": "7",
		"/wal/db/rp/2/file":        "1", "/wal/db/rp/3/file": "2", "/wal/db/rp/1/file": "3", "/wal/db/rp/7.aside/file": "7",
	}
	const renames = 16 // of four folders, twice each, in two places
	for crash := range renames {
		dir := t.TempDir()
		f := dataFolder{dir: filepath.Join(dir, "data"), walDir: filepath.Join(dir, "wal"), log: zap.NewNop()}
		for _, place := range []string{f.dir, f.walDir} {
			for _, id := range []string{"1", "2", "3", "7"} {
				shard := filepath.Join(place, "db", "rp", id)
				if err := os.MkdirAll(shard, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(shard, "file"), []byte(id), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		a := adoption{Cluster: 42, Moves: moves}
		if err := f.writeAdoption(a); err != nil {
			t.Fatal(err)
		}
		if err := f.resumeAdoption(); err != nil || len(shardFiles(t, f.dir)) != 4 {
			t.Fatalf("%v: an adoption that the cluster does not have yet changed the folders", err)
		}
		a.Committed = true
		if err := f.writeAdoption(a); err != nil {
			t.Fatal(err)
		}
		left := crash
		err := f.finishAdoption(a, func(from, to string) error {
			if left--; left < 0 {
				return os.ErrDeadlineExceeded // the crash
			}
			return rename(from, to)
		})
		if err == nil {
			t.Fatal("the crash did not happen")
		}
		if err := f.resumeAdoption(); err != nil {
			t.Fatalf("crash before rename %d: %v", crash, err)
		}
		if got := shardFiles(t, f.dir, f.walDir); !maps.Equal(got, want) {
			t.Fatalf("crash before rename %d: %v", crash, got)
		}
		if mark, err := readMark(f.dir); err != nil || mark != 42 {
			t.Errorf("the mark is %x, %v", mark, err)
		}
	}
}

func TestDamagedAdoptionFileIsRefused(t *testing.T) {
	t.Parallel()
	f := dataFolder{dir: t.TempDir(), walDir: t.TempDir(), log: zap.NewNop()}
	if err := f.writeAdoption(adoption{Cluster: 42}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, adoptionFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string]string{
		"a flipped digit": strings.Replace(string(b), "42", "43", 1), "cut off": string(b[:len(b)/2]),
		"a later version": strings.Replace(string(b), `"version":1`, `"version":2`, 1), "empty": "",
	} {
		if err := os.WriteFile(path, []byte(damaged), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := f.resumeAdoption(); err == nil || !strings.Contains(err.Error(), adoptionFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
