package compactions

import (
	"testing"
	"time"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"
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
	sh := enginetest.Shard(t, enginetest.Store(t, tsdb.InmemIndexName), 1)
	mustWrite(t, sh, 0)
	enginetest.Flush(t, sh)
	return sh, enginetest.Engine(t, sh)
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
