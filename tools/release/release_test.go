package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// copies are releases of two copies of the repository, which have a section for the version in their CHANGELOG.
func copies(t *testing.T) []release {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: it compiles all programs")
	}
	first, second := t.TempDir(), t.TempDir()
	script := `cd ../.. && git ls-files -z | xargs -0 tar -c | tar -x -C "$1" &&
		printf '\n## v9.9.9, 2030-01-02\n' >>"$1/CHANGELOG.md" && cp -a "$1/." "$2"`
	if out, err := exec.Command("sh", "-c", script, "sh", first, second).CombinedOutput(); err != nil {
		t.Fatalf("copy the repository: %v\n%s", err, out)
	}
	var of []release
	for _, root := range []string{first, second} {
		of = append(of, release{
			root: root, out: filepath.Join(root, "dist"), version: "v9.9.9", date: time.Unix(1893456000, 0).UTC(),
			platforms: []platform{{"linux", runtime.GOARCH}},
		})
	}
	return of
}

// made are the files of a release, without what it was built from.
func made(t *testing.T, r release) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.Walk(r.out, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || strings.Contains(path, "/build/") {
			return err
		}
		name, _ := filepath.Rel(r.out, path)
		files[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Two people who build the same commit in different folders get the same bytes.
func TestReleasesAreReproducible(t *testing.T) {
	var all []map[string][]byte
	var r release
	for _, r = range copies(t) {
		for _, output := range []string{"archives", "packages", "images"} {
			if err := outputs[output](r); err != nil {
				t.Fatalf("%s: %v", output, err)
			}
		}
		all = append(all, made(t, r))
	}
	if len(all[0]) < 12 {
		t.Errorf("only %d files were made", len(all[0]))
	}
	for name, b := range all[0] {
		if !bytes.Equal(b, all[1][name]) {
			t.Errorf("%s differs: %d and %d bytes", name, len(b), len(all[1][name]))
		}
		if bytes.Contains(b, []byte(r.root)) {
			t.Errorf("%s has the folder in which it was built", name)
		}
	}
	for _, program := range r.platforms[0].programs() {
		out, err := exec.Command(filepath.Join(r.folder(r.platforms[0]), program), "-version").CombinedOutput()
		want := r.version
		if program == "influx" {
			want = "1.13." // the engine's own
		}
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s -version prints %q, %v", program, out, err)
		}
	}
	checkSums(t, r)
	checkImage(t, r)
}

// checkSums compares the checksums with the files, as a user does.
func checkSums(t *testing.T, r release) {
	t.Helper()
	sums := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	sums.Dir = r.out
	if out, err := sums.CombinedOutput(); err != nil || strings.Count(string(out), "OK\n") != len(r.platforms)+1 {
		t.Errorf("the checksums are wrong: %v\n%s", err, out)
	}
}

// checkImage looks at the image of a data node.
func checkImage(t *testing.T, r release) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(filepath.Join(r.out, "images", "data"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the index has %+v, %v", manifest, err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532" || c.Architecture != runtime.GOARCH || c.Config.Healthcheck == nil {
		t.Errorf("the image has the configuration %+v", c)
	}
	programs := 0
	files := tar.NewReader(mutate.Extract(img))
	for {
		h, err := files.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "usr/bin/") && h.Typeflag == tar.TypeReg {
			programs++
		}
		if strings.HasPrefix(h.Name, "var/lib/influxdb") && h.Uid != user {
			t.Errorf("%s belongs to %d", h.Name, h.Uid)
		}
	}
	if programs != 3 {
		t.Errorf("the image has %d programs", programs)
	}
}

func TestAReleaseNeedsASectionOfTheChangelog(t *testing.T) {
	r := release{root: t.TempDir(), version: "v1.2.3"}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.root, "CHANGELOG.md"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# Changelog\n\n## Unreleased\n\n## v1.2.30, 2030-01-02\n")
	want := `CHANGELOG.md has no section "## v1.2.3, YYYY-MM-DD": rename Unreleased first`
	if err := r.checkChangelog(); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	write("# Changelog\n\n## v1.2.3, 2030-01-02\n")
	if err := r.checkChangelog(); err != nil {
		t.Error(err)
	}
}

// systemd accepts the units as they are, with the drop-in that both share.
func TestUnitsAreClean(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("skipped: systemd-analyze is not installed")
	}
	root := t.TempDir()
	units := filepath.Join(root, "usr/lib/systemd/system")
	for _, unit := range []string{"influxdb.service", "influxdb-meta.service"} {
		copyFile(t, "../../deploy/packages/"+unit, filepath.Join(units, unit), 0o644)
		copyFile(t, "../../deploy/packages/hardening.conf", filepath.Join(units, unit+".d", "hardening.conf"), 0o644)
	}
	targets, err := filepath.Glob("/usr/lib/systemd/system/*.target")
	if err != nil || len(targets) == 0 {
		t.Skip("skipped: systemd's own units are not installed")
	}
	for _, target := range append(targets, "/usr/lib/systemd/system/-.slice") {
		if b, err := os.ReadFile(target); err == nil {
			writeFile(t, filepath.Join(units, filepath.Base(target)), b, 0o644)
		}
	}
	for _, program := range []string{"bin/sh", "usr/bin/influxd", "usr/bin/influxd-meta"} {
		writeFile(t, filepath.Join(root, program), []byte("#!/bin/sh\n"), 0o755)
	}
	if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root,
		"influxdb.service", "influxdb-meta.service").CombinedOutput()
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "influx") { // others are about systemd's own units
			t.Error(line)
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, b, mode)
}

func writeFile(t *testing.T, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}
