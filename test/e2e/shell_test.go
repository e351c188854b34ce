//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

// TestEnginesOwnPrograms asks a cluster through the shell, and then looks at the files of a node that is stopped.
func TestEnginesOwnPrograms(t *testing.T) {
	t.Parallel()
	c := process.Start(t, process.Options{Meta: 1, Data: 2})
	shell := goBuild(t, "github.com/influxdata/influxdb/cmd/influx", "-ldflags", "-X main.version=1.13.2")
	run := func(program string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		cmd.Stdin = strings.NewReader("y\n") // buildtsi asks root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", filepath.Base(program), args, err, out)
		}
		return string(out)
	}
	has := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
	at := func(i int, args ...string) string {
		t.Helper()
		host, port, _ := strings.Cut(c.Data[i].HTTP, ":")
		return run(shell, append([]string{"-host", host, "-port", port}, args...)...)
	}
	has(at(0, "-version"), "InfluxDB shell version: 1.13.2")
	file := filepath.Join(t.TempDir(), "import.txt")
	text := "# DDL\nCREATE DATABASE shop\n# DML\n# CONTEXT-DATABASE: shop\nm,s=a v=1 1000000000\nm,s=b v=2 2000000000\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at(0, "-import", "-path", file)
	at(0, "-database", "shop", "-execute", "INSERT m,s=c v=3 3000000000")
	const q = "SELECT count(v), sum(v) FROM m"
	has(at(1, "-database", "shop", "-execute", q, "-format", "csv"), "name,time,count,sum\nm,0,3,6\n")
	has(at(1, "-database", "shop", "-execute", q, "-format", "json"), `"values":[[0,3,6]]`)
	has(at(1, "-database", "shop", "-execute", q), "0    3     6")

	n := c.Data[0]
	n.Stop(syscall.SIGTERM)
	inspect := c.Bin("influx_inspect")
	data, wal := filepath.Join(n.Dir, "data"), filepath.Join(n.Dir, "wal")
	has(run(inspect, "-version"), "influx_inspect of InfluxDB 1.13.2")
	out := filepath.Join(t.TempDir(), "points")
	run(inspect, "export", "-datadir", data, "-waldir", wal, "-out", out, "-database", "shop")
	points, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"m,s=a v=1 1000000000", "m,s=b v=2 2000000000", "m,s=c v=3 3000000000"} {
		has(string(points), line)
	}
	has(run(inspect, "verify", "-dir", n.Dir), "Broken Blocks: 0")
	run(inspect, "report", data)
	run(inspect, "buildtsi", "-datadir", data, "-waldir", wal)
	files, err := filepath.Glob(filepath.Join(data, "shop", "*", "*", "*.tsm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		has(run(inspect, "dumptsm", f), "Summary")
	}
	n.Start()
	n.AwaitUp()
	has(at(0, "-database", "shop", "-execute", q, "-format", "csv"), "m,0,3,6\n")
}
