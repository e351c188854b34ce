package fieldindex

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is in the log: it is judged in one line and left as it is, and the process goes on.
func FuzzReplay(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0, 6, 1, 3}, []byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 6, 1, 3, 10, 0}, []byte{2, 0, 0, 0, 0, 0, 0, 0, 10, 0})
	f.Add([]byte{0, 6, 1, 3, 0xff}, []byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, index, log []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{indexName: index, logName: log} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, reason, err := replay(dir)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(reason, "\n") {
			t.Errorf("the reason has several lines: %q", reason)
		}
		for name, b := range map[string][]byte{indexName: index, logName: log} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s changed: %v", name, err)
			}
		}
	})
}
