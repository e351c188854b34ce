package local

import (
	"errors"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/patch"
)

// forgetful knows for so many questions what was written since points were read.
type forgetful struct{ left int }

func (f *forgetful) Clock() uint64 { return 1 }

func (f *forgetful) Versions(uint64, []patch.Region) (patch.PointVersions, error) {
	return patch.PointVersions{Clock: 1}, nil
}

func (f *forgetful) Keep(uint64) bool { f.left--; return f.left >= 0 }

func (f *forgetful) LateWrites() bool { return false }

// late knows everything, but which writes are still to arrive.
type late struct {
	forgetful
	writes bool
}

func (l *late) LateWrites() bool { return l.writes }

// refilled counts how often it is told of points without versions.
type refilled struct {
	entropytest.NoCopies
	times *int
}

func (r refilled) GotUnversioned(uint64) error { *r.times++; return nil }

// An older write may arrive after a repair wrote points whose versions are not known. It is noted before that.
func TestPointsWithoutVersionsAreNotedWhileOlderWritesMayArrive(t *testing.T) {
	t.Parallel()
	sh := cluster.Shard{ID: 1, Database: "db", RetentionPolicy: "autogen", End: int64(time.Hour)}
	for _, tc := range []struct {
		name     string
		writes   bool
		versions []uint64
		assumed  bool
		want     int
	}{
		{"all writes have arrived", false, nil, false, 0},
		{"no versions", true, nil, false, 1},
		{"some versions", true, []uint64{7, 0}, false, 1},
		{"versions of the values that are replaced", true, []uint64{7, 8}, true, 1},
		{"all versions", true, []uint64{7, 8}, false, 0},
	} {
		store := mustStore(t)
		if err := store.CreateShard(sh.Database, sh.RetentionPolicy, sh.ID, true); err != nil {
			t.Fatal(err)
		}
		block, err := patch.NewBlock([]byte("cpu"), "value", tsm1.Values{tsm1.NewValue(1, 1.0), tsm1.NewValue(2, 1.0)})
		if err != nil {
			t.Fatal(err)
		}
		block.Versions, block.Assumed = tc.versions, tc.assumed
		deps, times := mustDeps(t, store), 0
		deps.Shards, deps.FilePoints = versioned{store}, 1000
		deps.Order, deps.Copies = &late{forgetful{100}, tc.writes}, refilled{times: &times}
		n, err := New(deps).Apply(t.Context(), sh, entropy.ReadAt{Clock: 1}, []patch.Block{block})
		if err != nil || n.Points != 2 || times != tc.want {
			t.Errorf("%s: %d points applied, noted %d times, want %d: %v", tc.name, n.Points, times, tc.want, err)
		}
	}
}

// versioned is a store that knows versions, of which none is newer.
type versioned struct{ *tsdb.Store }

func (versioned) Newer(uint64, []byte, string, func() []int64) (map[int]bool, error) { return nil, nil }

func (v versioned) WriteVersion(ctx tsdb.WriteContext, shard, _ uint64, points []models.Point) error {
	return v.WriteToShard(ctx, shard, points)
}

// Points that take longer to write than versions are kept are not written over what came meanwhile.
func TestPointsAreAppliedWhileVersionsAreKnown(t *testing.T) {
	t.Parallel()
	sh := cluster.Shard{ID: 1, Database: "db", RetentionPolicy: "autogen", End: int64(time.Hour)}
	block, err := patch.NewBlock([]byte("cpu"), "value", tsm1.Values{tsm1.NewValue(1, 1.0)})
	if err != nil {
		t.Fatal(err)
	}
	for questions, want := range []error{entropy.ErrOvertaken, entropy.ErrOvertaken, nil} {
		store := mustStore(t)
		deps := mustDeps(t, store)
		deps.Shards, deps.Order, deps.FilePoints = versioned{store}, &forgetful{questions}, 1000
		n, err := New(deps).Apply(t.Context(), sh, entropy.ReadAt{Clock: 1}, []patch.Block{block})
		if !errors.Is(err, want) || (n.Points == 1) != (want == nil) {
			t.Errorf("versions are known for %d questions: %d points applied: %v", questions, n.Points, err)
		}
	}
}
