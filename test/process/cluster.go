// Package process runs a cluster of separate processes for tests: it builds
// the binaries, writes configuration files, starts, pauses and kills the
// nodes, and drives them as an operator would, with HTTP and influxd-ctl. With
// Options.Links every connection between nodes goes through the harness, which
// can cut or slow each ordered pair of nodes on its own.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// Options say which cluster to start.
type Options struct {
	Meta, Data int
	Links      bool // connections between nodes go through proxies
	// bytes of a disk of its own for each data node, where this machine lets us; 0 for none
	Disk     int64
	Clocks   bool                        // clocks of data nodes can be moved, with SetClock
	Dir      string                      // of all files; the test's own when empty
	Settings map[string]map[string]any   // of the data nodes, by section; sections that the build lacks are left out
	Lists    map[string][]map[string]any // of the data nodes: sections of which there may be several, such as [[udp]]
	Build    *Build                      // that the nodes run at first; nil for the one of this source
	// Configure changes the configuration of a node before it is written, by section; nil for none.
	Configure func(node string, settings map[string]any)
	CtlFlags  []string // of each influxd-ctl
}

// Cluster is a set of node processes. It has a method for each thing that a test does to the cluster or asks of it.
type Cluster struct {
	Dir   string
	Meta  []*Node
	Data  []*Node
	Links *Links // nil without Options.Links

	t   testing.TB
	opt Options
	bin Build

	mu      sync.Mutex // guards Data and started
	started []*Node    // all data nodes so far
}

// Build is the programs of one version.
type Build struct {
	dir      string
	sections map[string]any // of influxd's configuration
}

// Those of this source are built once for each test binary.
var (
	built           = sync.OnceValues(func() (Build, error) { return build(false) })
	builtWithClocks = sync.OnceValues(func() (Build, error) { return build(true) })
)

func build(clocks bool) (Build, error) {
	if !clocks {
		return BuildFrom("")
	}
	over, err := os.MkdirTemp("", "concord-clock-")
	if err != nil {
		return Build{}, err
	}
	defer os.RemoveAll(over)
	overlay, err := clockOverlay(over)
	if err != nil {
		return Build{}, err
	}
	return BuildFrom("", "-overlay", overlay)
}

// BuildFrom builds the programs of the source in a folder, with flags of go build. The folder is empty for this source.
// Main removes what is built.
func BuildFrom(source string, flags ...string) (Build, error) {
	return buildPrograms(source, append(slices.Clone(flags), "concord/cmd/...")...)
}

// BuildPeer builds the programs of a checkout of chengshiwen/influxdb-cluster. They have the names, the settings and
// the commands of ours.
func BuildPeer(checkout string) (Build, error) {
	return buildPrograms(checkout, "./cmd/influxd", "./cmd/influxd-meta", "./cmd/influxd-ctl")
}

