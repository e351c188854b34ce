// Package concord has only tests of its documents.
package concord

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
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

// TestLinesOfProseEndBefore120Characters looks at the comments of programs, and at documents without their tables,
// links and examples.
func TestLinesOfProseEndBefore120Characters(t *testing.T) {
	t.Parallel()
	others := map[string]bool{"testdata": true, "third_party": true, "node_modules": true}
	prose := map[string]*regexp.Regexp{
		".go":    regexp.MustCompile(`^\s*//`),
		".proto": regexp.MustCompile(`//`),
		".md":    regexp.MustCompile(`^([^|!\[ ]|  ? ?[^ ])`),
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		is := prose[filepath.Ext(path)]
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || others[d.Name()]):
			return filepath.SkipDir
		case d.IsDir() || is == nil || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for i, line := range strings.Split(string(text), "\n") {
			if n := utf8.RuneCountInString(line); n > 120 && is.MatchString(line) {
				t.Errorf("%s:%d has %d characters: wrap it", path, i+1, n)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
