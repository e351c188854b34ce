package deletes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A node whose disk is older than it was runs what other nodes remember, and keeps what is newer.
func TestNodeCatchesUpWithDeletes(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	behind := c.newNode(t, 1)
	withLog(t, behind)
	mustOpen(t, behind)
	if err := behind.WritePoints(db, policy, one, nil, mustPoints(t, "cpu v=1 1\nmem v=1 1")); err != nil {
		t.Fatal(err)
	}

	// The other nodes have no copies: only what they remember counts.
	var others []*RanLog
	for id := uint64(2); id <= 3; id++ {
		n := mustOpen(t, newNode(newDeps(t, c.meta, mustStore(t), c.pool, id), nil))
		log := withLog(t, n)
		if err := log.HasLearned(); err != nil {
			t.Fatal(err)
		}
		others = append(others, log)
		c.meta.Add(cluster.Node{ID: id, TCPAddr: mustServe(t, n.server())})
	}
	drop := func(name, id string) *rpc.Delete {
		return &rpc.Delete{
			Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: name, Id: id, Version: uint64(behind.Order.Clock.Next()),
		}
	}
	before := drop("mem", "before") // this node had no part in it
	since := order.Version(before.Version)
	cpu, mem := drop("cpu", "a"), drop("mem", "b")
	for _, err := range []error{
		others[0].Record(before), others[0].Record(cpu, before.Id), others[1].Record(cpu), others[1].Record(mem, cpu.Id), // which is in the past there
		behind.WritePoints(db, policy, one, nil, mustPoints(t, "mem v=2 2")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := behind.deletes.CatchUp(t.Context(), since); err != nil {
		t.Fatal(err)
	}
	if got := count(t, behind.store, "cpu"); got != 0 {
		t.Errorf("%d points are left of a measurement that was dropped", got)
	}
	if got := count(t, behind.store, "mem"); got != 1 {
		t.Errorf("there are %d points, want the one that was written after the drop", got)
	}
	if !behind.deletes.ran("a") || !behind.deletes.ran("b") {
		t.Error("the deletes are not recorded")
	}
	if behind.deletes.ran("before") {
		t.Error("a delete ran that is older than what this node lost: points that are newer would be lost with it")
	}

	c.meta.Add(cluster.Node{ID: 4, TCPAddr: replicationtest.Down})
	if err := behind.deletes.CatchUp(t.Context(), since); err == nil || !strings.Contains(err.Error(), c.meta.Nodes[3].TCPAddr) {
		t.Errorf("%v, want an error that names the node that did not answer", err)
	}
}

// manyRemembered is a node that remembers many deletes, and tells when it has sent them.
type manyRemembered struct {
	server
	sent chan struct{}
}

func (m *manyRemembered) RememberedDeletes(
	_ *rpc.RememberedDeletesRequest, stream rpc.Deletes_RememberedDeletesServer,
) error {
	defer close(m.sent)
	for i := range 100 {
		r := &rpc.Delete{
			Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: fmt.Sprint(i), Version: uint64(i + 1),
		}
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// A node that stops must not run all deletes first that it has been told.
func TestCatchUpEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	behind := mustOpen(t, c.newNode(t, 1))
	second := mustOpen(t, newNode(newDeps(t, c.meta, mustStore(t), c.pool, 2), nil))
	other := &manyRemembered{second.server(), make(chan struct{})}
	n := cluster.Node{ID: 2, TCPAddr: mustServe(t, other)}
	ctx, cancel := context.WithCancel(t.Context())
	looked := 0
	err := behind.deletes.catchUpFrom(ctx, n, 0, func(*rpc.Delete) bool {
		<-other.sent
		cancel()
		looked++
		return false
	})
	if !errors.Is(err, context.Canceled) || looked != 1 {
		t.Errorf("it looks at %d deletes after its context has ended: %v", looked-1, err)
	}
}
