package repair

import (
	"slices"
	"sync"
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/patch"
)

const (
	maxDecisions = 100 // that a record or a dry run lists
	maxRefusals  = 100
)

// progress is the record of a repair that runs.
type progress struct {
	report *entropy.Report // counts what all repairs do

	mu sync.Mutex
	r  entropy.RepairRecord
}

func newProgress(queued entropy.RepairRecord, now time.Time, report *entropy.Report) progress {
	queued.State, queued.Started = entropy.Running, now
	return progress{report: report, r: queued}
}

// change runs fn, which changes the record, under the lock that record takes.
func (p *progress) change(fn func(*entropy.RepairRecord)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.r)
}

// record is a copy of the record so far, with the rate and the time that the rest will take.
func (p *progress) record(now time.Time) entropy.RepairRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.r
	r.Owners, r.Decided, r.Refusals = slices.Clone(r.Owners), slices.Clone(r.Decided), slices.Clone(r.Refusals)
	if took := now.Sub(r.Started); took > 0 {
		r.Rate = float64(r.BytesRx+r.BytesTx) / took.Seconds()
		if done := r.Progress(); done > 0 {
			r.ETA = time.Duration(float64(took) * (1 - done) / done)
		}
	}
	return r
}

// received counts bytes that were read from a copy, unless it is this node's.
func (p *progress) received(c copies.Copy, n int) {
	if !c.Own {
		p.report.BytesRx.Add(int64(n))
		p.change(func(r *entropy.RepairRecord) { r.BytesRx += int64(n) })
	}
}

// sent counts bytes that were sent to a copy, unless it is this node's.
func (p *progress) sent(c copies.Copy, n int) {
	if !c.Own {
		p.report.BytesTx.Add(int64(n))
		p.change(func(r *entropy.RepairRecord) { r.BytesTx += int64(n) })
	}
}

// decided counts values that were decided.
func (p *progress) decided(m patch.Merged, of copies.Set) {
	p.report.Conflicts.Add(int64(m.ValueConflicts))
	p.change(func(r *entropy.RepairRecord) {
		r.Conflicts += m.ValueConflicts
		r.Decided = listDecisions(r.Decided, m.Decided, of)
	})
}

// listDecisions adds decisions about points of copies to a list, as far as it goes.
func listDecisions(to []entropy.Decision, d []patch.Decision, of copies.Set) []entropy.Decision {
	return append(to, entropy.Decisions(d[:min(len(d), maxDecisions-len(to))], of.Addrs())...)
}

// refused counts a series-field of which copies refuse points; reasons are by copy.
func (p *progress) refused(set copies.Set, series []byte, field string, reasons []string) {
	p.change(func(r *entropy.RepairRecord) {
		r.Refused++
		for i, reason := range reasons {
			if reason != "" && len(r.Refusals) < maxRefusals {
				r.Refusals = append(r.Refusals, entropy.Refusal{
					Node: set.Copies[i].TCPAddr, Series: string(series), Field: field, Reason: reason,
				})
			}
		}
	})
}
