package compactions

import (
	"errors"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	_ "github.com/influxdata/influxdb/tsdb/index"
	"go.uber.org/zap"

	"concord/internal/entropy/tsmfile"
)

func TestCompactionsStayOffUntilTheLastHolderEnds(t *testing.T) {
	t.Parallel()
	sh, engine := mustOpen(t)
	first := mustHold(t, sh)
	second := mustHold(t, sh)
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"held twice", func() {}, false},
		{"the store allows them", func() { Allow(sh) }, false},
		{"one ends", first, false},
		{"the one ends again", first, false},
		{"the store allows them again", func() { Allow(sh) }, false},
		{"the other ends", second, true},
	} {
		step.do()
		if got := compacts(t, engine); got != step.want {
			t.Errorf("%s: the shard compacts its files: %t, want %t", step.name, got, step.want)
		}
	}
}

// The store looks for idle shards meanwhile, too.
func TestCacheIsWrittenWhileCompactionsAreHeldOff(t *testing.T) {
	t.Parallel()
	sh, engine := mustOpen(t)
	defer mustHold(t, sh)()
	mustWrite(t, sh, 1)
	if err := engine.WriteSnapshot(); err != nil {
		t.Errorf("right after: %v", err)
	}
	if err := sh.Free(); err != nil { // as for an idle shard
		t.Fatal(err)
	}
	mustWrite(t, sh, 2)
	Allow(sh)
	if err := engine.WriteSnapshot(); err != nil {
		t.Errorf("after the shard was idle: %v", err)
	}
}

func TestClosedShardStaysClosed(t *testing.T) {
	t.Parallel()
	sh, engine := mustOpen(t)
	release := mustHold(t, sh)
	if err := sh.Close(); err != nil {
		t.Fatal(err)
	}
	release()
	Allow(sh)
	if compacts(t, engine) {
		t.Error("an engine that is closed compacts")
	}
	if _, err := Hold(sh); err == nil {
		t.Error("the compactions of a closed shard are held off")
	}
}

func mustHold(t *testing.T, sh *tsdb.Shard) (release func()) {
	t.Helper()
	release, err := Hold(sh)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func mustOpen(t *testing.T) (*tsdb.Shard, *tsm1.Engine) {
	t.Helper()
	s := tsdb.NewStore(t.TempDir())
	s.EngineOptions.Config.WALDir = t.TempDir()
	if err := errors.Join(s.Open(), s.CreateShard("db", "rp", 1, true)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	sh := s.Shard(1)
	mustWrite(t, sh, 0)
	engine, err := tsmfile.EngineOf(sh)
	if err == nil {
		err = engine.WriteSnapshot()
	}
	if err != nil {
		t.Fatal(err)
	}
	return sh, engine
}

func mustWrite(t *testing.T, sh *tsdb.Shard, at int64) {
	t.Helper()
	p := models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(at, 0))
	if err := sh.WritePoints([]models.Point{p}, tsdb.StatsTracker{}); err != nil {
		t.Fatal(err)
	}
}

// compacts reports whether the engine lets somebody compact its file.
func compacts(t *testing.T, engine *tsm1.Engine) bool {
	t.Helper()
	none := []string{"none.tsm"}
	_, off := engine.Compactor.CompactFull(none, zap.NewNop(), tsdb.DefaultMaxPointsPerBlock)
	return off == nil || off.Error() != "compactions disabled"
}
