package replication

import (
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"

	"concord/internal/enginetest"
	"concord/internal/entropy/patch"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
)

// A repair reads a point, and a client writes it anew before the repair does. The client's value stays, although the
// journal would have forgotten it by then.
func TestRepairLeavesWhatWasWrittenSinceItRead(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{true, false} {
		s := mustStore(t)
		deps := newDeps(t, &replicationtest.Meta{Owners: []uint64{1}}, s, nil, 1)
		journal, err := order.OpenJournal(order.JournalConfig{Dir: t.TempDir(), MaxKeys: 1, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { journal.Close() })
		deps.Order.Journal = journal
		w := mustOpen(t, NewWriter(deps))
		mustWrite(t, s, "m v=1 1")
		repairs, clock := w.Repairs(), w.Repairs().Clock()
		if asked {
			answer, err := repairs.Versions(shardID, []patch.Region{})
			if err != nil {
				t.Fatal(err)
			}
			clock = answer.Clock
		}
		write := func(lines string) {
			t.Helper()
			v, points := w.Order.Clock.Next(), mustPoints(t, lines)
			if err := w.accept(tsdb.WriteContext{}, shardID, db, policy, v, false, points); err != nil {
				t.Fatal(err)
			}
		}
		write("m v=2 1")
		write("other v=1 1") // the first one fills its file
		if err := journal.SetFloor(w.Order.Clock.Next()); err != nil {
			t.Fatal(err)
		}
		v, err := journal.Version(order.KeyOf(shardID, []byte("m"), "v", 1))
		if err != nil || (v != 0) != asked {
			t.Fatalf("asked %v: the journal has version %d, %v", asked, v, err)
		}
		if knows := repairs.Keep(clock); knows != asked {
			t.Errorf("asked %v: it says %v of whether it knows what was written", asked, knows)
		}
		if !asked {
			continue // the repair reads anew
		}
		enginetest.Write(t, repairs, shardID, "m v=1 1")
		if got := values(t, s, "m"); len(got) != 1 || got[0] != 2 {
			t.Errorf("the owner has %v, want what was written last", got)
		}
	}
}

// A repair brings a point that the copy lacks, while a client writes that point: the engine does not have the write yet
// when the repair looks, and has it when the repair writes. The client's value stays.
func TestRepairLeavesAWriteThatIsUnderWay(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	w := mustOpen(t, NewWriter(newDeps(t, &replicationtest.Meta{Owners: []uint64{1}}, s, nil, 1)))
	v := w.Order.Clock.Next()
	w.newest.note(shardID, v)
	_, write, err := w.Order.Journal.Begin(shardID, v, mustPoints(t, "m v=2 1"), false)
	if err != nil {
		t.Fatal(err)
	}
	writing := w.writing.Of(shardID)
	writing.RLock()
	repaired := make(chan error, 1)
	go func() {
		repaired <- w.Repairs().WriteToShard(tsdb.WriteContext{}, shardID, mustPoints(t, "m v=1 1"))
	}()
	await(t, "the repair has looked, and waits for the write", func() bool {
		if !writing.TryRLock() {
			return true
		}
		writing.RUnlock()
		return false
	})
	mustWrite(t, s, "m v=2 1")
	write.Done()
	writing.RUnlock()
	if err := <-repaired; err != nil {
		t.Fatal(err)
	}
	if got := values(t, s, "m"); len(got) != 1 || got[0] != 2 {
		t.Errorf("the owner has %v, want what the client wrote", got)
	}
}

// Nothing says which of two values is newer, and the one that most owners have wins. It replaces the value that
// the repair read, although that was written lately, and nothing that was written since. When a write failed, the
// version of the value is not known for certain.
func TestRepairReplacesWhatItRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ failed, since bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		s := mustStore(t)
		w := mustOpen(t, NewWriter(newDeps(t, &replicationtest.Meta{Owners: []uint64{1}}, s, nil, 1)))
		write := func(lines string) order.Version {
			t.Helper()
			v := w.Order.Clock.Next()
			if err := w.accept(tsdb.WriteContext{}, shardID, db, policy, v, false, mustPoints(t, lines)); err != nil {
				t.Fatal(err)
			}
			return v
		}
		mine := write("m v=2 1")
		known, lost := mine, order.Version(0)
		if tt.failed {
			lost = w.Order.Clock.Next()
			_, failing, err := w.Order.Journal.Begin(shardID, lost, mustPoints(t, "m v=4 1"), false)
			if err != nil {
				t.Fatal(err)
			}
			failing.Failed(nil)
			known = order.Uncertain
		}
		says, err := w.Repairs().Versions(shardID, []patch.Region{{Series: []byte("m"), Field: "v", Min: 1, Max: 1}})
		if err != nil || says.Versions[0] != uint64(known) || says.Written[0] != uint64(mine) ||
			says.Failed[0] != uint64(lost) {
			t.Fatalf("%+v: the owner says %+v, %v, want %d, %d and %d", tt, says, err, known, mine, lost)
		}
		owners := []tsm1.Values{{tsm1.NewValue(1, 2.0)}, {tsm1.NewValue(1, 3.0)}, {tsm1.NewValue(1, 3.0)}}
		forgot := uint64(w.Order.Clock.Next())
		m, err := patch.Join([]byte("m"), "v", owners, patch.Rules{}).Merge(&patch.Versions{
			Known: []map[int64]uint64{{1: says.Versions[0]}, nil, nil}, Since: []uint64{0, forgot, forgot},
			Written: []map[int64]uint64{{1: says.Written[0]}, nil, nil}, Forgot: []uint64{0, forgot, forgot},
		})
		if err != nil || len(m.Lacking[0]) != 1 || len(m.Lacking[0][0].Versions) != 1 {
			t.Fatalf("the owner gets %+v, %v", m.Lacking[0], err)
		}
		want := 3.0
		if tt.since {
			write("m v=5 1")
			want = 5
		}
		version := m.Lacking[0][0].Versions[0]
		if err := w.Repairs().WriteVersion(tsdb.WriteContext{}, shardID, version, mustPoints(t, "m v=3 1")); err != nil {
			t.Fatal(err)
		}
		if got := values(t, s, "m"); len(got) != 1 || got[0] != want {
			t.Errorf("%+v: the owner has %v, want %v", tt, got, want)
		}
	}
}
