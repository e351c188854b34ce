package replication

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/batch"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// lacking notes which copies lack something.
type lacking struct {
	replicationtest.NoCopies
	mu     sync.Mutex
	shards []uint64
	missed []uint64 // nodes that may lack something
}

func (l *lacking) Missed(node, _ uint64, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missed = append(l.missed, node)
}

func (l *lacking) Lacks(shard uint64, _ string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shards = append(l.shards, shard)
}

func (l *lacking) has(shard uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.shards, shard)
}

// What a node that went down had sent to one owner alone reaches the other one, in its place among the writes there.
// Where the owner cannot tell that place any more, its copy lacks the write.
func TestOwnersRelayWhatANodeThatIsGoneWrote(t *testing.T) {
	t.Parallel()
	const sender, gone = 77, 3
	for _, tt := range []struct {
		name      string
		asBatch   bool
		late      bool
		forgotten bool
		ended     bool
		lacks     bool
		want      string
	}{
		{name: "points one by one", want: "[1 20]"},
		{name: "a batch", asBatch: true, want: "[1 20]"},
		{name: "a new process of the sender has told its floor", late: true, want: "[1 20]"},
		{name: "what is newer may be forgotten", forgotten: true, lacks: true, want: "[20]"},
		// It was brought there before, which a process that was started since does not remember.
		{name: "its sender had nothing under way to the owner", forgotten: true, ended: true, want: "[20]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok", "ok", "down")
			from, to := c.writerAt(t, 1), c.writerAt(t, 2)
			found := &lacking{}
			to.Copies = found
			c.meta.Nodes[1].TCPAddr = mustServe(t, NewServer(c.stores[1], to, zap.NewNop()))

			version := from.Order.Clock.Next()
			err := to.accept(tsdb.WriteContext{}, shardID, db, policy, version+1, false, mustPoints(t, "m v=20 2"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.forgotten {
				if err := to.Order.Journal.Lost(version + 1); err != nil {
					t.Fatal(err)
				}
			}
			points := mustPoints(t, "m v=1 1\nm v=2 2")
			write := &rpc.WriteShardRequest{
				ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: sender, SenderNode: gone, Write: 256,
				NoneUnderWayBelow: 256, Version: uint64(version),
			}
			server := NewServer(c.stores[0], from, zap.NewNop())
			if tt.asBatch {
				b := batch.Of(points)
				_, err = server.WriteBatch(t.Context(), &rpc.WriteBatchRequest{
					Write: write, Batch: b.Encoded(), Points: uint32(b.Len()),
				})
				if err != nil {
					t.Fatal(err)
				}
			} else {
				for _, p := range points {
					encoded, err := p.MarshalBinary()
					if err != nil {
						t.Fatal(err)
					}
					write.Points = append(write.Points, encoded)
				}
				if _, err := server.WriteShard(t.Context(), write); err != nil {
					t.Fatal(err)
				}
			}
			if tt.ended {
				to.Told(Said{Node: gone, Process: sender, Floor: uint64(version) + 1})
			}
			// New processes of the sender know of no write.
			for process := uint64(sender + 1); process < sender+3; process++ {
				to.SenderGone(gone, process)
				to.Told(Said{Node: gone, Process: process, Floor: uint64(version) + 1})
			}
			if tt.late {
				to.Told(Said{Node: 1, Floor: uint64(version) + 1})
				to.floors.forget()
			}
			for _, one := range from.relays.byOwner(gone, from.received.take(gone, 0))[2] {
				from.relays.tell(2, one)
			}
			if got := fmt.Sprint(values(t, c.stores[1], "m")); got != tt.want {
				t.Errorf("the owner has %s, want %s", got, tt.want)
			}
			if found.has(shardID) != tt.lacks {
				t.Errorf("its copy lacks something: %t, want %t", !tt.lacks, tt.lacks)
			}
		})
	}
}

