package copystate

import (
	"testing"
	"time"

	"concord/internal/rpc"
)

// What a new process of a node says of the order of writes counts after it is known that the former one is gone, also
// when two messages of it come at once: the floor of the former one would be lost.
func TestFormerProcessIsGoneBeforeTheNewOneIsHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	x := w.nodes[1].s.exchanges
	learn := func() {
		if err := x.learn(&rpc.CopyStates{Node: 2, Process: 7, Version: 1, Starting: true}); err != nil {
			t.Error(err)
		}
	}
	told := make(chan struct{}, 2)
	x.order.Told = func(Said) { told <- struct{}{} }
	second := make(chan struct{})
	x.events.Gone = func(uint64, uint64) {
		go func() { defer close(second); learn() }()
		select {
		case <-told:
			t.Error("a message of the new process counted while the former one was not known to be gone")
		case <-time.After(20 * time.Millisecond):
		}
	}
	learn()
	<-second
	if len(told) != 2 {
		t.Errorf("%d of 2 messages counted", len(told))
	}
}
