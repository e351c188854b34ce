package meta

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
)

// TestMetaNodeThatLostItsFolderDoesNotVote: with its empty log a majority would elect a leader that lacks what was
// committed.
func TestMetaNodeThatLostItsFolderDoesNotVote(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	leader := leaderOf(t, nodes)
	rest := others(nodes, leader)
	wiped, behind := rest[0], rest[1]
	behind.Close()
	if _, err := leader.Execute(cluster.CreateDatabase{Name: "committed"}); err != nil {
		t.Fatal(err)
	}
	awaitSame(t, []*testMeta{leader, wiped}, hasDatabase("committed"))
	leader.Close()
	wiped.Close()
	wiped.cfg.Meta.Dir = t.TempDir()
	wiped.start(t)
	core, lines := observer.New(zap.WarnLevel)
	behind.log = zap.New(core)
	behind.start(t)
	if err := until(testContext(t), func() bool {
		return behind.Leads() || lines.FilterMessageSnippet("it lost its folder").Len() > 3
	}); err != nil {
		t.Fatal("the node that was behind asks for no vote")
	}
	if behind.Leads() {
		t.Fatal("a leader that lacks a committed change was elected")
	}

	// With the node that has the log there is a majority.
	leader.start(t)
	awaitSame(t, []*testMeta{leader, behind}, hasDatabase("committed"))
	if wiped.st().initialised() {
		t.Error("the empty node takes part")
	}
	again := func() (int, string) {
		return call(t, "POST", "http://"+leaderOf(t, nodes).HTTPAddr()+"/add-meta?addr="+wiped.HTTPAddr())
	}
	if code, body := again(); code != 200 {
		t.Fatalf("add it again: %d %s", code, body)
	}
	awaitSame(t, nodes, hasDatabase("committed"))
	if got := len(leaderOf(t, nodes).State().MetaNodes); got != 3 {
		t.Errorf("%d meta nodes are listed, want 3", got)
	}
	if code, body := again(); code != 200 {
		t.Errorf("once more: %d %s", code, body)
	}
	// It counts: without the node that was behind there still is a majority.
	behind.Close()
	if err := until(testContext(t), func() bool {
		_, err := leaderOf(t, nodes).Execute(cluster.CreateDatabase{Name: "after"})
		return err == nil
	}); err != nil {
		t.Error("no majority with the node that was added again")
	}
}

// openAgain starts a store on the folder of a meta node that is stopped, and closes it.
func openAgain(t *testing.T, m *testMeta, dir string) (*cluster.State, error) {
	t.Helper()
	cfg := *m.cfg
	cfg.Meta.Dir = dir
	s := NewServer(&cfg, nil)
	s.tune = func(c *raft.Config) {
		const soon = 20 * time.Millisecond // nobody else votes
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = soon, soon, soon
	}
	err := s.Open(testContext(t))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := until(testContext(t), func() bool { return s.Leads() && s.st().caughtUp() == nil }); err != nil {
		t.Fatal("no leader")
	}
	return s.st().applied(), nil
}

// says reports whether an error has all of the phrases.
func says(err error, phrases ...string) bool {
	return err != nil && !slices.ContainsFunc(phrases, func(p string) bool { return !strings.Contains(err.Error(), p) })
}

func mustMember(t *testing.T) *testMeta {
	t.Helper()
	m := newMeta(t, true)
	for i := range 40 {
		if _, err := m.Execute(cluster.CreateDatabase{Name: fmt.Sprintf("db%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	m.Close()
	return m
}

func TestMetaNodeWithoutItsLogDoesNotStart(t *testing.T) {
	t.Parallel()
	m := mustMember(t)
	if err := os.Remove(filepath.Join(m.cfg.Meta.Dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first start must not hide it from the second
		_, err := openAgain(t, m, m.cfg.Meta.Dir)
		if !says(err, "missing or empty, and this meta node was in a cluster", "add-meta") {
			t.Errorf("the start says %v", err)
		}
	}
}

// TestDamagedLogIsOneLine overwrites 60 bytes of raft.db at random. The node says so, or has lost nothing.
func TestDamagedLogIsOneLine(t *testing.T) {
	t.Parallel()
	m := mustMember(t)
	whole, err := os.ReadFile(filepath.Join(m.cfg.Meta.Dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(m.cfg.Meta.Dir)); err != nil {
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

func TestDamagedValuesAreFound(t *testing.T) {
	t.Parallel()
	s := &store{dir: t.TempDir()}
	if err := s.openLog(filepath.Join(s.dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	defer s.log.Close()
	key, entry := []byte("CurrentTerm"), &raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte(`{"type":"x"}`)}
	ok(t, s.log.SetUint64(key, 7), s.log.StoreLog(entry), s.log.verify())
	if v, err := s.log.GetUint64(key); err != nil || v != 7 {
		t.Errorf("%d, %v", v, err)
	}
	if entry.Extensions != nil {
		t.Error("an entry of Raft was changed")
	}
	// As an earlier version stored them.
	ok(t, s.log.BoltStore.SetUint64(key, 8), s.log.BoltStore.StoreLog(entry), s.log.verify())
	if v, err := s.log.GetUint64(key); err != nil || v != 8 {
		t.Errorf("%d, %v", v, err)
	}
	for name, bad := range map[string]*raft.Log{
		"another command":  {Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte(`{"type":"y"}`), Extensions: sum(entry)},
		"another term":     {Index: 1, Term: 2, Type: raft.LogCommand, Data: entry.Data, Extensions: sum(entry)},
		"no command":       {Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte("{")},
		"no type":          {Index: 1, Term: 1, Type: 77},
		"no configuration": {Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte{0xff, 1, 2}},
	} {
		ok(t, s.log.BoltStore.StoreLog(bad))
		if err := s.log.verify(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ok(t, s.log.Set(key, []byte{0, 0, 0, 0, 0, 0, 0, 8, 1, 2, 3, 4}))
	if v, err := s.log.GetUint64(key); err == nil {
		t.Errorf("a damaged number is %d", v)
	}
}