// An owner that cannot be told for long, or until this node closes, may lack the writes.
func TestOwnerThatCannotBeToldMayLackWrites(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down")
	w := c.writerAt(t, 1)
	found := &lacking{}
	w.Copies = found
	w.received.add(arrived{request: &rpc.WriteShardRequest{
		ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: 77, SenderNode: 3, Write: 1, Version: 9,
	}})
	w.SenderGone(3, 0)
	await(t, "the owner is being told", func() bool {
		w.received.mu.Lock()
		defer w.received.mu.Unlock()
		return w.received.m[receivedKey{77, shardID}].writes[1].taken
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(found.missed, 2) {
		t.Errorf("the nodes that may lack something are %v, want 2", found.missed)
	}
}

// The journal forgets nothing that is newer than a relayed write which is about to be written.
func TestNothingIsForgottenWhileAWriteIsRelayed(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.writer(t)
	version := w.Order.Clock.Next()
	ended, ok := w.floors.beginRelayed(version)
	if !ok {
		t.Fatal("refused")
	}
	w.floors.forget()
	again, ok := w.floors.beginRelayed(version)
	if !ok {
		t.Fatal("what is newer was forgotten, and a write of this version is under way")
	}
	ended()
	again()
	w.floors.forget()
	if _, ok := w.floors.beginRelayed(version); ok {
		t.Error("what is newer may be forgotten, and the write is taken")
	}
}

// The points that are kept are bounded. Those of writes that all owners have are not kept.
func TestReceivedKeepsFewPoints(t *testing.T) {
	t.Parallel()
	var r received
	add := func(write, noneBelow uint64) {
		r.add(arrived{request: &rpc.WriteShardRequest{
			Sender: 1, SenderNode: 2, ShardId: 3, Write: write, NoneUnderWayBelow: noneBelow, Version: 9,
			Points: [][]byte{make([]byte, maxReceivedBytes/2)},
		}})
	}
	kept := func() (n int) {
		for _, from := range r.m {
			for _, a := range from.writes {
				if a.request != nil {
					n++
				}
			}
		}
		return n
	}
	add(1, 1)
	add(2, 1)
	add(3, 1)
	if kept() != 2 || r.lacks(1, 3, []uint64{1, 2, 3}) {
		t.Errorf("%d writes are kept, want 2, and to know of all", kept())
	}
	add(4, 3)
	if kept() != 1 || r.bytes != maxReceivedBytes/2 {
		t.Errorf("%d writes of %d bytes are kept, want the last one", kept(), r.bytes)
	}
	r.below(1, 9)
	if kept() != 1 {
		t.Error("a write is not kept that may be under way")
	}
	r.below(1, 10)
	if kept() != 0 || r.bytes != 0 || r.lacks(1, 3, []uint64{4}) {
		t.Errorf("%d writes of %d bytes are kept that are not under way any more", kept(), r.bytes)
	}
	add(5, 5)
	r.take(2, 0)
	long := time.Now().Add(-receivedKeeps)
	r.gone[1] = long
	r.below(1, 1) // the process is alive
	r.forgetGone()
	if kept() != 1 {
		t.Error("a write of a process that is not gone is forgotten")
	}
	r.take(2, 0)
	r.gone[1] = long
	r.forgetGone()
	if r.bytes != 0 || len(r.m) != 0 || len(r.gone) != 0 {
		t.Errorf("%d bytes are kept of %d senders, want nothing", r.bytes, len(r.m))
	}
	relayed := &rpc.WriteShardRequest{Sender: 1, SenderNode: 2, ShardId: 3, Write: 6, Version: 9, Relayed: true}
	r.add(arrived{request: relayed})
	r.gone[1] = long
	r.forgetGone()
	if got := r.take(2, 0); len(got) > 0 {
		t.Error("what another owner sent on long ago is told again")
	}
}

// A write of which the first owner refused a point, as all owners do, is acknowledged as a partial one. The other
// owners get the rest of it all the same. One that does not take it, or for which its points are not kept, may lack
// them.
func TestOwnersRelayAWriteThatWasPartial(t *testing.T) {
	t.Parallel()
	const sender, gone = 77, 3
	for _, tt := range []struct {
		name   string
		strict bool // the other owner takes nothing
		kept   bool
		want   string
		missed []uint64
	}{
		{"it is taken", false, true, "[1]", nil},
		{"it is refused", true, true, "[]", []uint64{2}},
		{"its points are not kept", false, false, "[]", []uint64{2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok", "ok", "down")
			from, to := c.writerAt(t, 1), c.writerAt(t, 2)
			lackHere, lackThere := &lacking{}, &lacking{}
			from.Copies, to.Copies = lackThere, lackHere
			c.meta.Nodes[1].TCPAddr = mustServe(t, NewServer(c.stores[1], to, zap.NewNop()))
			if tt.strict {
				c.meta.Nodes[1].TCPAddr = mustServe(t, refusing{})
			}
			mustWrite(t, c.stores[0], "m f=1i 9")
			mustWrite(t, c.stores[1], "m f=1i 9")
			write := &rpc.WriteShardRequest{
				ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: sender, SenderNode: gone, Write: 256,
				NoneUnderWayBelow: 256, Version: uint64(from.Order.Clock.Next()),
			}
			for _, p := range mustPoints(t, "m v=1 1\nm f=1.5 2") {
				encoded, err := p.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				write.Points = append(write.Points, encoded)
			}
			resp, err := NewServer(c.stores[0], from, zap.NewNop()).WriteShard(t.Context(), write)
			if err != nil || !resp.Partial {
				t.Fatal(resp, err)
			}
			if !tt.kept {
				from.received.m[receivedKey{sender, shardID}].at = time.Now().Add(-2 * receivedRecent)
				from.received.forgetPoints()
			}
			for _, one := range from.relays.byOwner(gone, from.received.take(gone, 0))[2] {
				from.relays.tell(2, one)
			}
			if got := fmt.Sprint(values(t, c.stores[1], "m")); got != tt.want {
				t.Errorf("the owner has %s, want %s", got, tt.want)
			}
			if !slices.Equal(lackThere.missed, tt.missed) || lackHere.has(shardID) {
				t.Errorf("%v lack something, want %v; the owner itself: %t", lackThere.missed, tt.missed, lackHere.has(shardID))
			}
		})
	}
}

// refusing is a node that refuses all writes and is told what others received.
type refusing struct{ strict }

func (refusing) Received(context.Context, *rpc.ReceivedRequest) (*rpc.ReceivedResponse, error) {
	return &rpc.ReceivedResponse{}, nil
}
