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
	"sync"
	"sync/atomic"
	"time"

	"concord/test/history"
	"concord/test/process"
)

const (
	database    = "campaign"
	day         = int64(24 * time.Hour)
	slots       = 150 // points of a series in one day, one a second
	series      = 5   // of each writer at a time, or of all where they share them
	clientWaits = 6 * time.Second
	avoid       = 2 * time.Second // a node that gave no answer
)

// names are the series that are written to at a time: those of one writer, or of all.
type names struct {
	mu     sync.Mutex
	prefix string
	made   int // series so far
	live   []string
}

func newNames(prefix string) *names {
	n := &names{prefix: prefix, live: make([]string, series)}
	n.renew()
	return n
}

// renew takes other series in place of all.
func (n *names) renew() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.live {
		n.live[i] = n.fresh()
	}
}

// fresh makes a new name. mu must be held.
func (n *names) fresh() string {
	n.made++
	return fmt.Sprintf("%s-%d", n.prefix, n.made)
}

func (n *names) pick(rng *rand.Rand) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live[rng.IntN(len(n.live))]
}

// retire takes another series in place of s, unless another writer has done so.
func (n *names) retire(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.Index(n.live, s); i >= 0 {
		n.live[i] = n.fresh()
	}
}

// writer is one client, with one operation at a time.
type writer struct {
	rng     *rand.Rand
	rec     *record
	nodes   func() []*process.Node
	begin   int64         // of the first day
	days    *atomic.Int64 // that are written to; more with time, so that shard groups are made during faults
	names   *names
	deletes bool
	stays   bool          // writes of a series go through one node
	home    *process.Node // of a writer that stays
	shunned map[string]time.Time
	report  func(error) // of what must never be
}

// run works until ctx ends, at a pace that leaves the machine usable.
func (w *writer) run(ctx context.Context) {
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

// node picks the node to write through. A writer that stays keeps to one node
// while that answers, and takes new series to the next one, so that all
// writes of a point go through one node.
func (w *writer) node() *process.Node {
	if !w.stays {
		return w.any()
	}
	if w.home == nil || time.Since(w.shunned[w.home.Name]) < avoid {
		w.home = w.any()
		w.names.renew()
	}
	return w.home
}

// any picks a node that answered of late, as a client with failover does.
func (w *writer) any() *process.Node {
	var good []*process.Node
	all := w.nodes()
	for _, n := range all {
		if time.Since(w.shunned[n.Name]) > avoid {
			good = append(good, n)
		}
	}
	if len(good) == 0 {
		good = all
	}
	return good[w.rng.IntN(len(good))]
}

// judge tells what a client knows of an operation by its error.
func (w *writer) judge(n *process.Node, err error) (history.Fate, string) {
	if err == nil {
		return history.Acknowledged, ""
	}
	w.shunned[n.Name] = time.Now()
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return history.Refused, err.Error()
	}
	return history.Limbo, err.Error()
}

func (w *writer) write() {
	n := w.node()
	s := w.names.pick(w.rng)
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
		w.names.retire(s) // all of it rests
		return
	}
	var lines []byte
	for _, k := range slices.SortedFunc(maps.Keys(batch), func(a, b key) int { return int(a.time/int64(time.Second) - b.time/int64(time.Second)) }) {
		lines = fmt.Appendf(lines, "m,s=%s v=%di %d\n", k.series, batch[k], k.time)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	begun := w.rec.beginWrite(batch, n.Name)
	f, why := w.judge(n, n.Client().Write(ctx, database, "quorum", lines))
	w.rec.endWrite(begun, f, why)
}

func (w *writer) deleteRange() {
	s := w.names.pick(w.rng)
	from := w.begin + w.rng.Int64N(w.days.Load())*day + int64(w.rng.IntN(slots))*int64(time.Second)
	to := from + int64(w.rng.IntN(slots/3))*int64(time.Second)
	if w.rng.IntN(10) == 0 {
		from, to = w.begin, w.begin+w.days.Load()*day-1 // over all shards
	}
	w.delete(s, from, to, fmt.Sprintf(`DELETE FROM m WHERE s = '%s' AND time >= %d AND time <= %d`, s, from, to))
}

func (w *writer) dropSeries() {
	s := w.names.pick(w.rng)
	w.delete(s, 0, 1<<62, fmt.Sprintf(`DROP SERIES FROM m WHERE s = '%s'`, s))
}

func (w *writer) delete(s string, from, to int64, statement string) {
	n := w.any()
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	begun := w.rec.beginDelete(s, from, to, n.Name)
	_, err := n.Client().Query(ctx, database, statement)
	f, why := w.judge(n, err)
	w.rec.endDelete(begun, f, why)
	if f == history.Limbo {
		w.names.retire(s)
	}
}

func (w *writer) read() {
	n := w.any()
	ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
	defer cancel()
	got, err := query(ctx, n, fmt.Sprintf(`SELECT v, s FROM m WHERE s = '%s'`, w.names.pick(w.rng)))
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
