package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the format
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers the format
)

// service is the name of the service of a package.
var service = map[string]string{"concord-data": "influxdb", "concord-meta": "influxdb-meta"}

var formats = []string{"deb", "rpm"}

// packages builds the packages for Linux. Their contents are in deploy/packages.
func (r release) packages() error {
	// The programs of this machine write what packages have besides programs, for all architectures.
	own := platform{runtime.GOOS, runtime.GOARCH}
	if err := errors.Join(r.build(own), r.manual()); err != nil {
		return err
	}
	for _, p := range r.linux() {
		if p != own {
			if err := r.build(p); err != nil {
				return err
			}
		}
		if err := r.generate(r.folder(own), r.folder(p)); err != nil {
			return err
		}
		for name := range service {
			if err := r.writePackages(name, p); err != nil {
				return fmt.Errorf("%s for %s: %w", name, p.arch, err)
			}
		}
	}
	return nil
}

// generated are the files of packages that programs print.
var generated = []struct {
	file    string
	program string
	args    []string
	env     string
}{
	// A data node of the same machine has the folder that the sample names.
	{"influxdb-meta.conf", "influxd-meta", []string{"config"}, "INFLUXDB_META_DIR=/var/lib/influxdb/meta-node"},
	{"completion.bash", "influxd-ctl", []string{"completion", "bash"}, ""},
	{"completion.zsh", "influxd-ctl", []string{"completion", "zsh"}, ""},
	{"completion.fish", "influxd-ctl", []string{"completion", "fish"}, ""},
}

// generate runs programs in one folder, and writes what they print into another one.
func (r release) generate(programs, folder string) error {
	for _, g := range generated {
		cmd := exec.Command(filepath.Join(programs, g.program), g.args...)
		cmd.Env = []string{g.env}
		text, err := output(cmd)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, g.file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writePackages writes one package for a platform, in all formats.
func (r release) writePackages(name string, p platform) error {
	values := map[string]string{"BUILD": r.folder(p), "ARCH": p.arch, "VERSION": r.version}
	description, err := nfpm.ParseFileWithEnvMapping(filepath.Join(r.root, "deploy/packages", name+".yaml"),
		func(key string) string { return values[key] })
	if err != nil {
		return err
	}
	for _, format := range formats {
		info, err := r.complete(description, format, name)
		if err != nil {
			return err
		}
		packager, err := nfpm.Get(format)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := packager.Package(info, &b); err != nil {
			return err
		}
		file := filepath.Join(r.out, packager.ConventionalFileName(info))
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// complete adds to a description what depends on the release: folders, scripts, manual pages, and the date.
func (r release) complete(description nfpm.Config, format, name string) (*nfpm.Info, error) {
	info, err := description.Get(format)
	if err != nil {
		return nil, err
	}
	for _, c := range info.Contents {
		if c.Source != "" && !filepath.IsAbs(c.Source) {
			c.Source = filepath.Join(r.root, c.Source)
		}
	}
	pages, err := r.manualOf(name)
	if err != nil {
		return nil, err
	}
	info.Contents = append(info.Contents, pages...)
	if info.Scripts, err = r.scripts(name); err != nil {
		return nil, err
	}
	info.MTime = r.date
	info.RPM.BuildHost = "localhost" // or the packages of two machines differ
	return nfpm.WithDefaults(info), nil
}

// scripts are those that run when a package comes and goes. They are the same for both packages, but for the name of
// the service.
func (r release) scripts(name string) (nfpm.Scripts, error) {
	folder := filepath.Join(r.out, "build", name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nfpm.Scripts{}, err
	}
	of := func(script string) string { return filepath.Join(folder, script+".sh") }
	for _, script := range []string{"preinstall", "postinstall", "preremove", "postremove"} {
		text, err := os.ReadFile(filepath.Join(r.root, "deploy/packages", script+".sh"))
		if err != nil {
			return nfpm.Scripts{}, err
		}
		text = bytes.ReplaceAll(text, []byte("@SERVICE@"), []byte(service[name]))
		if err := os.WriteFile(of(script), text, 0o755); err != nil {
			return nfpm.Scripts{}, err
		}
	}
	return nfpm.Scripts{
		PreInstall: of("preinstall"), PostInstall: of("postinstall"),
		PreRemove: of("preremove"), PostRemove: of("postremove"),
	}, nil
}
