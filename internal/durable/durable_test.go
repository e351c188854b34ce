package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"concord/internal/durable"
)

// files are the contents of all files of a folder, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, n := range names {
		if n.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[n.Name()] = string(b)
	}
	return out
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := durable.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestWriteFileReplacesTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	mustWrite(t, path, "the first, which is longer")
	// What a crash left behind of another attempt.
	if err := os.WriteFile(path+".tmp", []byte("a part that is longer than the second"), 0o640); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, path, "the second")
	if d := cmp.Diff(map[string]string{"file": "the second"}, files(t, dir)); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestReplaceLeavesTheOldFileAfterAnError(t *testing.T) {
	t.Parallel()
	full := errors.New("the disk is full")
	for _, tt := range []struct {
		name  string
		write func(*os.File) error
		want  error
	}{
		{"the contents cannot be written", func(f *os.File) error {
			_, err := f.WriteString("a part")
			return errors.Join(err, full)
		}, full},
		{"the contents cannot be synced", func(f *os.File) error { return f.Close() }, os.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			mustWrite(t, path, "old")
			err := durable.Replace(path, filepath.Join(dir, "pending"), 0o640, tt.write)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if d := cmp.Diff(map[string]string{"file": "old"}, files(t, dir)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestAFileThatCannotGetItsNameIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o640); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if d := cmp.Diff(map[string]string{}, files(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestSyncDirNamesAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := durable.SyncDir(dir); err != nil {
		t.Error(err)
	}
	gone := filepath.Join(dir, "gone")
	if err := durable.SyncDir(gone); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), gone) {
		t.Errorf("%v", err)
	}
}

// Each file that is set aside gets a name of its own, and nothing happens without a file.
func TestSetAside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	if aside, err := durable.SetAside(path, "damaged"); aside != "" || err != nil {
		t.Errorf("without a file: %q, %v", aside, err)
	}
	for _, n := range []string{"1", "2"} {
		mustWrite(t, path, n)
		aside, err := durable.SetAside(path, "damaged")
		if b, failed := os.ReadFile(aside); aside != path+".damaged-"+n || string(b) != n || err != nil || failed != nil {
			t.Errorf("%q has %q: %v, %v", aside, b, err, failed)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the file is there still: %v", err)
		}
	}
}
