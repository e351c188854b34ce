package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/repair"
)

// Why a running repair stops.
var (
	errPaused    = errors.New("repairs are paused")
	errCanceled  = errors.New("repair was canceled")
	errResolving = errors.New("a type conflict of the shard is being resolved: the repair goes on after it")
	errResolved  = errors.New("a type conflict of the shard is being resolved already: see the log of its first owner")
)

// dispatcher takes due shards from the queue, the longest waiting first: at most max-fetch at a time, of which max-sync
// compare and patch while the others copy the files of missing shards.
//
// It has many methods because all that looks at running repairs, or stops them, is a short one under the same lock.
type dispatcher struct {
	queue   *queue
	deps    repair.Deps
	outcome outcome
	history history

	wake chan struct{} // a shard is new, or a job has ended

	mu      sync.Mutex
	running map[uint64]*job
	freed   chan struct{} // closed and replaced when a job may compare
	paused  bool          // no repair is taken
	jobs    sync.WaitGroup
}

// outcome is told what came of repairs.
type outcome interface {
	copiesFiles(shard uint64) bool
	repaired(shard uint64)
	inConflict(shard uint64, message string)
	checkAgain()
}

// job is a repair that runs.
type job struct {
	cancel context.CancelCauseFunc
	repair *repair.Repair // nil while a type conflict is resolved, which has the place of a repair

	// Under dispatcher.mu:
	compares bool // it compares and patches, and does not just copy files
	again    bool // the shard is checked once more when the repair has ended
}

func newDispatcher(q *queue, paused bool, deps repair.Deps, out outcome) *dispatcher {
	return &dispatcher{
		queue: q, paused: paused, deps: deps, outcome: out, wake: make(chan struct{}, 1),
		running: make(map[uint64]*job), freed: make(chan struct{}),
	}
}

// run starts repairs until ctx ends, and waits for them.
func (d *dispatcher) run(ctx context.Context) {
	defer d.jobs.Wait()
	for {
		var timer <-chan time.Time
		if wait, ok := d.dispatch(ctx); ok {
			timer = d.deps.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer:
		}
	}
}

func (d *dispatcher) wakeUp() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// dispatch starts what is due and free to start, and tells how long the next shard has to wait.
func (d *dispatcher) dispatch(ctx context.Context) (wait time.Duration, waiting bool) {
	cfg := d.deps.Config()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !cfg.Enabled || d.paused {
		return 0, false
	}
	now := d.deps.Cluster.Now()
	for _, it := range d.queue.list() {
		if d.running[it.ID] != nil {
			continue
		}
		if left := it.Next.Sub(now); left > 0 {
			if !waiting || left < wait {
				wait, waiting = left, true
			}
			continue
		}
		compares := !d.outcome.copiesFiles(it.ID)
		if len(d.running) < cfg.MaxFetch && (!compares || d.comparing() < cfg.MaxSync) {
			d.start(ctx, it, compares)
		} // else the end of a job wakes the loop
	}
	return wait, waiting
}

// start starts a repair. mu must be held.
func (d *dispatcher) start(ctx context.Context, it queued, compares bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{cancel: cancel, compares: compares}
	j.repair = repair.New(d.deps, it.record(), func(ctx context.Context) error { return d.turn(ctx, j) })
	d.running[it.ID] = j
	d.deps.Report.Jobs.Add(1)
	d.deps.Report.JobsActive.Add(1)
	d.jobs.Go(func() {
		d.repair(ctx, it, j)
		cancel(nil)
		again := d.end(it.ID)
		if again {
			d.outcome.checkAgain()
		}
		d.deps.Report.JobsActive.Add(-1)
		d.wakeUp()
	})
}

// end makes room for other jobs, and reports whether the shard is to be checked again.
func (d *dispatcher) end(shard uint64) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	again = d.running[shard].again
	delete(d.running, shard)
	d.free()
	return again
}

