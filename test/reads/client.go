package reads

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"concord/test/process"
)

const (
	writers     = 4
	readers     = 4 // of which half are patient
	hour        = int64(time.Hour)
	liveSeries  = 3   // of a writer in each database at a time
	seriesTurns = 60  // writes to a series before another one takes its place
	tail        = 0.7 // mean of how many hours a write is behind the newest
	writeEvery  = 150 * time.Millisecond
	readEvery   = 50 * time.Millisecond
	writerWaits = 4 * time.Second
	readerWaits = 8 * time.Second
	longWaits   = 40 * time.Second       // of a patient reader: longer than any hang
	writerAvoid = 2 * time.Second        // a node that gave no answer
	readerAvoid = 300 * time.Millisecond // its first answers are those that are most likely to lack something
)

var levels = []string{"one", "quorum", "all"}

// base is what writers and readers share.
type base struct {
	rng     *rand.Rand
	c       *campaign
	avoid   time.Duration
	shunned map[string]time.Time // by node: when it was not there
}

// node picks a node that was there of late.
func (b *base) node() *process.Node {
	var good []*process.Node
	nodes := b.c.nodes()
	for _, n := range nodes {
		if time.Since(b.shunned[n.Name]) > b.avoid {
			good = append(good, n)
		}
	}
	if len(good) == 0 {
		good = nodes
	}
	return good[b.rng.IntN(len(good))]
}

func (b *base) pick() *store { return b.c.stores[b.rng.IntN(len(b.c.stores))] }

