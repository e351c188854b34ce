// Package concord has only this test of its documents.
package concord

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitectureNamesEachPackage compares the packages in ARCHITECTURE.md with the folders that have Go files.
func TestArchitectureNamesEachPackage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `.*?\\|").FindAllString(string(text), -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row, -1) {
			named[m[1]] = true
		}
	}
	there := make(map[string]bool)
	for _, root := range []string{"cmd", "deploy", "internal", "test"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, ".go") {
				there[filepath.ToSlash(filepath.Dir(path))] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for p := range there {
		if !named[p] {
			t.Errorf("ARCHITECTURE.md does not name %s", p)
		}
	}
	for p := range named {
		if !there[p] {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", p)
		}
	}
}
