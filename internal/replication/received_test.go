package replication

import (
	"maps"
	"slices"
	"testing"
	"time"

	"concord/internal/rpc"
)

func TestReceivedTellsWhatAnotherOwnerGotAlone(t *testing.T) {
	t.Parallel()
	const sender, node, shard = 77, 3, 5
	write := func(to *received, write, noneBelow uint64) {
		to.add(arrived{request: &rpc.WriteShardRequest{
			Sender: sender, SenderNode: node, ShardId: shard, Write: write, NoneUnderWayBelow: noneBelow, Version: 9,
		}})
	}
	var a, b received
	for w := range uint64(4) {
		write(&a, 10+w, 10)
		write(&b, 10+w, 10)
	}
	write(&a, 14, 12) // on its way to b when the sender went down
	taken := func(from *received) []uint64 {
		return slices.Sorted(maps.Keys(from.take(node, 0)[receivedKey{sender, shard}]))
	}
	gone := taken(&a)
	if len(gone) != 3 {
		t.Errorf("a has %v", gone)
	}
	if !b.lacks(sender, shard, gone) {
		t.Error("b lacks nothing")
	}
	if back := taken(&b); a.lacks(sender, shard, back) {
		t.Error("a lacks something of", back)
	}
	write(&b, 14, 12)
	if b.lacks(sender, shard, gone) {
		t.Error("b lacks what came late")
	}
	// When another process of the node is gone, later, the owners are told of what came since, and not of all again: an
	// owner that was started meanwhile could not tell the place of what is so old, and would take its copy for lacking.
	write(&a, 15, 12)
	if got := a.take(node, sender); len(got) > 0 {
		t.Error("the process is not gone, and told as such:", got)
	}
	if got := a.take(node+1, 0); len(got) > 0 {
		t.Error("of another node:", got)
	}
	a.m[receivedKey{sender, shard}].at = time.Now().Add(-2 * receivedRecent) // the process hung before it was killed
	if got := taken(&a); !slices.Equal(got, []uint64{15}) {
		t.Errorf("told of %v, want the last write alone", got)
	}
	if !new(received).lacks(sender, shard, gone) {
		t.Error("an owner that got nothing lacks nothing")
	}
}
