// Package clocks compares the clocks of nodes, and warns when two of them differ.
//
// A node that answers says what time it has. The asking node takes the middle of the round trip for the moment at
// which that was: the result is wrong by half of the round trip at most.
package clocks

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"

	"concord/internal/trust"
)

// Limit is by how much two clocks may differ without a warning.
const Limit = time.Second

// kept is for how long a node that is not observed any more stays in the statistics.
const kept = time.Minute

// Skew is how far another clock is ahead of this node's. It is behind when By is negative.
type Skew struct {
	By     time.Duration
	Margin time.Duration // By is wrong by so much at most
}

// Measure compares clocks. sent is when the other node was asked, and clock what it answered, in nanoseconds since the
// epoch; call it when the answer is there. A node of an older version answers 0, and ok is false then.
func Measure(sent time.Time, clock int64) (s Skew, ok bool) {
	half := time.Since(sent) / 2
	return Skew{By: time.Unix(0, clock).Sub(sent.Add(half)), Margin: half}, clock != 0
}

// Ask is Measure of a node that answered with its clock or with an error. The error counts when the node refuses the
// call because its clock is ahead.
func Ask(sent time.Time, clock int64, err error) (s Skew, ok bool) {
	if err != nil {
		s.By, s.Margin, ok = trust.AheadBy(err)
		return s, ok
	}
	return Measure(sent, clock)
}

// Off reports whether the clocks differ by more than Limit for certain.
func (s Skew) Off() bool { return s.By.Abs()-s.Margin > Limit }

// Reference is the clock in the middle, as its distance from the asking node's: most clocks are right. by are the
// distances of all clocks, 0 for the asking node's own among them. Of an even number, the nearer to that one counts.
func Reference(by []time.Duration) time.Duration {
	if len(by) == 0 {
		return 0
	}
	by = slices.Sorted(slices.Values(by))
	return slices.MinFunc(by[(len(by)-1)/2:len(by)/2+1], func(a, b time.Duration) int {
		return cmp.Compare(a.Abs(), b.Abs())
	})
}

// Watch keeps the skews of other nodes. It logs once when the clock of a node goes off, and once when it is right
// again.
type Watch struct {
	log *zap.Logger
	now func() time.Time

	mu    sync.Mutex
	nodes map[string]*watched // by address
}

type watched struct {
	skew Skew
	at   time.Time // when it was observed
	off  bool      // and so it was logged
}

// NewWatch returns a watch that logs to log.
func NewWatch(log *zap.Logger) *Watch {
	return &Watch{log: log, now: time.Now, nodes: make(map[string]*watched)}
}

// Observe takes a measurement of a node, which is named by its address.
func (w *Watch) Observe(node string, s Skew) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget()
	n := w.nodes[node]
	if n == nil {
		n = &watched{}
		w.nodes[node] = n
	}
	n.skew, n.at = s, w.now()
	switch fields := []zap.Field{
		zap.String("node", node), zap.Duration("ahead", s.By), zap.Duration("margin", s.Margin),
	}; {
	case !n.off && s.Off():
		n.off = true
		w.log.Warn("The clock of another node differs from this node's by more than a second: set both, with NTP for example",
			fields...)
	case n.off && s.By.Abs() < Limit*3/4: // well below the limit, or it would be logged again and again
		n.off = false
		w.log.Info("The clock of another node agrees with this node's again", fields...)
	}
}

// forget drops nodes that are not observed any more. mu must be held.
func (w *Watch) forget() {
	for name, n := range w.nodes {
		if w.now().Sub(n.at) > kept {
			delete(w.nodes, name)
		}
	}
}

// Statistics are `clock`, for each node that was observed in the last minute.
func (w *Watch) Statistics(tags map[string]string) []models.Statistic {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget()
	var out []models.Statistic
	for name, n := range w.nodes {
		off := int64(0)
		if n.off {
			off = 1
		}
		out = append(out, models.Statistic{
			Name: "clock", Tags: models.StatisticTags{"node": name}.Merge(tags),
			Values: map[string]any{"skewMs": n.skew.By.Milliseconds(), "off": off},
		})
	}
	slices.SortFunc(out, func(a, b models.Statistic) int { return cmp.Compare(a.Tags["node"], b.Tags["node"]) })
	return out
}
