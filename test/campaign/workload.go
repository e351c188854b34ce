package campaign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"concord/test/process"
)

const (
	database    = "campaign"
	day         = int64(24 * time.Hour)
	slots       = 150 // points of a series in one day, one a second
	series      = 5   // of each writer at a time
	clientWaits = 6 * time.Second
	avoid       = 2 * time.Second // a node that gave no answer
)

// writer is one client. It owns its series.
type writer struct {
	id      int
	rng     *rand.Rand
	rec     *record
	nodes   []*process.Node
	begin   int64         // of the first day
	days    *atomic.Int64 // that are written to; more with time, so that shard groups are made during faults
	live    []string
	deletes bool
	stays   bool          // writes of a series go through one node
	home    *process.Node // of a writer that stays
	made    int           // series so far
	shunned map[string]time.Time
	report  func(error) // of what must never be
}

// run works until ctx ends, at a pace that leaves the machine usable.
func (w *writer) run(ctx context.Context) {
	for range series {
		w.live = append(w.live, w.fresh())
	}
	tick := time.NewTicker(70 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch n := w.rng.IntN(100); {
		case n < 80 || n < 89 && !w.deletes:
			w.write()
		case n < 86:
			w.deleteRange()
		case n < 89:
			w.dropSeries()
		default:
			w.read()
		}
	}
}

func (w *writer) fresh() string {
	w.made++
	return fmt.Sprintf("w%d-%d", w.id, w.made)
}

// node picks the node to write through. A writer that stays keeps to one node
// while that answers, and takes new series to the next one, so that all
// writes of a point go through one node.
func (w *writer) node() *process.Node {
	if !w.stays {
		return w.any()
	}
	if w.home == nil || time.Since(w.shunned[w.home.Name]) < avoid {
		w.home = w.any()
		for i := range w.live {
			w.live[i] = w.fresh()
		}
	}
	return w.home
}

// any picks a node that answered of late, as a client with failover does.
func (w *writer) any() *process.Node {
	var good []*process.Node
	for _, n := range w.nodes {
		if time.Since(w.shunned[n.Name]) > avoid {
			good = append(good, n)
		}
	}
	if len(good) == 0 {
		good = w.nodes
	}
	return good[w.rng.IntN(len(good))]
}

// judge tells what a client knows of an operation by its error.
func (w *writer) judge(n *process.Node, err error) (fate, string) {
	if err == nil {
		return acknowledged, ""
	}
	w.shunned[n.Name] = time.Now()
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return refused, err.Error()
	}
	return limbo, err.Error()
}

func (w *writer) write() {
	n := w.node()
	s := w.live[w.rng.IntN(len(w.live))]
	days := w.days.Load()
	batch := make(map[key]int64)
	for range 1 + w.rng.IntN(40) {
		d := days - 1 - min(days-1, int64(w.rng.ExpFloat64())) // mostly the newest day
		// Few slots are in use at first, so that overwrites are frequent.
		k := key{s, w.begin + d*day + int64(w.rng.IntN(slots))*int64(time.Second)}
		if _, twice := batch[k]; !twice && !w.rec.resting(k) {
			batch[k] = w.rec.issue(k)
		}
	}
	if len(batch) == 0 {
		w.retire(s) // all of it rests
		return
	}
	var lines []byte
	for _, k := range slices.SortedFunc(maps.Keys(batch), func(a, b key) int { return int(a.time/int64(time.Second) - b.time/int64(time.Second)) }) {
		lines = fmt.Appendf(lines, "m,s=%s v=%di %d\n", k.series, batch[k], k.time)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	f, why := w.judge(n, n.Client().Write(ctx, database, "quorum", lines))
	w.rec.wrote(batch, f, n.Name, why)
}

// retire takes another series in place of s.
func (w *writer) retire(s string) {
	w.live[slices.Index(w.live, s)] = w.fresh()
}

func (w *writer) deleteRange() {
	s := w.live[w.rng.IntN(len(w.live))]
	from := w.begin + w.rng.Int64N(w.days.Load())*day + int64(w.rng.IntN(slots))*int64(time.Second)
	to := from + int64(w.rng.IntN(slots/3))*int64(time.Second)
	if w.rng.IntN(10) == 0 {
		from, to = w.begin, w.begin+w.days.Load()*day-1 // over all shards
	}
	w.delete(s, from, to, fmt.Sprintf(`DELETE FROM m WHERE s = '%s' AND time >= %d AND time <= %d`, s, from, to))
}

func (w *writer) dropSeries() {
	s := w.live[w.rng.IntN(len(w.live))]
	w.delete(s, 0, 1<<62, fmt.Sprintf(`DROP SERIES FROM m WHERE s = '%s'`, s))
}

func (w *writer) delete(s string, from, to int64, statement string) {
	n := w.any()
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	_, err := n.Client().Query(ctx, database, statement)
	f, why := w.judge(n, err)
	w.rec.deleted(s, from, to, f, n.Name, why)
	if f == limbo {
		w.retire(s)
	}
}

func (w *writer) read() {
	n := w.any()
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	got, err := query(ctx, n, fmt.Sprintf(`SELECT v, s FROM m WHERE s = '%s'`, w.live[w.rng.IntN(len(w.live))]))
	if err != nil {
		w.shunned[n.Name] = time.Now()
		return
	}
	if err := w.rec.read(got); err != nil {
		w.report(fmt.Errorf("read from %s: %w", n.Name, err))
	}
}

// query returns the points of a statement that selects v and s.
func query(ctx context.Context, n *process.Node, q string) (map[key]int64, error) {
	rows, err := n.Client().Query(ctx, database, q)
	if err != nil {
		return nil, err
	}
	got := make(map[key]int64, len(rows))
	for _, row := range rows {
		t, err1 := strconv.ParseInt(fmt.Sprint(row[0]), 10, 64)
		v, err2 := strconv.ParseInt(string(row[1].(json.Number)), 10, 64)
		s, ok := row[2].(string)
		if err1 != nil || err2 != nil || !ok {
			return nil, fmt.Errorf("%s: row %v is not a point of the campaign", q, row)
		}
		k := key{s, t}
		if _, twice := got[k]; twice {
			return nil, fmt.Errorf("%s: %s at %d is there twice", q, s, t)
		}
		got[k] = v
	}
	return got, nil
}
