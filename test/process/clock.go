package process

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Binaries that are built for Options.Clocks have a wall clock that tests can move, each process its own. Neither the
// system's clock nor the product's code changes: the build lays another time.Now over that of Go's library, and one
// more file into cmd/influxd, which reads by how much the clock is off. As on a machine whose wall clock is set,
// timers and the time between two calls of time.Now stay right.

// clockEnv names the file that says by how many nanoseconds a node's clock is off.
const clockEnv = "CONCORD_TEST_CLOCK"

// nowBefore and nowAfter are the line of time.Now that is replaced.
const (
	nowBefore = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	nowAfter  = nowBefore + `	if off := TestClock.Load(); off != 0 {
		shifted := sec*1e9 + int64(nsec) + off
		sec, nsec = shifted/1e9, int32(shifted%1e9)
	}
`
	testClock = "package time\n\nimport \"sync/atomic\"\n\n// TestClock is by how many nanoseconds Now is off.\nvar TestClock atomic.Int64\n"
	readClock = `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	file := os.Getenv("` + clockEnv + `")
	if file == "" {
		return
	}
	read := func() {
		if b, err := os.ReadFile(file); err == nil {
			if off, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				time.TestClock.Store(off)
			}
		}
	}
	read()
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			read()
		}
	}()
}
`
)

// clockOverlay writes to dir the files that are laid over others, and the list that names them, which it returns.
func clockOverlay(dir string) (string, error) {
	ask := func(args ...string) (string, error) {
		out, err := exec.Command("go", args...).Output()
		if err != nil {
			return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	library, err := ask("list", "-f", "{{.Dir}}", "time")
	if err != nil {
		return "", err
	}
	command, err := ask("list", "-f", "{{.Dir}}", "concord/cmd/influxd")
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return "", err
	}
	moved := strings.Replace(string(source), nowBefore, nowAfter, 1)
	if moved == string(source) {
		return "", fmt.Errorf("time.Now of this version of Go has another form than test/process/clock.go knows: clocks cannot be moved")
	}
	laid := map[string]string{
		filepath.Join(library, "time.go"):      moved,
		filepath.Join(library, "testclock.go"): testClock,
		filepath.Join(command, "testclock.go"): readClock,
	}
	replace := make(map[string]string)
	for path, text := range laid {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		replace[path] = file
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o644)
}

func (n *Node) clock() string { return n.Dir + ".clock" }

// SetClock moves a data node's clock away from that of the machine, within 50 ms when the node runs. It
// stays moved when the node restarts. The cluster must have been started with Options.Clocks.
func (n *Node) SetClock(off time.Duration) error {
	return os.WriteFile(n.clock(), fmt.Append(nil, off.Nanoseconds()), 0o644)
}
