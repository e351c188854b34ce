package replication

import (
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

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
		if err := repairs.WriteToShard(tsdb.WriteContext{}, shardID, mustPoints(t, "m v=1 1")); err != nil {
			t.Fatal(err)
		}
		if got := values(t, s, "m"); len(got) != 1 || got[0] != 2 {
			t.Errorf("the owner has %v, want what was written last", got)
		}
	}
}
