package process

import (
	"archive/zip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoCommit is the error of BuildCommit where the history lacks the commit.
var ErrNoCommit = errors.New("is not in the history here")

// Previous is the last release before this commit: the newest tag of a version in the history, or otherwise when there
// is none yet.
func Previous(otherwise string) string {
	tag, err := exec.Command("git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^").Output()
	if err != nil {
		return otherwise
	}
	return strings.TrimSpace(string(tag))
}

// BuildCommit builds the programs of a commit out of the history, which a copy of the source without it, or a shallow
// one, lacks. Main removes what is built.
func BuildCommit(commit string) (Build, error) {
	if out, err := exec.Command("git", "cat-file", "-e", commit+"^{commit}").CombinedOutput(); err != nil {
		return Build{}, fmt.Errorf("commit %s %w: %w: %s", commit, ErrNoCommit, err, out)
	}
	dir, err := os.MkdirTemp("", "concord-former-")
	if err != nil {
		return Build{}, err
	}
	defer os.RemoveAll(dir)
	archive, source := filepath.Join(dir, "source.zip"), filepath.Join(dir, "source")
	git := exec.Command("git", "archive", "--format=zip", "-o", archive, commit)
	git.Dir = "../.." // what is archived is below the working directory
	if out, err := git.CombinedOutput(); err != nil {
		return Build{}, fmt.Errorf("git archive: %w: %s", err, out)
	}
	z, err := zip.OpenReader(archive)
	if err != nil {
		return Build{}, err
	}
	defer z.Close()
	if err := os.CopyFS(source, z); err != nil {
		return Build{}, err
	}
	// With -trimpath, the next run finds in Go's cache what this one compiled in a folder of another name.
	return BuildFrom(source, "-trimpath", "-buildvcs=false")
}
