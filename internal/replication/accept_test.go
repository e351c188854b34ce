package replication

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/deletes"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A write that has a smaller version than what the owner has is not written, unless it is late or yields.
func TestWriteBehindTheOwnerIsNotWritten(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newWriter(t, 1)
	accept := func(v order.Version, late bool, lines string) error {
		return w.accept(tsdb.WriteContext{}, shardID, db, policy, v, late, mustPoints(t, lines))
	}
	if err := accept(1000, false, "m v=1 1"); err != nil {
		t.Fatal(err)
	}
	if err := accept(900, false, "m v=2 1\nm v=2 2"); !errors.Is(err, errBehind) {
		t.Errorf("error is %v, want %v", err, errBehind)
	}
	if n := count(t, c.stores[0], "m"); n != 1 {
		t.Errorf("%d points, want 1", n)
	}
	if err := accept(900, true, "m v=2 1\nm v=2 2"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[1 2]" {
		t.Errorf("the owner has %v, want the newer value and the point that it lacked", got)
	}
	// What waited since before writes had versions is older than all.
	if err := accept(0, true, "m v=9 1\nm v=9 2"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[1 2]" {
		t.Errorf("the owner has %v after a hint without a version, want [1 2]", got)
	}
	remembered := deletes.NewMemory(c.meta)
	w.Deletes = remembered
	remembered.Add(&rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d", Version: 2000,
	})
	if err := accept(1500, false, "m v=3 3"); !errors.Is(err, errBehind) {
		t.Errorf("error is %v, want %v", err, errBehind)
	}
	if err := accept(1500, true, "m v=3 3"); err != nil || count(t, c.stores[0], "m") != 2 {
		t.Errorf("%d points, %v: want 2", count(t, c.stores[0], "m"), err)
	}
}

// A write with a version that is far ahead would be the newest of its points for ever. It is refused, and may come
// again when the clocks are right.
func TestWriteFromAClockFarAheadIsRefused(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	srv := serverOf(t, s)
	p, err := mustPoints(t, "m v=1 1")[0].MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.WriteShard(t.Context(), &rpc.WriteShardRequest{
		ShardId: shardID, Database: db, RetentionPolicy: policy, Points: [][]byte{p},
		Version: uint64(order.AtTime(time.Now().AddDate(1, 0, 0))),
	})
	if err != nil || resp.Error == "" || !resp.Temporary {
		t.Errorf("the answer is %v, %v: want an error after which the write may be sent again", resp, err)
	}
	if n := count(t, s, "m"); n != -1 {
		t.Errorf("%d points were written", n)
	}
}

// The engine takes a part of some writes. Only the points that it took hide older ones that come late.
func TestPartialWriteHidesWhatItWrote(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newWriter(t, 1)
	accept := func(v order.Version, late bool, lines string) error {
		return w.accept(tsdb.WriteContext{}, shardID, db, policy, v, late, mustPoints(t, lines))
	}
	if err := accept(10, false, "m v=0 0"); err != nil {
		t.Fatal(err)
	}
	var partial tsdb.PartialWriteError
	if err := accept(1000, false, "m v=1 1\nm v=\"text\" 2\nm v=1 3"); !errors.As(err, &partial) {
		t.Fatalf("error is %v, want a partial write", err)
	}
	if err := accept(900, true, "m v=2 1\nm v=2 2\nm v=2 3"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[0 1 2 1]" {
		t.Errorf("the owner has %v, want [0 1 2 1]", got)
	}
}

// lackNotes are how many points a copy had each time that it was noted to lack something.
type lackNotes struct {
	replicationtest.NoCopies
	points func() int
	had    []int
	anew   uint64
}

func (l *lackNotes) LastUnversioned(uint64) uint64 { return l.anew }

func (l *lackNotes) Lacks(uint64, string) { l.had = append(l.had, l.points()) }

