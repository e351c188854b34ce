package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// checkChangelog refuses a release that CHANGELOG.md has no section for.
func (r release) checkChangelog() error {
	b, err := os.ReadFile(filepath.Join(r.root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	// With the date, as in "## v1.2.3, 2026-12-01".
	section := regexp.MustCompile(`(?m)^## ` + regexp.QuoteMeta(r.version) + `, \d{4}-\d\d-\d\d$`)
	if !section.Match(b) {
		return fmt.Errorf("CHANGELOG.md has no section \"## %s, YYYY-MM-DD\": rename Unreleased first", r.version)
	}
	return nil
}
