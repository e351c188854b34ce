package copystate

import (
	"os"
	"testing"
)

func removeAll(path string) error { return os.RemoveAll(path) }

func mustCopy(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
