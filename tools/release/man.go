package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2/files"
)

// manual writes the manual pages of all programs, compressed.
func (r release) manual() error {
	cmd := exec.Command("go", "run", "-trimpath", "-buildvcs=false", "./deploy/man", r.manualFolder())
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
	if _, err := output(cmd); err != nil {
		return err
	}
	pages, err := r.pages()
	if err != nil {
		return err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(text)
		if err := z.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(page+".gz", b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r release) manualFolder() string { return filepath.Join(r.out, "build", "man") }

// pages are the paths of the manual pages, before they are compressed.
func (r release) pages() ([]string, error) {
	return filepath.Glob(filepath.Join(r.manualFolder(), "*.1"))
}

// manualOf are the pages of a package: those of its programs.
func (r release) manualOf(name string) (files.Contents, error) {
	pages, err := r.pages()
	if err != nil {
		return nil, err
	}
	var of files.Contents
	for _, page := range pages {
		base := filepath.Base(page)
		ofMeta := strings.HasPrefix(base, "influxd-meta") || strings.HasPrefix(base, "influxd-ctl")
		if ofMeta == (name == "concord-meta") {
			of = append(of, &files.Content{
				Source: page + ".gz", Destination: "/usr/share/man/man1/" + base + ".gz",
				FileInfo: &files.ContentFileInfo{Mode: 0o644},
			})
		}
	}
	return of, nil
}
