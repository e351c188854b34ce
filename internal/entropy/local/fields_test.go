package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/patch"
)

// hiding is a copy of which queries do not see a measurement, and what was told of it.
type hiding struct {
	*Local
	shard *tsdb.Shard
	info  cluster.Shard
	told  *observer.ObservedLogs
}

func mustHide(t *testing.T) *hiding {
	t.Helper()
	store := mustStore(t)
	deps := mustDeps(t, store)
	core, logs := observer.New(zap.WarnLevel)
	deps.Log = zap.New(core)
	h := &hiding{Local: New(deps), told: logs}
	h.info = cluster.Shard{ID: 1, Database: "db", RetentionPolicy: "autogen", End: int64(time.Hour)}
	if err := store.CreateShard("db", "autogen", 1, true); err != nil {
		t.Fatal(err)
	}
	h.shard = store.Shard(1)
	h.write(t, "m", "n")
	return h
}

func (h *hiding) write(t *testing.T, measurements ...string) {
	t.Helper()
	for _, m := range measurements {
		p := models.MustNewPoint(m, nil, models.Fields{"value": 1.0}, time.Unix(1, 0))
		if err := h.Store.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{p}); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *hiding) hide(t *testing.T) {
	t.Helper()
	e, err := h.shard.Engine()
	if err != nil {
		t.Fatal(err)
	}
	e.MeasurementFieldSet().Delete("m")
}

func (h *hiding) points(t *testing.T) uint64 {
	t.Helper()
	root, err := h.Root(t.Context(), h.info, entropy.Everything)
	if err != nil {
		t.Fatal(err)
	}
	return root.Count
}

func (h *hiding) wantHealed(t *testing.T) {
	t.Helper()
	want := []string{`measurement "m": the index of fields does not have its field "value"`}
	var told []string
	for _, l := range h.told.All() {
		if hidden, ok := l.ContextMap()["hidden"].(string); ok {
			told = append(told, hidden)
		}
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if f := h.shard.MeasurementFields([]byte("m")); f == nil || f.Field("value") == nil {
		t.Error("the field is hidden")
	}
	if damaged, err := h.Damaged(); err != nil || len(damaged) > 0 {
		t.Errorf("damaged: %v, %v", damaged, err)
	}
}

// A comparison of copies counts what the files have, and makes it visible.
func TestComparisonFindsHiddenMeasurement(t *testing.T) {
	t.Parallel()
	h := mustHide(t)
	h.hide(t)
	if n := h.points(t); n != 2 {
		t.Errorf("%d points are compared", n)
	}
	h.wantHealed(t)
}

// Digests of before the measurement was found count it no longer.
func TestHealedMeasurementIsDigestedAnew(t *testing.T) {
	t.Parallel()
	h := mustHide(t)
	h.hide(t)
	h.Deletes = underway{}
	if n := h.points(t); n != 1 {
		t.Errorf("%d points are compared while a delete is under way", n)
	}
	h.Deletes = entropytest.NoDeletes{}
	if n := h.points(t); n != 2 {
		t.Errorf("%d points are compared", n)
	}
	h.wantHealed(t)
}

// underway is deletes of which one does not end.
type underway struct{}

func (underway) DeletesSeen(uint64) uint64                 { return 0 }
func (underway) AwaitDeletes(context.Context, uint64) bool { return false }
func (underway) HoldDeletes(_, _ uint64) (func(), bool)    { return nil, false }

// Another owner may have run the delete already, and must not get the points again.
func TestNoPointsAreReadWhileADeleteIsUnderWay(t *testing.T) {
	t.Parallel()
	h := mustHide(t)
	regions := []patch.Region{{Series: []byte("m"), Field: "value", Type: digest.Float, Max: int64(time.Hour)}}
	read := func() (blocks int, fetched, coded error) {
		fetched = h.Fetch(t.Context(), h.info, regions, patch.Limits{}, func(patch.Block) error { blocks++; return nil })
		_, coded = h.Symbols(t.Context(), h.info, regions, 1, 0, 8)
		return blocks, fetched, coded
	}
	if n, fetched, coded := read(); n != 1 || fetched != nil || coded != nil {
		t.Fatalf("%d blocks, %v, %v", n, fetched, coded)
	}
	h.Deletes = underway{}
	if n, fetched, coded := read(); n != 0 || !errors.Is(fetched, entropy.ErrOvertaken) ||
		!errors.Is(coded, entropy.ErrOvertaken) {
		t.Errorf("%d blocks, %v, %v", n, fetched, coded)
	}
}

// A scrub heals the only copy of a shard, too, which is compared with none.
func TestScrubFindsHiddenMeasurement(t *testing.T) {
	t.Parallel()
	h := mustHide(t)
	h.hide(t)
	found, err := h.Scrub(t.Context(), 1)
	if err != nil || len(found) > 0 {
		t.Errorf("found %v, %v", found, err)
	}
	h.wantHealed(t)
}

// A copy that cannot be healed is damaged, and its repair heals it.
func TestHiddenMeasurementThatCannotBeHealedIsDamage(t *testing.T) {
	t.Parallel()
	h := mustHide(t)
	h.hide(t)
	torn := filepath.Join(h.shard.Path(), "fields.idx.tmp")              // keeps the engine from writing the index
	if err := os.MkdirAll(filepath.Join(torn, "x"), 0o755); err != nil { // a file would be removed
		t.Fatal(err)
	}
	if _, err := h.Root(t.Context(), h.info, entropy.Everything); !errors.Is(err, fs.ErrExist) {
		t.Errorf("root: %v", err)
	}
	states, err := h.States(t.Context(), []uint64{1})
	if err != nil {
		t.Fatal(err)
	}
	if m := states[1].Corrupt; !strings.Contains(m, `queries do not see`) || !strings.Contains(m, `"m"`) ||
		strings.Contains(m, "\n") {
		t.Errorf("the state is %q", m)
	}
	if err := os.RemoveAll(torn); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.SetAside(t.Context(), 1), h.Healed(t.Context(), 1)); err != nil {
		t.Fatal(err)
	}
	if damaged, err := h.Damaged(); err != nil || len(damaged) > 0 {
		t.Errorf("damaged: %v, %v", damaged, err)
	}
	set, err := tsdb.NewMeasurementFieldSet(filepath.Join(h.shard.Path(), fieldindex.File), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if !set.FieldsByString("m").HasField("value") {
		t.Error("the index on disk does not have the field")
	}
}
