package copystate

import (
	"testing"
	"time"
)

func TestNodesTellForHowLongTheirMemoryLasts(t *testing.T) {
	w := newWorld(t, 2)
	says := func(d time.Duration) { w.change(2, func(n *node) { n.memory = d }) }
	heard := func() Sign { return w.nodes[1].s.Heard(2) }
	says(1500 * time.Millisecond)
	w.await("it is heard", func() bool {
		s := heard()
		return s.Memory == 1500*time.Millisecond && s.Process == 1 && time.Since(s.At) < time.Minute
	})
	says(1000 * time.Hour)
	w.await("no more is believed than a minute", func() bool { return heard().Memory == time.Minute })
	w.setCut(1, 2, true)
	failed := &w.nodes[1].s.stats.failed
	before := failed.Load()
	// The second exchange that fails began after the cut, and so nothing is on its way.
	w.await("nothing is heard", func() bool { return failed.Load() > before+1 })
	if s := heard(); s.Memory != time.Minute || s.At.IsZero() || heard() != s {
		t.Errorf("after a failed exchange the last sign is %+v", s)
	}
	if s := w.nodes[1].s.Heard(9); s != (Sign{}) {
		t.Errorf("a node that there is not has told %+v", s)
	}
}
