package local

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/drops"
	"concord/internal/enginetest"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/pace"
)

func mustStore(t *testing.T) *tsdb.Store {
	t.Helper()
	return enginetest.Store(t, tsdb.InmemIndexName)
}

// mustDeps is what the copies in a store need.
func mustDeps(t *testing.T, store *tsdb.Store) Deps {
	t.Helper()
	return Deps{
		Store: drops.New(store, nil), Shards: store, Key: func() uint64 { return 1 }, Deletes: entropytest.NoDeletes{},
		Beginnings: Beginnings{NewMemory(store, t.TempDir(), zap.NewNop()), entropytest.NoCopies{}},
		HoldWrites: func(uint64) func() { return func() {} },
		Disk:       Disk{Dir: store.Path()}, Limit: pace.NewLimit(0), Log: zap.NewNop(),
	}
}

func TestLocalStateMovesOnWritesAndDeletes(t *testing.T) {
	store := mustStore(t)
	l := New(mustDeps(t, store))
	sh := cluster.Shard{ID: 1, Database: "db", RetentionPolicy: "autogen", End: int64(time.Hour)}
	state := func() entropy.ShardState {
		t.Helper()
		m, err := l.States(t.Context(), []uint64{1})
		if err != nil {
			t.Fatal(err)
		}
		return m[1]
	}
	if st := state(); st.Version != (entropy.Version{}) {
		t.Errorf("state of a missing shard is %+v", st)
	}
	if root, err := l.Root(t.Context(), sh, entropy.Everything); err != nil || root.Count != 0 {
		t.Errorf("root of a missing shard is %+v, %v", root, err)
	}
	for range 2 { // twice: no harm
		if n, err := l.Apply(t.Context(), sh, entropy.ReadAt{}, nil); n.Points != 0 || err != nil {
			t.Fatalf("create: %+v, %v", n, err)
		}
	}
	last := state()
	if !last.Exists {
		t.Fatal("the shard was not created")
	}
	for name, change := range map[string]func() error{
		"write": func() error {
			p := models.MustNewPoint("cpu", nil, models.Fields{"value": 1.0}, time.Unix(1, 0))
			return store.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{p})
		},
		"delete": func() error {
			p := models.MustNewPoint("mem", nil, models.Fields{"value": 1.0}, time.Unix(1, 0))
			if err := store.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{p}); err != nil {
				return err
			}
			last = state()
			return store.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: "mem"}}, nil)
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if st := state(); st.LastModified <= last.LastModified {
			t.Errorf("%s: last modified stays at %d", name, st.LastModified)
		}
		last = state()
	}
}

func TestBeginningsOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "begun")
	open := func() Beginnings { return Beginnings{NewMemory(nil, dir, zap.NewNop()), entropytest.NoCopies{}} }
	if err := open().Begin(7); err != nil {
		t.Fatal(err)
	}
	l := open()
	if l.Memory.began.of(7) == copystate.FoundEqual || l.Memory.began.of(8) != copystate.FoundEqual {
		t.Error("the note is lost, or there is one too many")
	}
	if err := l.Whole(t.Context(), 7, 0); err != nil || l.Memory.began.of(7) != copystate.FoundEqual ||
		open().Memory.began.of(7) != copystate.FoundEqual {
		t.Errorf("the note stays: %v", err)
	}
}

func TestScrubRestsBesideClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looked atomic.Int64 // for requests of clients
		l := &Local{Deps: Deps{Pace: pace.New(func() int64 { return looked.Add(1) }), Limit: pace.NewLimit(0)}}
		wait := l.paced(t.Context())
		time.Sleep(time.Second)
		if err := wait(t.Context(), 1); err != nil || looked.Load() == 0 {
			t.Errorf("a scrub reads without looking whether clients are served: %v", err)
		}
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		if err := l.paced(ctx)(ctx, 1); !errors.Is(err, stop) {
			t.Error("it goes on: ", err)
		}
	})
}

// starting are the copies of a node that has not asked the others yet.
type starting struct{ entropytest.NoCopies }

func (starting) Ready() bool { return false }

// TestStatesWaitForTheOthers: a node whose folders were rolled back does not know it before it has asked the others. A
// repair that took its copies for right would bring back what was deleted.
func TestStatesWaitForTheOthers(t *testing.T) {
	deps := mustDeps(t, mustStore(t))
	deps.Copies = starting{}
	l := New(deps)
	if st, err := l.States(t.Context(), []uint64{1}); !errors.Is(err, errStarting) {
		t.Errorf("%v, %v; want no state", st, err)
	}
}

// A shard whose files are closed for a moment, while they are exchanged for example, keeps its owner from nothing else:
// other copies are compared and repaired meanwhile.
func TestStatesOfOtherShardsBesideAClosedOne(t *testing.T) {
	t.Parallel()
	store := mustStore(t)
	for id := range uint64(2) {
		if err := store.CreateShard("db", "autogen", id+1, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Shard(1).Close(); err != nil {
		t.Fatal(err)
	}
	states, err := New(mustDeps(t, store)).States(t.Context(), []uint64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if st := states[1]; st.Usable() || !strings.Contains(st.Corrupt, "closed") {
		t.Errorf("of the closed shard it says %+v", st)
	}
	if !states[2].Healthy() || !states[3].Usable() || states[3].Exists {
		t.Errorf("of the others it says %+v and %+v", states[2], states[3])
	}
}
