package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
)

const (
	// lookAgain is how often a run looks whether what it waits for has happened.
	lookAgain = time.Second
	// maxPlans bounds the plans of a run. The first one does nearly all. Shards that were made meanwhile, and copies
	// that have another size than the ones they were made of, may need another one.
	maxPlans = 3
	// maxWaiting bounds how many steps wait for whole copies while others are made.
	maxWaiting = 4
)

// errNotLeading ends a run on a meta node that leads no more: another one may run by now.
var errNotLeading = errors.New("another meta node leads now: run influxd-ctl rebalance again, which goes on from here")

// run is one rebalance.
type run struct {
	*rebalances
	maxRate uint64 // bytes a second of each copy; 0 for no limit
	say     func(wire.RebalanceEvent)

	failed map[uint64]string   // why, by shard; later plans leave these alone
	total  wire.RebalanceTotal // of the plan
	took   time.Duration       // for total.Copied
}

// do plans and carries out until a plan has nothing to do. An error says what was not done.
func (r *run) do(ctx context.Context) error {
	if err := r.awaitCopies(ctx); err != nil {
		return err
	}
	var problems []string
	for i := range maxPlans {
		l := r.look(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		l.failed = r.failed
		p := l.plan()
		shown := l.show(p)
		problems = shown.Problems
		if i > 0 && len(p.Steps) == 0 {
			break
		}
		r.total = wire.RebalanceTotal{Steps: len(p.Steps), Bytes: p.Bytes()}
		r.say(wire.RebalanceEvent{Plan: &shown, All: r.total})
		if err := r.carryOut(ctx, r.tasks(l, p)); err != nil {
			return err
		}
	}
	return r.undone(problems)
}

// undone says what a run could not do.
func (r *run) undone(problems []string) error {
	for id, why := range r.failed {
		problems = append(problems, fmt.Sprintf("shard %d: %s", id, why))
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	return errors.New(strings.Join(problems, "; "))
}

// awaitCopies waits for copies to nodes that are no owners yet: they will be. An earlier run may have left one, and
// people may make some.
func (r *run) awaitCopies(ctx context.Context) error {
	for seen, quiet := false, 0; ; {
		var busy []wire.CopyStatus
		for _, c := range r.shards.running(ctx) {
			if !r.owns(c.ShardID, c.Dest) {
				busy = append(busy, c)
			}
		}
		if len(busy) > 0 {
			seen, quiet = true, 0
			r.say(wire.RebalanceEvent{Waiting: busy})
		} else if quiet++; !seen || quiet > int(behind/lookAgain) { // a copy is recorded a moment after it is made
			return ctx.Err()
		}
		if err := pause(ctx, lookAgain); err != nil {
			return err
		}
	}
}

// owns reports whether the data node at an address owns a shard.
func (r *run) owns(shard uint64, addr string) bool {
	st := r.nodes.state()
	n, _ := st.DataNodeByAddr(addr)
	sh, ok := st.Shard(shard)
	return ok && sh.Owned(n.ID)
}

// tasks are the steps of a plan, to be carried out.
func (r *run) tasks(l layout, p balance.Plan) []*task {
	out := make([]*task, 0, len(p.Steps))
	for _, s := range p.Steps {
		sh := l.shards[s.Shard]
		wanted := min(max(sh.ReplicaN, 1), len(l.state.ActiveDataNodes()))
		out = append(out, &task{
			run: r, step: s, shown: l.step(s), least: min(wanted, len(sh.Owners)),
			empty: nothingWritten(l.copies[s.Shard]),
		})
	}
	return out
}

// carryOut does the tasks in their order, one copy at a time. While a copy that was made is not whole yet, the next
// one is made.
func (r *run) carryOut(ctx context.Context, todo []*task) error {
	var waiting []*task
	for len(todo) > 0 || len(waiting) > 0 {
		waiting = slices.DeleteFunc(waiting, func(t *task) bool { return t.advance(ctx) })
		if len(todo) > 0 && len(waiting) < maxWaiting {
			if !todo[0].advance(ctx) {
				waiting = append(waiting, todo[0])
			}
			todo = todo[1:]
		} else if len(waiting) > 0 {
			pause(ctx, lookAgain)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		} else if !r.leads() {
			return errNotLeading
		}
	}
	return nil
}

// ended notes that a step has ended, and copied so many bytes.
func (r *run) ended(t *task, state wire.RebalanceState, note string) bool {
	r.total.Ended++
	r.total.Bytes -= t.shown.Bytes - t.copied // the copy may have been there already
	if state == wire.StepFailed {
		r.failed[t.step.Shard] = note
	}
	r.tell(t, state, note, t.copied, wire.RebalanceSpeed{})
	return true
}

// tell says how far a step is.
func (r *run) tell(t *task, state wire.RebalanceState, note string, copied int64, speed wire.RebalanceSpeed) {
	all := r.total
	if state == wire.StepCopying { // else r.total has it
		all.Copied += copied
	}
	all.Left = left(all.Bytes-all.Copied, cmp.Or(rate(r.total.Copied, r.took), speed.Rate))
	shown := t.shown
	r.say(wire.RebalanceEvent{Step: &shown, State: state, Note: note, Copied: copied, Speed: speed, All: all})
}

// rate is in bytes a second; 0 when it is not known.
func rate(bytes int64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return float64(bytes) / took.Seconds()
}

// left is how many seconds so many bytes take; 0 when it is not known.
func left(bytes int64, rate float64) float64 {
	if rate <= 0 {
		return 0
	}
	return max(float64(bytes), 0) / rate
}

// shardNow is a shard as it is now, unless it has gone or expired.
func (r *run) shardNow(id uint64) (cluster.Shard, bool) {
	sh, ok := r.nodes.state().Shard(id)
	return sh, ok && (sh.Expires == 0 || sh.Expires > time.Now().UnixNano())
}
