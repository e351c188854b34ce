package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// documents are in each archive, beside the programs.
var documents = []string{
	"CHANGELOG.md", "LICENSE", "README.md", "etc/influxdb.conf", "etc/influxdb-meta.conf",
}

// archives builds an archive for each platform, with the list of modules in it, and the checksums of all.
func (r release) archives() error {
	if err := r.checkChangelog(); err != nil {
		return err
	}
	sums := map[string]string{}
	write := func(name string, b []byte) error {
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(b))
		return os.WriteFile(filepath.Join(r.out, name), b, 0o644)
	}
	for _, p := range r.platforms {
		if err := r.build(p); err != nil {
			return err
		}
		name := r.archive(p)
		files, err := r.contents(p)
		if err != nil {
			return err
		}
		pack := r.tarball
		if p.system == "windows" {
			pack = r.zipped
		}
		b, err := pack(files)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := write(name, b); err != nil {
			return err
		}
	}
	bom, err := r.sbom()
	if err != nil {
		return err
	}
	if err := write("concord_"+r.number()+"_sbom.json", bom); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), checksums(sums), 0o644)
}

// number is the version without its v.
func (r release) number() string { return strings.TrimPrefix(r.version, "v") }

// archive is the name of the archive of a platform.
func (r release) archive(p platform) string {
	ending := ".tar.gz"
	if p.system == "windows" {
		ending = ".zip"
	}
	return fmt.Sprintf("concord_%s_%s_%s%s", r.number(), p.system, p.arch, ending)
}

// checksums is a file as sha256sum has it.
func checksums(of map[string]string) []byte {
	var b bytes.Buffer
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s  %s\n", of[name], name)
	}
	return b.Bytes()
}

// file is one of an archive.
type file struct {
	name string // in the archive
	mode os.FileMode
	body []byte
}

// contents are the files of the archive of a platform, in one folder, by name.
func (r release) contents(p platform) ([]file, error) {
	var files []file
	add := func(name, path string, mode os.FileMode) error {
		b, err := os.ReadFile(path)
		files = append(files, file{"concord_" + r.number() + "/" + name, mode, b})
		return err
	}
	for _, program := range p.programs() {
		name := p.file(program)
		if err := add(name, filepath.Join(r.folder(p), name), 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range documents {
		if err := add(name, filepath.Join(r.root, name), 0o644); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// tarball packs files. All have the date of the release, and belong to nobody.
func (r release) tarball(files []file) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{
			Name: f.name, Mode: int64(f.mode), Size: int64(len(f.body)), ModTime: r.date, Format: tar.FormatPAX,
		})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// zipped packs files as Windows knows them.
func (r release) zipped(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: r.date}
		h.SetMode(f.mode)
		entry, err := w.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(entry, bytes.NewReader(f.body)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
