package scrub

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/compactions"
	"concord/internal/enginetest"
	"concord/internal/entropy/tsmfile"
)

// gated is a store with a gate and a shard of sixteen small files, which the engine compacts.
func gated(t *testing.T, damage func(path string)) (*tsdb.Store, chan []*tsmfile.Damage) {
	t.Helper()
	plain, sh := newShard(t)
	not := filepath.Join(sh.Path(), tsm1.DoNotCompactFile)
	if err := os.WriteFile(not, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := enginetest.Engine(t, sh)
	more(t, plain, 16)
	if n := len(e.FileStore.Files()); n != 17 {
		t.Fatalf("%d files", n)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(not); err != nil {
		t.Fatal(err)
	}
	damage(filepath.Join(plain.Path(), "db", "rp", "1", "000000001-000000001.tsm"))
	s := enginetest.New(filepath.Dir(plain.Path()), tsdb.InmemIndexName)
	found := make(chan []*tsmfile.Damage, 100)
	gate := NewGate(s.EngineOptions.Config, func(_ uint64, d []*tsmfile.Damage) { found <- d })
	s.EngineOptions.CompactionPlannerCreator = gate.Planner
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); gate.Close() })
	return s, found
}

// fewer waits until a shard has that few files.
func fewer(t *testing.T, s *tsdb.Store, n int) {
	t.Helper()
	e := enginetest.Engine(t, s.Shard(1))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for len(e.FileStore.Files()) > n {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d files are not compacted", len(e.FileStore.Files()))
		}
	}
}

// Sound files are compacted as without the gate.
func TestGateLetsSoundFilesPass(t *testing.T) {
	t.Parallel()
	s, found := gated(t, func(string) {})
	fewer(t, s, 3)
	if got := count(t, s.Shard(1)); got["a"] != 4016 || got["b"] != 5016 {
		t.Errorf("%v after compactions", got)
	}
	if len(found) > 0 {
		t.Errorf("found %v", <-found)
	}
}

// The engine turns compactions on when an idle shard is written to, whoever holds them off.
func TestNothingIsPlannedWhileCompactionsAreHeldOff(t *testing.T) {
	t.Parallel()
	s := enginetest.Store(t, tsdb.InmemIndexName)
	sh := enginetest.Shard(t, s, 1)
	e := enginetest.Engine(t, sh)
	p := &planner{files: e.FileStore, gate: NewGate(s.EngineOptions.Config, nil)}
	t.Cleanup(func() { p.gate.Close() })
	planned := func() (is bool) {
		p.pass(&plan{}, func() plan { is = true; return plan{} })
		return is
	}
	release, err := compactions.Hold(sh)
	if err != nil {
		t.Fatal(err)
	}
	sh.SetCompactionsEnabled(true)
	if planned() {
		t.Error("a compaction is planned")
	}
	if release(); !planned() {
		t.Error("none is planned any more")
	}
}

// A compaction does not write a damaged block with a new checksum: the file stays as it is, is told of once, and others
// are compacted.
func TestGateHoldsDamagedFilesBack(t *testing.T) {
	t.Parallel()
	var path string
	s, found := gated(t, func(p string) {
		path = p
		change(t, p, 200, []byte{0xff, 0, 0xff, 0})
	})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fewer(t, s, 10)
	if err := s.Shard(1).ScheduleFullCompaction(); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-found:
		if len(d) != 1 || d[0].File != filepath.Base(path) {
			t.Errorf("found %v", d)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was found")
	}
	e := enginetest.Engine(t, s.Shard(1))
	for range 3 { // plans of the engine, each of which would take the file
		e.PlanCompactions()
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the damaged file was changed: %v", err)
	}
	if len(found) > 0 {
		t.Errorf("told again: %v", <-found)
	}
}
