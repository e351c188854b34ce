//go:build packages

package packages

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// box is a machine for a test: a root with Debian in it, and a network and processes of its own.
type box struct {
	t     *testing.T
	root  string
	pid   int      // of its first process
	enter []string // begins a command in it
}

// newBox starts a machine in a root. It ends with the test, and all its processes with it.
func newBox(t *testing.T, root, name string) *box {
	t.Helper()
	write(t, filepath.Join(root, "etc/hosts"), "127.0.0.1 localhost "+name+"\n")
	cmd := exec.Command("unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child", "sh", "-c",
		`hostname "$1" && ip link set lo up && mount -t proc proc "$2/proc" && echo up && exec sleep 3600`,
		"sh", name, root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		t.Fatalf("the box did not start: %v", err)
	}
	pid := childOf(cmd)
	if pid == 0 {
		t.Fatal("the box has no process")
	}
	return &box{t: t, root: root, pid: pid, enter: []string{
		"nsenter", "--net", "--pid", "--mount", "--uts", "-t", strconv.Itoa(pid), "chroot", root,
	}}
}

// bootBox starts a machine whose first process is the systemd in a root.
func bootBox(t *testing.T, root, name string) *box {
	t.Helper()
	write(t, filepath.Join(root, "etc/hosts"), "127.0.0.1 localhost "+name+"\n")
	write(t, filepath.Join(root, "etc/hostname"), name+"\n")
	cmd := exec.Command("systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--console=pipe",
		"--machine", name, "--directory", root, "--boot")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, root: root}
	t.Cleanup(func() { // all processes of a box end with its first one
		if b.pid != 0 {
			syscall.Kill(b.pid, syscall.SIGKILL)
		} else {
			cmd.Process.Kill()
		}
		cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if b.pid = childOf(cmd); b.pid == 0 {
			continue
		}
		b.enter = []string{"nsenter", "--all", "-t", strconv.Itoa(b.pid)}
		if b.command("systemctl is-system-running | grep -E 'running|degraded'").Run() == nil {
			return b
		}
	}
	t.Skip("skipped: no systemd starts in a container here")
	return nil
}

// childOf is the first process that a command has started, 0 while there is none.
func childOf(cmd *exec.Cmd) int {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	first, _, _ := strings.Cut(string(children), " ")
	pid, parseErr := strconv.Atoi(first)
	if err != nil || parseErr != nil {
		return 0
	}
	return pid
}

// command is a command of a shell in the box.
func (b *box) command(script string) *exec.Cmd {
	args := append(slices.Clone(b.enter), "/bin/sh", "-c", script)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "LC_ALL=C",
	}
	return cmd
}

// run runs a command of a shell, which must succeed, and returns what it prints.
func (b *box) run(script string) string {
	b.t.Helper()
	out, err := b.command(script).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// until runs a command until it succeeds, for at most a minute.
func (b *box) until(script string) {
	b.t.Helper()
	var out []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		var err error
		if out, err = b.command(script).CombinedOutput(); err == nil {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	b.t.Fatalf("%s fails:\n%s", script, out)
}

// connect gives two boxes a network: the first one is 10.77.0.1, the second one 10.77.0.2.
func connect(t *testing.T, first, second *box) {
	t.Helper()
	for _, b := range []*box{first, second} {
		write(t, filepath.Join(b.root, "etc/hosts"), "127.0.0.1 localhost\n10.77.0.1 first\n10.77.0.2 second\n")
	}
	host := func(b *box, args string) {
		t.Helper()
		all := append([]string{"--net", "-t", strconv.Itoa(b.pid), "ip"}, strings.Fields(args)...)
		if out, err := exec.Command("nsenter", all...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	host(first, fmt.Sprintf("link add cable type veth peer name cable netns %d", second.pid))
	host(first, "addr add 10.77.0.1/24 dev cable")
	host(second, "addr add 10.77.0.2/24 dev cable")
	host(first, "link set cable up")
	host(second, "link set cable up")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