// buildPrograms builds with flags and packages of go build.
func buildPrograms(source string, args ...string) (Build, error) {
	dir, err := os.MkdirTemp("", "concord-bin-")
	if err != nil {
		return Build{}, err
	}
	binDirs = append(binDirs, dir)
	build := exec.Command("go", append([]string{"build", "-o", dir}, args...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return Build{}, fmt.Errorf("build: %w\n%s", err, out)
	}
	b := Build{dir: dir}
	out, err := exec.Command(filepath.Join(dir, "influxd"), "config").Output()
	if err == nil {
		_, err = toml.Decode(string(out), &b.sections)
	}
	if err != nil {
		return Build{}, fmt.Errorf("influxd config: %w", err)
	}
	return b, nil
}

var binDirs []string // of the binaries once they are built, for Main

// Main runs a package's tests and removes the binaries; call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	for _, dir := range binDirs {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// Start starts all nodes and makes them one cluster.
func Start(t testing.TB, opt Options) *Cluster {
	t.Helper()
	c := &Cluster{Dir: opt.Dir, t: t, opt: opt}
	if opt.Build != nil {
		c.bin = *opt.Build
	} else {
		of := built
		if opt.Clocks {
			of = builtWithClocks
		}
		var err error
		if c.bin, err = of(); err != nil {
			t.Fatal(err)
		}
	}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if opt.Links {
		c.Links = newLinks(c.pids)
		t.Cleanup(c.Links.close)
	}
	for range opt.Meta {
		c.startMeta()
	}
	for _, n := range c.Meta {
		c.awaitMeta(n)
		c.Ctl("add-meta", n.HTTP)
	}
	for range opt.Data {
		n := c.AddNode()
		if out := c.Ctl("add-data", n.TCP); !strings.HasPrefix(out, "Added data node ") ||
			!strings.Contains(out, n.TCP) {
			t.Fatalf("add-data printed %q", out)
		}
	}
	return c
}

// HasSection tells whether influxd has a section of the configuration.
func (c *Cluster) HasSection(name string) bool { _, ok := c.bin.sections[name]; return ok }

// ThisBuild is the programs of this source.
func ThisBuild(t testing.TB) Build {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Use makes influxd-ctl, and the data nodes that are added from now on, those of another build.
func (c *Cluster) Use(b Build) { c.bin = b }

// Bin is the path of a binary.
func (c *Cluster) Bin(name string) string { return filepath.Join(c.bin.dir, name) }

// ports are handed out from below the range that the system takes the ports of
// outgoing connections from, so that a node finds its own free after a restart.
var ports = struct {
	sync.Mutex
	taken map[int]io.Closer // until the process ends; nil where another process cannot be told
}{taken: make(map[int]io.Closer)}

// claim tells other processes of tests that a port is taken, also while no node listens on it. It is false when it is
// one of theirs.
func claim(port int) (io.Closer, bool) {
	if runtime.GOOS != "linux" {
		return nil, true
	}
	ln, err := net.Listen("unix", fmt.Sprintf("@concord-test-port-%d", port)) // a name without a file
	return ln, err == nil
}

// port returns a port that nobody listens on just now, on any loopback address.
func (c *Cluster) port() string {
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		p := 12000 + rand.IntN(18000)
		if _, taken := ports.taken[p]; taken {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			continue
		}
		ln.Close()
		claimed, ok := claim(p)
		if !ok {
			continue
		}
		ports.taken[p] = claimed
		return fmt.Sprint(p)
	}
	c.t.Fatal("no free port")
	return ""
}

// listen returns what a node binds to and what the others call: the same, or a
// proxy's address in between. A node has no setting for the port that others
// call, so both have the same port, on different loopback addresses.
func (c *Cluster) listen(name string, speaks protocol) (bind, called string) {
	p := c.port()
	if c.Links == nil {
		return "127.0.0.1:" + p, "127.0.0.1:" + p
	}
	bind, called = "127.0.0.2:"+p, "127.0.0.1:"+p
	if err := c.Links.listen(name, called, bind, speaks); err != nil {
		c.t.Fatal(err)
	}
	return bind, called
}

func (c *Cluster) newMeta() *Node {
	n := c.newNode(fmt.Sprintf("meta%d", len(c.Meta)+1), "influxd-meta")
	n.bindTCP, n.TCP = c.listen(n.Name, bytesAlone)
	n.bindHTTP, n.HTTP = c.listen(n.Name, bytesAlone)
	c.configure(n, map[string]any{
		"hostname": "127.0.0.1",
		"meta": map[string]any{
			"dir": filepath.Join(n.Dir, "meta"), "bind-address": n.bindTCP, "http-bind-address": n.bindHTTP,
		},
	})
	return n
}

// startMeta starts one more meta node.
func (c *Cluster) startMeta() *Node {
	n := c.newMeta()
	c.Meta = append(c.Meta, n)
	n.Start()
	return n
}

// awaitMeta waits until a meta node takes connections.
func (c *Cluster) awaitMeta(n *Node) {
	c.t.Helper()
	c.Await("meta node "+n.Name+" answers", func() bool {
		conn, err := net.Dial("tcp", n.bindHTTP)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// configure writes the configuration of a node.
func (c *Cluster) configure(n *Node, settings map[string]any) {
	if c.opt.Configure != nil {
		c.opt.Configure(n.Name, settings)
	}
	n.configure(settings)
}

// AddMeta starts one more meta node, which is in no cluster yet.
func (c *Cluster) AddMeta() *Node {
	c.t.Helper()
	n := c.startMeta()
	c.awaitMeta(n)
	return n
}

// AddNode starts one more data node, which is in no cluster yet.
func (c *Cluster) AddNode() *Node {
	c.t.Helper()
	n := c.startNode()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Data = append(slices.Clone(c.Data), n)
	return n
}

// startNode starts a data node that is none of Data yet.
func (c *Cluster) startNode() *Node {
	c.t.Helper()
	n := c.newNode(fmt.Sprintf("data%d", len(c.started)+1), "influxd")
	n.noDisk = errors.New("none was asked for")
	if c.opt.Disk > 0 {
		n.disk, n.noDisk = newDisk(n.Dir, c.opt.Disk)
	}
	n.bindTCP, n.TCP = c.listen(n.Name, calls)
	n.HTTP = "127.0.0.1:" + c.port()
	n.bindHTTP = n.HTTP
	conf := map[string]map[string]any{
		"meta":         {"dir": filepath.Join(n.Dir, "meta")},
		"data":         {"dir": filepath.Join(n.Dir, "data"), "wal-dir": filepath.Join(n.Dir, "wal")},
		"http":         {"bind-address": n.HTTP, "log-enabled": false},
		"monitor":      {"store-enabled": false},
		"anti-entropy": {"check-interval": "2s", "settle": "1s", "auto-repair-diff": false}, // tests ask for repairs
	}
	if c.HasSection("hinted-handoff") {
		conf["hinted-handoff"] = map[string]any{"dir": filepath.Join(n.Dir, "hh"), "retry-max-interval": "2s"}
	}
	for section, settings := range c.opt.Settings {
		if !c.HasSection(section) {
			continue
		}
		if conf[section] == nil {
			conf[section] = make(map[string]any)
		}
		for k, v := range settings {
			conf[section][k] = v
		}
	}
	all := map[string]any{"bind-address": n.bindTCP, "hostname": "127.0.0.1"}
	for section, settings := range conf {
		all[section] = settings
	}
	for section, list := range c.opt.Lists {
		all[section] = list
	}
	c.configure(n, all)
	c.mu.Lock()
	c.started = append(c.started, n) // first: links look for callers
	c.mu.Unlock()
	n.Start()
	n.AwaitUp()
	return n
}

// Move gives a data node that is down another TCP address.
func (c *Cluster) Move(n *Node) {
	c.t.Helper()
	n.bindTCP, n.TCP = c.listen(n.Name, calls)
	n.settings["bind-address"] = n.bindTCP
	n.configure(n.settings)
}

// DataNodes are Data at one moment, for callers beside which nodes are replaced.
func (c *Cluster) DataNodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Data
}

// Rejoin removes all folders of a data node that is down, starts it, and gives it the place in the cluster that it had.
func (c *Cluster) Rejoin(n *Node) {
	c.t.Helper()
	n.Wipe(folders...)
	n.Start()
	n.AwaitUp()
	c.updateData(n, n)
}

// Replace puts a new, empty data node in the place of one that is down for good, also in Data. started is called with
// it before it has that place.
func (c *Cluster) Replace(old *Node, started func(*Node)) *Node {
	c.t.Helper()
	n := c.startNode()
	started(n)
	c.updateData(old, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Data = slices.Clone(c.Data)
	c.Data[slices.Index(c.Data, old)] = n
	return n
}

// updateData gives the place of a data node to one with empty folders. Meta nodes may have no leader just now.
func (c *Cluster) updateData(old, empty *Node) {
	c.t.Helper()
	var err error
	if !Poll(time.Minute, func() bool {
		_, err = c.TryCtl("update-data", old.TCP, empty.TCP)
		return err == nil
	}) {
		c.t.Fatal(err)
	}
	empty.AwaitUp()
}

// nodes are all nodes, meta nodes first.
func (c *Cluster) nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]*Node(nil), c.Meta...), c.started...)
}

