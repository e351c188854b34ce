package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestFlagsWriteTheirFiles(t *testing.T) {
	dir := t.TempDir()
	pid, cpu, mem := filepath.Join(dir, "run", "pid"), filepath.Join(dir, "cpu"), filepath.Join(dir, "mem")
	var f Flags
	cmd := &cobra.Command{Use: "run"}
	f.Add(cmd)
	if err := cmd.ParseFlags([]string{"--pidfile", pid, "--cpuprofile", cpu, "--memprofile", mem}); err != nil {
		t.Fatal(err)
	}
	end, err := f.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(pid); err != nil || string(b) != strconv.Itoa(os.Getpid()) {
		t.Errorf("the file has %q, %v", b, err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pid); !os.IsNotExist(err) {
		t.Errorf("the file with the ID is still there: %v", err)
	}
	for _, path := range []string{cpu, mem} {
		if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			t.Errorf("%s is no profile: %v", path, err)
		}
	}
}

// A file that cannot be written stops the start, and leaves nothing behind.
func TestFlagsThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing", "file")
	for want, f := range map[string]Flags{
		"-cpuprofile: ": {cpuProfile: missing, pidFile: filepath.Join(dir, "pid")},
		"-memprofile: ": {memProfile: missing, cpuProfile: filepath.Join(dir, "cpu"), pidFile: filepath.Join(dir, "pid")},
		"-pidfile: ":    {pidFile: filepath.Join(os.DevNull, "pid")},
	} {
		if _, err := f.Begin(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s…", err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "pid")); !os.IsNotExist(err) {
			t.Errorf("%s leaves a file with the ID", want)
		}
	}
}