// repair repairs one shard and settles its place in the queue.
func (d *dispatcher) repair(ctx context.Context, it queued, j *job) {
	err := j.repair.Run(ctx)
	r := j.repair.Record()
	r.Ended, r.ETA = d.deps.Cluster.Now(), 0
	defer func() { d.history.add(r) }()
	log, report := summary(d.deps.Report.Log, r), d.deps.Report
	switch cause := context.Cause(ctx); {
	case cause != nil: // it left the queue when it was canceled; otherwise it is tried again
		r.State, r.Error = entropy.Stopped, cause.Error()
		log.Info("Repair stopped", zap.NamedError("reason", cause))
		return
	case errors.Is(err, entropy.ErrOnItsWay):
		r.State, r.Error = entropy.Failed, err.Error()
		log.Debug("Repair waits for hinted handoff", zap.Error(err))
		if err := d.queue.postpone(it.ID, d.deps.Cluster.Now(), err); err != nil {
			report.Fail("Cannot record that a repair waits", it.ID, err)
		}
		return
	case err != nil:
		r.State, r.Error = entropy.Failed, err.Error()
		report.Errors.Add(1)
		log.Warn("Repair failed and will be tried again", zap.Error(err))
		if err := d.queue.fail(it.ID, d.deps.Cluster.Now(), err); err != nil {
			report.Fail("Cannot record a failed repair", it.ID, err)
		}
		return
	case j.repair.Refused() != "":
		r.State, r.Error = entropy.Refused, j.repair.Refused()
		report.RepairsInConflict.Add(1)
		log.Warn("Repair needs an operator: owners refuse points that others have",
			zap.Int("refused_fields", r.Refused), zap.String("message", r.Error))
		d.outcome.inConflict(it.ID, r.Error)
	default:
		r.State = entropy.Done
		log.Info("Repair done")
		d.outcome.repaired(it.ID)
	}
	if err := d.queue.remove(it.ID); err != nil {
		report.Fail("Cannot take a repaired shard from the queue", it.ID, err)
	}
}

// summary is a log with what a repair did.
func summary(log *zap.Logger, r entropy.RepairRecord) *zap.Logger {
	return log.With(
		zap.String("repair_id", r.ID()), zap.Uint64("db_shard_id", r.ShardID), zap.Strings("owners", r.Owners), zap.Int("points", r.Points),
		zap.Int64("bytes_rx", r.BytesRx), zap.Int64("bytes_tx", r.BytesTx), zap.Int("conflicts", r.Conflicts),
		zap.Int("rounds", r.Rounds), zap.Duration("duration", r.Ended.Sub(r.Started)),
	)
}