// pids name the nodes that run, by process.
func (c *Cluster) pids() map[int]string {
	out := make(map[int]string)
	for _, n := range c.nodes() {
		if pid := n.PID(); pid != 0 {
			out[pid] = n.Name
		}
	}
	return out
}

// TryCtl runs influxd-ctl against the first meta node that runs.
func (c *Cluster) TryCtl(args ...string) (string, error) {
	for _, n := range c.Meta {
		if n.Running() {
			return c.CtlAt(n, args...)
		}
	}
	return "", errors.New("no meta node runs")
}

// CtlAt runs influxd-ctl against one meta node, within a minute.
func (c *Cluster) CtlAt(n *Node, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = slices.Concat([]string{"-bind", n.bindHTTP}, c.opt.CtlFlags, args)
	cmd := exec.CommandContext(ctx, c.Bin("influxd-ctl"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("influxd-ctl %s: %w: %s", strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Ctl is TryCtl that must succeed.
func (c *Cluster) Ctl(args ...string) string {
	c.t.Helper()
	var out string
	var err error
	Poll(time.Minute, func() bool { // on a busy machine there may be no leader for a moment; nothing was changed then
		out, err = c.TryCtl(args...)
		return err == nil || !strings.Contains(err.Error(), "have no leader at the moment") &&
			!strings.Contains(err.Error(), "does not answer: try again in a moment")
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// Await polls until ok, for a minute at most.
func (c *Cluster) Await(what string, ok func() bool) {
	c.t.Helper()
	if !Poll(time.Minute, ok) {
		c.t.Fatalf("waited a minute in vain: %s", what)
	}
}

// Poll asks until ok or the time is over, and tells which.
func Poll(limit time.Duration, ok func() bool) bool {
	deadline := time.After(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	return true
}
