package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"concord/internal/devcluster"
)

// Node is a node's process, its files and its addresses. It has a method for each thing that a test does to a node. It
// has many fields because it has several addresses and paths.
type Node struct {
	Name string // data1, meta1
	TCP  string // what other nodes call: 8088 of a data node, Raft of a meta node
	HTTP string // of the API
	Dir  string

	t                 testing.TB
	program           string // influxd, influxd-meta
	binary, conf, log string
	bindTCP, bindHTTP string
	settings          map[string]any // in conf
	links             *Links
	disk              *disk // nil when the node has none of its own
	noDisk            error // why it has none

	mu   sync.Mutex
	proc *running // nil while the node is down
}

// running is a process that someone waits for.
type running struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // after ended
}

func (c *Cluster) newNode(name, program string) *Node {
	n := &Node{
		Name: name, Dir: filepath.Join(c.Dir, name), t: c.t,
		program: program, binary: c.Bin(program), links: c.Links,
	}
	n.conf, n.log = n.Dir+".conf", n.Dir+".log"
	c.t.Cleanup(func() {
		n.kill()
		if n.disk != nil {
			if err := n.disk.unmount(c.opt.Dir != ""); err != nil {
				c.t.Errorf("unmount the disk of %s: %v", name, err)
			}
		}
		if c.t.Failed() {
			text := notable(n.Log())
			c.t.Logf("log of %s:\n%s", name, text[max(0, len(text)-12000):])
		}
	})
	return n
}

// routine are messages that a node logs all the time.
var routine = []string{`msg="Checking whether owners agree"`, `msg="Did not compare some shards"`}

// notable is a log without what is logged all the time.
func notable(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(routine, func(m string) bool { return strings.Contains(line, m) }) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (n *Node) configure(settings map[string]any) {
	n.t.Helper()
	n.settings = settings
	var b bytes.Buffer
	err := toml.NewEncoder(&b).Encode(settings)
	if err == nil {
		err = os.WriteFile(n.conf, b.Bytes(), 0o644)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// Use makes the node, which is down, run the program of another build when it starts.
func (n *Node) Use(b Build) { n.binary = filepath.Join(b.dir, n.program) }

// Start starts the process; it does not wait until the node answers.
func (n *Node) Start() {
	n.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(n.binary, "run", "-config", n.conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = endWithParent()
	cmd.Env = append(os.Environ(), clockEnv+"="+n.clock())
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := cmd.Start(); err != nil {
		n.t.Fatalf("start %s: %v", n.Name, err)
	}
	p := &running{cmd: cmd, ended: make(chan struct{})}
	n.proc = p
	go func() {
		p.err = cmd.Wait()
		n.links.down(n.Name)
		close(p.ended)
	}()
	n.links.up(n.Name)
}

// Client speaks to a data node.
func (n *Node) Client() devcluster.Client { return devcluster.Client{Base: "http://" + n.HTTP} }

// Up tells whether a data node answers.
func (n *Node) Up() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := n.Client().Query(ctx, "", "SHOW DATABASES")
	return err == nil || asksWho(err)
}

// asksWho reports whether an answer only says that the client must log in, or make the first administrator.
func asksWho(err error) bool {
	return strings.Contains(err.Error(), ": 401 ") || strings.Contains(err.Error(), "create admin user first")
}

// AwaitUp waits until a data node answers, for a minute at most.
func (n *Node) AwaitUp() {
	n.t.Helper()
	if !Poll(time.Minute, func() bool { return n.Up() || !n.Running() }) || !n.Running() {
		n.t.Fatalf("%s does not come up", n.Name)
	}
}

func (n *Node) process() *running {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// PID is that of the node's process, 0 while it is down.
func (n *Node) PID() int {
	if p := n.process(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// End is how the process ended, when it has.
func (n *Node) End() error {
	if n.Running() {
		return nil
	}
	return n.process().err
}

// Running tells whether the process was started and has not ended.
func (n *Node) Running() bool {
	p := n.process()
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal, and does not wait: SIGSTOP and SIGCONT.
func (n *Node) Signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.process().cmd.Process.Signal(sig); err != nil {
		n.t.Fatalf("signal %s: %v", n.Name, err)
	}
}

// Stop ends the process with a signal and waits for its end, for a minute at
// most. Any end but that of SIGKILL must be a clean one.
func (n *Node) Stop(sig syscall.Signal) {
	n.t.Helper()
	p := n.process()
	if !n.Running() {
		n.t.Fatalf("%s ended by itself: %v", n.Name, p.err)
	}
	n.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		n.Signal(syscall.SIGQUIT) // its log gets the stacks
		<-p.ended
		n.t.Fatalf("%s did not end within a minute of %v", n.Name, sig)
	}
	if sig != syscall.SIGKILL && p.err != nil {
		n.t.Fatalf("%s ended on %v with %v", n.Name, sig, p.err)
	}
}

// Reap waits for the end of a process that was sent SIGKILL.
func (n *Node) Reap() { <-n.process().ended }

// kill ends the process at the end of a test, however it is.
func (n *Node) kill() {
	if p := n.process(); p != nil {
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// Wipe removes folders of a node that is down: data, wal, hh, meta.
func (n *Node) Wipe(folders ...string) {
	n.t.Helper()
	for _, f := range folders {
		if err := os.RemoveAll(filepath.Join(n.Dir, f)); err != nil {
			n.t.Fatal(fmt.Errorf("wipe %s: %w", n.Name, err))
		}
	}
}

// Disk tells how many bytes are free on the node's own disk and how many it
// has, or why it has no such disk.
func (n *Node) Disk() (free, all int64, err error) {
	if n.disk == nil {
		return 0, 0, n.noDisk
	}
	return n.disk.free()
}

// FillDisk keeps the node's own disk full for a time, but for some bytes.
func (n *Node) FillDisk(leave int64, hold time.Duration) {
	n.t.Helper()
	if err := n.disk.fill(leave, hold); err != nil {
		n.t.Errorf("fill the disk of %s: %v", n.Name, err)
	}
}

// Log is what the node has logged, over all its starts.
func (n *Node) Log() string {
	b, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
