package replication

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/deletes"
	"concord/internal/order"
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
