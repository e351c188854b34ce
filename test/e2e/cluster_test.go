//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/internal/devcluster"
)

// processes is a cluster of one meta node and data nodes, each a process of its own.
type processes struct {
	t    *testing.T
	bin  string // folder of the binaries
	dir  string // folder of all files
	meta string // HTTP address of the meta node
	data []*dataProcess
}

type dataProcess struct {
	tcp, http string
	dir, conf string
	cmd       *exec.Cmd
}

func (d *dataProcess) client() devcluster.Client {
	return devcluster.Client{Base: "http://" + d.http}
}

// freeAddr returns a loopback address that nobody listens on just now.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// startProcesses builds the binaries, starts all nodes and joins them with influxd-ctl.
func startProcesses(t *testing.T, nodes int) *processes {
	t.Helper()
	p := &processes{t: t, bin: t.TempDir(), dir: t.TempDir(), meta: freeAddr(t)}
	build := exec.Command("go", "build", "-o", p.bin, "concord/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	conf := p.write("meta.conf", fmt.Sprintf("[meta]\n  dir = %q\n  bind-address = %q\n  http-bind-address = %q\n",
		filepath.Join(p.dir, "meta"), freeAddr(t), p.meta))
	p.run("influxd-meta", "run", "-config", conf)
	p.await("the meta node answers", func() bool { _, err := p.tryCtl("show"); return err == nil })
	p.ctl("add-meta", p.meta)

	for i := range nodes {
		d := &dataProcess{tcp: freeAddr(t), http: freeAddr(t), dir: filepath.Join(p.dir, fmt.Sprintf("data%d", i+1))}
		d.conf = p.write(fmt.Sprintf("data%d.conf", i+1), fmt.Sprintf(`bind-address = %q
[meta]
  dir = %q
[data]
  dir = %q
  wal-dir = %q
[http]
  bind-address = %q
  log-enabled = false
[monitor]
  store-enabled = false
[hinted-handoff]
  enabled = false
[anti-entropy]
  check-interval = "2s"
  settle = "1s"
`, d.tcp, d.dir+"/meta", d.dir+"/data", d.dir+"/wal", d.http))
		p.data = append(p.data, d)
		p.start(i)
		if out := p.ctl("add-data", d.tcp); !strings.HasPrefix(out, "Added data node ") || !strings.Contains(out, d.tcp) {
			t.Fatalf("add-data printed %q", out)
		}
	}
	return p
}

func (p *processes) write(name, text string) string {
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// run starts a process that the test's end kills; its log is shown when the test fails.
func (p *processes) run(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if p.t.Failed() {
			text := log.String()
			p.t.Logf("%s %s:\n%s", name, strings.Join(args, " "), text[max(0, len(text)-8000):])
		}
	})
	return cmd
}

// start starts data node i and waits until it answers.
func (p *processes) start(i int) {
	p.t.Helper()
	d := p.data[i]
	d.cmd = p.run("influxd", "run", "-config", d.conf)
	p.await(fmt.Sprintf("data node %d answers", i+1), func() bool {
		_, err := d.client().Query(context.Background(), "", "SHOW DATABASES")
		return err == nil
	})
}

// stop ends data node i with a signal and waits for its end.
func (p *processes) stop(i int, sig syscall.Signal) {
	p.t.Helper()
	cmd := p.data[i].cmd
	if err := cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	err := cmd.Wait()
	if sig != syscall.SIGKILL && err != nil {
		p.t.Fatalf("data node %d ended on %v with %v", i+1, sig, err)
	}
}

func (p *processes) tryCtl(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(p.bin, "influxd-ctl"), append([]string{"-bind", p.meta}, args...)...).CombinedOutput()
	return string(out), err
}

func (p *processes) ctl(args ...string) string {
	p.t.Helper()
	out, err := p.tryCtl(args...)
	if err != nil {
		p.t.Fatalf("influxd-ctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// await polls until ok, for a minute at most.
func (p *processes) await(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			p.t.Fatalf("waited a minute in vain: %s", what)
		case <-tick.C:
		}
	}
}