// turn waits until a job may compare and patch: it is one of max-sync.
func (d *dispatcher) turn(ctx context.Context, j *job) error {
	for {
		d.mu.Lock()
		if j.compares || d.comparing() < d.deps.Config().MaxSync {
			j.compares = true
			d.mu.Unlock()
			return nil
		}
		freed := d.freed
		d.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// comparing counts jobs that compare and patch. mu must be held.
func (d *dispatcher) comparing() (n int) {
	for _, j := range d.running {
		if j.compares {
			n++
		}
	}
	return n
}

// free tells jobs that wait for their turn to look again. mu must be held.
func (d *dispatcher) free() {
	close(d.freed)
	d.freed = make(chan struct{})
}

// takePlace waits until no repair of a shard runs, and lets none begin until release. What runs stops, and stays in
// the queue. When somebody takes a shard's place twice, the second one gets an error.
func (d *dispatcher) takePlace(
	ctx context.Context, shard uint64, cancel context.CancelCauseFunc,
) (release func(), err error) {
	for {
		d.mu.Lock()
		old := d.running[shard]
		if old == nil {
			d.running[shard] = &job{cancel: cancel}
			d.mu.Unlock()
			return func() {
				d.end(shard)
				d.wakeUp()
			}, nil
		}
		freed := d.freed
		d.mu.Unlock()
		if old.repair == nil {
			return nil, fmt.Errorf("shard %d: %w", shard, errResolved)
		}
		old.cancel(errResolving)
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Queue queues a shard, unless it is queued.
func (d *dispatcher) Queue(shard uint64) error {
	if err := d.queue.put(shard, d.deps.Cluster.Now()); err != nil {
		return err
	}
	d.wakeUp()
	return nil
}

// QueueNow queues a shard, and makes one that is queued due at once: somebody asked for it.
func (d *dispatcher) QueueNow(shard uint64) error {
	it, err := d.queue.putNow(shard, d.deps.Cluster.Now())
	if err != nil {
		return err
	}
	d.deps.Report.Log.Info("Repair was asked for", zap.String("repair_id", it.record().ID()), zap.Uint64("db_shard_id", shard))
	d.wakeUp()
	return nil
}

// Hurry makes a queued shard due at once, whose last repair failed.
func (d *dispatcher) Hurry(shard uint64) error {
	if err := d.queue.hurry(shard, d.deps.Cluster.Now()); err != nil {
		return err
	}
	d.wakeUp()
	return nil
}

// ownerBack has failed repairs of a node's shards tried again at once, and soon after when that fails: most failed
// because the node was away.
func (d *dispatcher) ownerBack(node uint64) error {
	live := d.deps.Cluster.Live()
	if err := d.queue.anew(func(id uint64) bool { return live[id].Owned(node) }, d.deps.Cluster.Now()); err != nil {
		return err
	}
	d.wakeUp()
	return nil
}

// Running reports whether a shard is being repaired. With again, all shards are checked when that repair has ended.
func (d *dispatcher) Running(shard uint64, again bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.running[shard]
	if j != nil && again {
		j.again = true
	}
	return j != nil
}

// DropGone takes shards from the queue that are not live any more, and stops their repairs.
func (d *dispatcher) DropGone(live map[uint64]cluster.Shard) {
	for _, it := range d.queue.list() {
		if _, ok := live[it.ID]; ok {
			continue
		}
		if err := d.drop(it.ID, entropy.ErrUnknownShard); err != nil {
			d.deps.Report.Fail("Cannot take a dropped shard from the queue", it.ID, err)
		}
	}
}

// drop takes a shard from the queue and stops its repair, which keeps what it did. It does not wait for its end.
func (d *dispatcher) drop(shard uint64, cause error) error {
	err := d.queue.remove(shard)
	d.mu.Lock()
	defer d.mu.Unlock()
	if j := d.running[shard]; j != nil {
		j.cancel(cause)
	}
	return err
}

// pause stops the taking of repairs, also over a restart, and running ones; or resumes.
func (d *dispatcher) pause(paused bool) error {
	if err := d.queue.setPaused(paused); err != nil {
		return err
	}
	d.mu.Lock()
	d.paused = paused
	d.mu.Unlock()
	if paused {
		d.stop(errPaused)
	}
	d.wakeUp()
	return nil
}

func (d *dispatcher) isPaused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.paused
}

func (d *dispatcher) stop(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.running {
		j.cancel(cause)
	}
}

// reconfigured takes over a changed configuration.
func (d *dispatcher) reconfigured() {
	if !d.deps.Config().Enabled {
		d.stop(entropy.ErrDisabled)
	}
	d.mu.Lock()
	d.free()
	d.mu.Unlock()
	d.wakeUp()
}

// processing are the queued shards that are being repaired.
func (d *dispatcher) processing() (out []uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.running {
		if d.queue.has(id) {
			out = append(out, id)
		}
	}
	return out
}

// records are what waits and runs, then what ended, the newest first.
func (d *dispatcher) records() entropy.NodeRepairs {
	d.mu.Lock()
	out := entropy.NodeRepairs{Paused: d.paused}
	running := make(map[uint64]*repair.Repair, len(d.running))
	for id, j := range d.running {
		if j.repair != nil {
			running[id] = j.repair
		}
	}
	d.mu.Unlock()
	for _, it := range d.queue.list() {
		r := it.record()
		if of := running[it.ID]; of != nil {
			r = of.Record()
		}
		out.Repairs = append(out.Repairs, r)
	}
	out.Repairs = append(out.Repairs, d.history.newestFirst()...)
	return out
}