// A late write from before what the journal knows may undo a newer one. The copy counts as not whole before the write,
// and is compared after it. No other write makes it so.
func TestLateWriteFromBeforeWhatIsKnownLeavesTheCopyNotWhole(t *testing.T) {
	t.Parallel()
	const since = 1000
	message := func(v uint64) *rpc.WriteShardRequest {
		m := &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy, Version: v}
		for _, p := range mustPoints(t, "m v=1 1\nm v=1 2") {
			b, err := p.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			m.Points = append(m.Points, b)
		}
		return m
	}
	hinted := func(v uint64) *rpc.WriteShardRequest {
		m := message(v)
		m.Hinted = true
		return m
	}
	spans := func(versions ...uint64) *rpc.WriteShardRequest {
		m := hinted(0)
		for _, v := range versions {
			m.Spans = append(m.Spans, &rpc.VersionSpan{Version: v, Points: 1})
		}
		return m
	}
	send := func(m *rpc.WriteShardRequest) func(*testing.T, *Writer) error {
		return func(t *testing.T, w *Writer) error {
			points, err := decodePoints(m.Points)
			if err != nil {
				t.Fatal(err)
			}
			return w.acceptSpans(m, points)
		}
	}
	local := func(v order.Version, yields bool) func(*testing.T, *Writer) error {
		return func(t *testing.T, w *Writer) error {
			d := &delivery{lane: lane{1, shardID}, version: v}
			return w.writeLocal(tsdb.WriteContext{}, d, db, policy, mustPoints(t, "m v=1 1\nm v=1 2"), nil, yields).err
		}
	}
	yields := message(since - 1)
	yields.Yields = true
	noted, notNoted := []int{-1, 2}, []int(nil) // without the shard, and with both points
	for name, tt := range map[string]struct {
		write func(*testing.T, *Writer) error
		want  []int
	}{
		"out of hinted handoff":              {send(hinted(since - 1)), noted},
		"one of several":                     {send(spans(since+1, since-1)), noted},
		"its client has the answer":          {send(yields), noted},
		"of this node, which has the answer": {local(since-1, true), noted},
		"of this node":                       {local(since-1, false), notNoted},
		"late, and known":                    {send(hinted(since)), notNoted},
		"several that are known":             {send(spans(since+1, since)), notNoted},
		"not late":                           {send(message(since - 1)), notNoted},
		"without a version":                  {send(spans(0, 0)), notNoted},
		"a repair": {func(t *testing.T, w *Writer) error {
			return w.Repairs().WriteVersion(tsdb.WriteContext{}, shardID, since-1, mustPoints(t, "m v=1 1"))
		}, notNoted},
	} {
		for _, why := range []string{"the journal was full", "the copy was made anew"} {
			t.Run(name+", "+why, func(t *testing.T) {
				t.Parallel()
				c := newTestCluster(t, "ok")
				w := c.newWriter(t, 1)
				notes := &lackNotes{points: func() int { return count(t, c.stores[0], "m") }}
				w.Copies = notes
				if why == "the copy was made anew" {
					notes.anew = since
				} else if err := w.Order.Journal.Lost(since); err != nil {
					t.Fatal(err)
				}
				if err := tt.write(t, w); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, notes.had); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// A journal that was never full makes no copy doubtful, also after a restart, however late a write is.
func TestLateWritesOfAHealthyNodeLeaveTheCopyWhole(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newWriter(t, 1)
	notes := &lackNotes{}
	w.Copies = notes
	dir := t.TempDir()
	for range 2 {
		journal, err := order.OpenJournal(order.JournalConfig{Dir: dir, MaxKeys: 1, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		w.Order.Journal = journal
		if err := journal.SetBegins(w.Order.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		late := w.Order.Clock.Next() // a node that was away gets it in the end
		for at := range 5 {
			if err := w.accept(tsdb.WriteContext{}, shardID, db, policy, w.Order.Clock.Next(), false,
				mustPoints(t, fmt.Sprintf("m v=1 %d", at))); err != nil {
				t.Fatal(err)
			}
		}
		if err := journal.SetFloor(late); err != nil {
			t.Fatal(err)
		}
		w.beginOld(shardID, late)()
		if err := journal.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(notes.had) > 0 {
		t.Errorf("the copy was noted as not whole %d times", len(notes.had))
	}
}

// The journal may get full while a late write waits to be accepted.
func TestLateWriteIsOldWhenTheJournalGetsFullMeanwhile(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.writerAt(t, 1)
	found := &lacking{}
	w.Copies = found
	const version = 1000
	written := w.beginOld(shardID, version)
	if found.has(shardID) {
		t.Fatal("the journal reaches back to the write, and the copy lacks something")
	}
	if err := w.Order.Journal.Lost(version + 1); err != nil {
		t.Fatal(err)
	}
	written()
	if !found.has(shardID) {
		t.Error("the copy counts as whole, and the write may have undone a newer one")
	}
}
