package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	engine = "github.com/influxdata/influxdb"
	shell  = engine + "/cmd/influx"
)

// servers do not run on Windows: the clients alone are built for it.
var (
	servers = []string{"influxd", "influxd-meta"}
	clients = []string{"influx", "influxd-ctl", "influx_inspect"}
)

// programs are what a release has for a platform.
func (p platform) programs() []string {
	if p.system == "windows" {
		return clients
	}
	return append(append([]string{}, servers...), clients...)
}

// file is the name of a program on the platform.
func (p platform) file(program string) string {
	if p.system == "windows" {
		return program + ".exe"
	}
	return program
}

// folder is where build leaves the programs of a platform.
func (r release) folder(p platform) string {
	return filepath.Join(r.out, "build", p.system+"_"+p.arch)
}

// build compiles the programs of a platform. Nothing of this machine gets into them: no path, no user, no time.
func (r release) build(p platform) error {
	version, err := r.goTool(platform{}, "list", "-m", "-f", "{{.Version}}", engine)
	if err != nil {
		return err
	}
	args := []string{
		"build", "-trimpath", "-buildvcs=false", "-o", r.folder(p) + "/",
		"-ldflags", fmt.Sprintf("-s -w -buildid= -X concord/internal/version.release=%s -X main.version=%s",
			r.version, strings.TrimPrefix(strings.TrimSpace(string(version)), "v")),
	}
	for _, program := range p.programs() {
		if program == "influx" {
			args = append(args, shell)
		} else {
			args = append(args, "./cmd/"+program)
		}
	}
	if err := os.MkdirAll(r.folder(p), 0o755); err != nil {
		return err
	}
	_, err = r.goTool(p, args...)
	return err
}

// goTool runs a command of Go in the repository, for a platform, and returns its output.
func (r release) goTool(p platform, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS="+p.system, "GOARCH="+p.arch)
	return output(cmd)
}

// output runs a command, and puts what it says into its error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
