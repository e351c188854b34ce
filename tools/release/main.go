// Command release builds what a release of Concord consists of. Two runs on the same commit give the same bytes.
//
//	release packages -version v1.2.3   # .deb and .rpm
//	release archives -version v1.2.3   # .tar.gz and .zip, a list of what is in them (SBOM), checksums
//	release images   -version v1.2.3   # OCI images
//
// It runs in the root of the repository, and writes to the folder dist.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

var outputs = map[string]func(release) error{
	"packages": release.packages,
	"archives": release.archives,
	"images":   release.images,
}

func run(args []string) error {
	if len(args) == 0 || outputs[args[0]] == nil {
		return fmt.Errorf("give one of packages, archives, images")
	}
	r := release{out: "dist", platforms: platforms}
	var only string
	flags := flag.NewFlagSet("release", flag.ExitOnError)
	flags.StringVar(&r.root, "root", ".", "root of the repository")
	flags.StringVar(&r.version, "version", "", "version of the release, such as v1.2.3")
	flags.StringVar(&r.out, "out", r.out, "folder for what is built, below the root unless it is absolute")
	flags.StringVar(&r.push, "push", "", "push the images to this repository, such as registry.example.com/concord")
	flags.StringVar(&only, "only", "", "build for this platform alone, such as linux/amd64")
	flags.Parse(args[1:])
	if only != "" {
		system, arch, _ := strings.Cut(only, "/")
		r.platforms = []platform{{system, arch}}
	}
	if err := r.locate(); err != nil {
		return err
	}
	return outputs[args[0]](r)
}

// release is what the outputs are made of. It has many methods because each output, and each step of making one, is
// one.
type release struct {
	root      string // of the repository, absolute
	out       string // absolute
	version   string
	date      time.Time // of everything that is built
	platforms []platform
	push      string // repository for images; empty for none
}

// platform is an operating system and an architecture, by Go's names.
type platform struct{ system, arch string }

var platforms = []platform{
	{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"},
}

// linux are the platforms of packages and images.
func (r release) linux() []platform {
	var of []platform
	for _, p := range r.platforms {
		if p.system == "linux" {
			of = append(of, p)
		}
	}
	return of
}

// locate completes the folders and the date: SOURCE_DATE_EPOCH, or that of the last commit.
func (r *release) locate() (err error) {
	if !strings.HasPrefix(r.version, "v") {
		return fmt.Errorf("the version %q does not begin with v: give -version vX.Y.Z", r.version)
	}
	if r.root, err = filepath.Abs(r.root); err != nil {
		return err
	}
	if !filepath.IsAbs(r.out) {
		r.out = filepath.Join(r.root, r.out)
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		commit, err := exec.Command("git", "-C", r.root, "log", "-1", "--format=%ct").Output()
		if err != nil {
			return fmt.Errorf("no date: this is no checkout of Git, and SOURCE_DATE_EPOCH is not set: %w", err)
		}
		epoch = strings.TrimSpace(string(commit))
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("the date is %q and not seconds since 1970: %w", epoch, err)
	}
	r.date = time.Unix(seconds, 0).UTC()
	return nil
}
