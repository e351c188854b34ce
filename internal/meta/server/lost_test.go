package server_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/metanode"
)

// TestMetaNodeThatLostItsFolderDoesNotVote: with its empty log a majority would elect a leader that lacks what was
// committed.
func TestMetaNodeThatLostItsFolderDoesNotVote(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	rest := metatest.Others(nodes, leader)
	wiped, behind := rest[0], rest[1]
	behind.Stop()
	metatest.MustExecute(t, nodes, cluster.CreateDatabase{Name: "committed"})
	metatest.Await(t, []*metatest.Meta{leader, wiped}, metatest.HasDatabase("committed"))
	leader.Stop()
	wiped.Stop()
	wiped.Deps.Config.Meta.Dir = t.TempDir()
	wiped.Start(t)
	core, lines := observer.New(zap.WarnLevel)
	behind.Deps.Log = zap.New(core)
	behind.Start(t)
	if !metatest.Until(t, func() bool {
		return behind.Leads() || lines.FilterMessageSnippet("it lost its folder").Len() > 3
	}) {
		t.Fatal("the node that was behind asks for no vote")
	}
	if behind.Leads() {
		t.Fatal("a leader that lacks a committed change was elected")
	}

	// With the node that has the log there is a majority.
	leader.Start(t)
	metatest.Await(t, []*metatest.Meta{leader, behind}, metatest.HasDatabase("committed"))
	if wiped.Initialised() {
		t.Error("the empty node takes part")
	}
	again := func(when string) {
		t.Helper()
		var code int
		var body string
		if !metatest.Until(t, func() bool { // on a busy machine the leader may change meanwhile
			code, body = metatest.Call(t, "POST", metatest.LeaderOf(t, nodes).URL("/add-meta?addr="+wiped.HTTPAddr()))
			return code == 200
		}) {
			t.Fatalf("%s: %d %s", when, code, body)
		}
	}
	again("add it again")
	metatest.Await(t, nodes, func(s *cluster.State) bool {
		return metatest.HasDatabase("committed")(s) && len(s.MetaNodes) == 3
	})
	again("once more")
	if got := len(wiped.State().MetaNodes); got != 3 {
		t.Errorf("%d meta nodes are listed, want 3", got)
	}
	// It counts: without the node that was behind there still is a majority.
	behind.Stop()
	if !metatest.Until(t, func() bool {
		_, err := metatest.LeaderOf(t, nodes).Execute(cluster.CreateDatabase{Name: "after"})
		return err == nil
	}) {
		t.Error("no majority with the node that was added again")
	}
}

// openAgain starts a store on the folder of a meta node that is stopped, and closes it.
func openAgain(t *testing.T, m *metatest.Meta, dir string) (*cluster.State, error) {
	t.Helper()
	deps, cfg := m.Deps, *m.Deps.Config
	cfg.Meta.Dir = dir
	deps.Config = &cfg
	deps.Tune = func(c *raft.Config) {
		const soon = 20 * time.Millisecond // nobody else votes
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = soon, soon, soon
	}
	n, err := metanode.Open(metatest.Context(t), deps)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	if !metatest.Until(t, func() bool { return n.Leads() && n.CaughtUp() == nil }) {
		t.Fatal("no leader")
	}
	return n.Applied(), nil
}

// says reports whether an error has all of the phrases.
func says(err error, phrases ...string) bool {
	return err != nil && !slices.ContainsFunc(phrases, func(p string) bool { return !strings.Contains(err.Error(), p) })
}

func mustMember(t *testing.T) *metatest.Meta {
	t.Helper()
	m := metatest.New(t, true)
	for i := range 40 {
		if _, err := m.Execute(cluster.CreateDatabase{Name: fmt.Sprintf("db%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	m.Stop()
	return m
}

func TestMetaNodeWithoutItsLogDoesNotStart(t *testing.T) {
	t.Parallel()
	m := mustMember(t)
	if err := os.Remove(filepath.Join(m.Deps.Config.Meta.Dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first start must not hide it from the second
		_, err := openAgain(t, m, m.Deps.Config.Meta.Dir)
		if !says(err, "missing or empty, and this meta node was in a cluster", "add-meta") {
			t.Errorf("the start says %v", err)
		}
	}
}

// TestDamagedLogIsOneLine overwrites 60 bytes of raft.db at random. The node says so, or has lost nothing.
func TestDamagedLogIsOneLine(t *testing.T) {
	t.Parallel()
	m := mustMember(t)
	whole, err := os.ReadFile(filepath.Join(m.Deps.Config.Meta.Dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(m.Deps.Config.Meta.Dir)); err != nil {
			t.Fatal(err)
		}
		b := append([]byte(nil), whole...)
		at := r.IntN(len(b) - 60)
		for i := range 60 {
			b[at+i] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(dir, "raft.db"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := openAgain(t, m, dir)
		switch {
		case err != nil:
			refused++
			if !says(err, "damaged", "add-meta") || strings.Contains(err.Error(), "\n") {
				t.Errorf("seed %d, offset %d: %v", seed, at, err)
			}
		case len(st.Data.Databases) != 40:
			t.Errorf("seed %d, offset %d: %d databases are left, and no error", seed, at, len(st.Data.Databases))
		}
	}
	if refused == 0 {
		t.Error("no damage was found")
	}
}

func TestNothingIsLostByARestart(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	d := metatest.Joined(t, m)
	_, err := d.CreateDatabase("before")
	metatest.OK(t, err)
	want, _ := m.State().MarshalBinary()
	metatest.OK(t, m.Snapshot())
	_, err = d.CreateDatabase("after-snapshot")
	metatest.OK(t, err)
	index := m.State().Index
	metatest.OK(t, m.Stop())
	if _, err := d.CreateDatabase("down"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("change without meta nodes: %v", err)
	}
	m.Start(t)
	if m.State().Index != index || m.State().Data.Database("before") == nil ||
		m.State().Data.Database("after-snapshot") == nil {
		t.Errorf("index %d, want %d", m.State().Index, index)
	}
	var first cluster.State
	metatest.OK(t, first.UnmarshalBinary(want))
	if d := cmp.Diff(first.MetaNodes, m.State().MetaNodes); d != "" {
		t.Error(d)
	}
	_, err = d.CreateDatabase("again") // the client follows again on its own
	metatest.OK(t, err)
}
