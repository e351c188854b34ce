// Package metatest starts real meta nodes on loopback ports, and data nodes that have nothing but their copy of the
// metadata. Tests of the server and of the client use it.
package metatest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"concord/internal/cluster"
	"concord/internal/meta/metaconfig"
	"concord/internal/meta/server"
	"concord/internal/metanode"
)

// Meta is a meta node that can be stopped and started on its ports.
type Meta struct {
	*metanode.Node
	Deps metanode.Deps // of the next Start
	Runs bool
}

// NewConfig returns the configuration of a meta node on free ports and an empty folder.
func NewConfig(t *testing.T) *metaconfig.Config {
	t.Helper()
	c := metaconfig.New()
	c.Meta.Dir = t.TempDir()
	c.Meta.BindAddress, c.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
	return c
}

// Start starts a meta node with a configuration, which change changes.
func Start(t *testing.T, change ...func(*metanode.Deps)) *Meta {
	t.Helper()
	m := &Meta{Deps: metanode.Deps{Deps: server.Deps{Config: NewConfig(t)}}}
	for _, fn := range change {
		fn(&m.Deps)
	}
	m.Start(t)
	t.Cleanup(func() { m.Stop() })
	return m
}

// New starts a meta node that is in no cluster, or begins one of itself when single is true.
func New(t *testing.T, single bool) *Meta {
	t.Helper()
	return Start(t, func(d *metanode.Deps) { d.Config.SingleServer = single })
}

// NewCluster returns n meta nodes in one cluster.
func NewCluster(t *testing.T, n int) []*Meta {
	t.Helper()
	var out []*Meta
	for range n {
		out = append(out, Start(t, Quick))
	}
	for _, m := range out {
		var code int
		var body string
		if !Until(t, func() bool { // on a busy machine the leader may change meanwhile
			code, body = Call(t, "POST", out[0].URL("/add-meta?addr="+m.HTTPAddr()))
			return code == http.StatusOK
		}) {
			t.Fatalf("add-meta %s: %d %s", m.HTTPAddr(), code, body)
		}
	}
	// A node that is stopped before it has heard that it may vote does not vote after its start.
	Await(t, out, func(s *cluster.State) bool { return len(s.MetaNodes) == n })
	return out
}

// Quick makes elections quick and snapshots frequent.
func Quick(d *metanode.Deps) {
	d.Tune = func(c *raft.Config) {
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 400*time.Millisecond
		c.CommitTimeout = 5 * time.Millisecond
		c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 20, 5, 50*time.Millisecond
	}
}

// Start starts the node again, on the ports that it had.
func (m *Meta) Start(t *testing.T) {
	t.Helper()
	if !Until(t, func() bool {
		n, err := metanode.Open(Context(t), m.Deps)
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) { // a client of another test may have its port for a moment
			t.Fatal(err)
		}
		m.Node = n
		return err == nil
	}) {
		t.Fatal("a port of its stays in use")
	}
	m.Runs = true
	m.Deps.Config.Meta.BindAddress, m.Deps.Config.Meta.HTTPBindAddress = m.RaftAddr(), m.HTTPAddr()
}

// Stop stops the node; its files stay.
func (m *Meta) Stop() error {
	m.Runs = false
	return m.Close()
}

// URL is that of a path of the node's HTTP API.
func (m *Meta) URL(path string) string { return "http://" + m.HTTPAddr() + path }

// AddNode adds a data node to the metadata, and tells the node nothing of it.
func (m *Meta) AddNode(t *testing.T, addr string) cluster.Node {
	t.Helper()
	n, err := m.Execute(cluster.CreateDataNode{TCPAddr: addr})
	OK(t, err)
	return n.(cluster.Node)
}

// LeaderOf returns the one of the nodes that leads, when there is one.
func LeaderOf(t *testing.T, nodes []*Meta) *Meta {
	t.Helper()
	var leader *Meta
	if !Until(t, func() bool {
		leader = nil
		for _, m := range nodes {
			if m.Runs && m.Leads() {
				leader = m
			}
		}
		return leader != nil
	}) {
		t.Fatal("no leader")
	}
	return leader
}

// MustExecute makes a change at the node that leads. On a busy machine that may be another one than a moment ago, so
// the change must be one that may be repeated.
func MustExecute(t *testing.T, nodes []*Meta, op cluster.Op) any {
	t.Helper()
	var result any
	var err error
	if !Until(t, func() bool {
		result, err = LeaderOf(t, nodes).Execute(op)
		return err == nil
	}) {
		t.Fatal(err)
	}
	return result
}

// Others are the nodes without one of them.
func Others(nodes []*Meta, not *Meta) (out []*Meta) {
	for _, m := range nodes {
		if m != not {
			out = append(out, m)
		}
	}
	return out
}

// Await waits until the state of all nodes that run fulfils ok.
func Await(t *testing.T, nodes []*Meta, ok func(*cluster.State) bool) {
	t.Helper()
	if !Until(t, func() bool {
		for _, m := range nodes {
			if m.Runs && !ok(m.State()) {
				return false
			}
		}
		return true
	}) {
		t.Fatal("the meta nodes do not agree")
	}
}

// HasDatabase reports whether a state has a database.
func HasDatabase(name string) func(*cluster.State) bool {
	return func(s *cluster.State) bool { return s.Data.Database(name) != nil }
}

// Context ends with the test, or after a minute: machines may be busy.
func Context(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Until polls ok for a minute, and reports whether it became true.
func Until(t *testing.T, ok func() bool) bool {
	t.Helper()
	ctx, tick := Context(t), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// OK ends the test if one of the errors is not nil.
func OK(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Call returns status code and body of a request to the API of a meta node.
func Call(t *testing.T, method, url string) (int, string) {
	t.Helper()
	return do(t, &http.Client{}, method, url, "")
}

// CallOnly is Call that does not follow to the leader.
func CallOnly(t *testing.T, method, url string) (int, string) {
	t.Helper()
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return do(t, &http.Client{CheckRedirect: stay}, method, url, "")
}

// Post is Call with a body.
func Post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	return do(t, &http.Client{}, http.MethodPost, url, body)
}

func do(t *testing.T, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(Context(t), method, url, strings.NewReader(body))
	OK(t, err)
	c.Transport = &http.Transport{DisableKeepAlives: true}
	resp, err := c.Do(req)
	OK(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	OK(t, err)
	return resp.StatusCode, string(b)
}