// every calls f at a pace that leaves the machine usable.
func every(ctx context.Context, pace time.Duration, f func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// writer is a client that writes. It owns its series.
type writer struct {
	base
	id   int
	made int
	live map[*store][]*owned
}

// owned is a series of a writer.
type owned struct {
	name   string
	writes int
}

func (w *writer) fresh() *owned {
	w.made++
	return &owned{name: fmt.Sprintf("w%d-%d", w.id, w.made)}
}

func (w *writer) run(ctx context.Context) {
	w.live = make(map[*store][]*owned)
	for _, s := range w.c.stores {
		for range liveSeries {
			w.live[s] = append(w.live[s], w.fresh())
		}
	}
	every(ctx, writeEvery, func() {
		if w.c.deletes && w.rng.IntN(20) == 0 {
			w.delete()
		} else {
			w.write()
		}
	})
}

// place picks an hour, mostly the newest.
func (w *writer) place(s *store, o *owned) place {
	newest := s.hours.Load() - 1
	return place{window{s.name, int(newest - min(newest, int64(w.rng.ExpFloat64()*tail)))}, o.name}
}

func (w *writer) write() {
	s := w.pick()
	i := w.rng.IntN(liveSeries)
	o := w.live[s][i]
	at := w.place(s, o)
	n, level := w.node(), levels[w.rng.IntN(len(levels))]
	through := w.c.member(n)
	batch := w.c.rec.issue(at, w.c.begin+int64(at.hour)*hour, 1+w.rng.IntN(12), level, through)
	if o.writes++; o.writes > seriesTurns || len(batch) == 0 {
		w.live[s][i] = w.fresh()
	}
	if len(batch) == 0 {
		return
	}
	var lines []byte
	for _, p := range batch {
		lines = fmt.Appendf(lines, "m,s=%s v=%di %d\n", p.series, p.value, p.time)
	}
	ctx, cancel := context.WithTimeout(context.Background(), writerWaits)
	defer cancel()
	f, why := write(ctx, n.HTTP, s.name, level, lines)
	w.c.rec.wrote(batch, f)
	if f != acknowledged {
		w.shunned[n.Name] = time.Now()
		w.c.figures.failed(why)
		return
	}
	if w.rng.IntN(2) == 0 {
		// Read your own write: at once, and through the node that acknowledged it.
		w.c.ask(n, asked{
			window: at.window, copies: s.copies, series: at.series, from: batch[0].time,
			to:   batch[len(batch)-1].time + 1,
			form: []form{raw, total}[w.rng.IntN(2)],
		}, readerWaits)
	}
}

func (w *writer) delete() {
	s := w.pick()
	i := w.rng.IntN(liveSeries)
	o := w.live[s][i]
	at := w.place(s, o)
	d := w.c.rec.deleting(at)
	if len(d.batch) == 0 {
		return
	}
	n := w.node()
	through := w.c.member(n)
	ctx, cancel := context.WithTimeout(context.Background(), writerWaits)
	defer cancel()
	answer, err := ask(ctx, n.HTTP, s.name, fmt.Sprintf(`DELETE FROM m WHERE s = '%s' AND time >= %d AND time <= %d`,
		at.series, d.batch[0].time, d.batch[len(d.batch)-1].time))
	f, why := acknowledged, ""
	switch {
	case err != nil:
		f, why = unanswered(err), err.Error()
	case answer.err != "":
		f, why = limbo, answer.err
	}
	w.c.rec.deleted(d, f, through)
	if f != acknowledged {
		w.shunned[n.Name] = time.Now()
		w.c.figures.failed("delete: " + why)
		w.live[s][i] = w.fresh() // a delete in limbo may come later
	}
}

// reader is a client that reads what was acknowledged. A patient one waits for a node that hangs: what
// it answers then is most likely to be stale.
type reader struct {
	base
	patient bool
}

func (r *reader) run(ctx context.Context) { every(ctx, readEvery, r.read) }

func (r *reader) read() {
	s := r.pick()
	newest := int(s.hours.Load()) - 1
	h := r.rng.IntN(newest + 1)
	if r.rng.IntN(3) > 0 {
		h = max(0, newest-r.rng.IntN(2))
	}
	from := r.c.begin + int64(h)*hour
	q := asked{
		window: window{s.name, h}, copies: s.copies, from: from, to: from + hour, form: form(r.rng.IntN(int(forms))),
	}
	switch p := r.c.rec.some(r.rng); {
	case p == nil:
	case r.rng.IntN(3) == 0: // one point
		q = asked{
			window: p.window, copies: r.c.store(p.db).copies, series: p.series, from: p.time, to: p.time + 1, form: raw,
		}
	case r.rng.IntN(2) == 0: // its series
		begin := r.c.begin + int64(p.hour)*hour
		q = asked{
			window: p.window, copies: r.c.store(p.db).copies, series: p.series, from: begin, to: begin + hour,
			form: q.form,
		}
	case r.rng.IntN(3) == 0: // a part of the hour
		q.from += r.rng.Int64N(int64(time.Minute))
		q.to = q.from + r.rng.Int64N(int64(5*time.Minute))
	}
	n := r.node()
	waits := readerWaits
	if r.patient {
		waits = longWaits
	}
	if !r.c.ask(n, q, waits) {
		r.shunned[n.Name] = time.Now()
	}
}

// text is a question as InfluxQL.
func (q *asked) text() string {
	where := fmt.Sprintf("WHERE time >= %d AND time < %d", q.from, q.to)
	if q.series != "" {
		where += fmt.Sprintf(" AND s = '%s'", q.series)
	}
	switch q.form {
	case raw:
		if q.series != "" {
			return "SELECT v FROM m " + where
		}
		return "SELECT v, s FROM m " + where
	case bySeries:
		return "SELECT count(v), sum(v) FROM m " + where + " GROUP BY s"
	case byTime:
		q.width = int64(10 * time.Second)
		return "SELECT count(v), sum(v) FROM m " + where + " GROUP BY time(10s) fill(none)"
	case nested:
		return "SELECT sum(c), sum(t) FROM (SELECT count(v) AS c, sum(v) AS t FROM m " + where + " GROUP BY s)"
	}
	return "SELECT count(v), sum(v) FROM m " + where
}

// store is a database.
type store struct {
	name   string
	copies int
	hours  atomic.Int64 // that are written to
}
