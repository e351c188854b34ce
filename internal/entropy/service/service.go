// Package service is the anti-entropy service of a node: the checker, the queue of repairs with the dispatcher that
// runs them, and the scrubber, under one Open and Close. It is what other nodes ask (entropy.Control).
//
//	service.go     puts the parts together; what the node tells the service
//	control.go     what operators ask: status, repair, cancel, check, pause, dry run, list
//	resolve.go     the end of a conflict of types
//	queue.go       the durable queue
//	dispatcher.go  runs repairs of queued shards, as many at a time as the configuration says
//	scrubber.go    reads all files of this node's copies again from time to time
//	results.go     what came of a repair, for the checker
//	history.go     repairs that ended
//	teller.go      tells other nodes that copies of this node lack something
package service

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"

	"concord/internal/entropy"
	"concord/internal/entropy/check"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/refusal"
	"concord/internal/entropy/repair"
	"concord/internal/entropy/tsmfile"
)

// Local is this node's copies.
type Local interface {
	entropy.Replica
	// Scrub reads all files of a copy from disk, and notes what is damaged. It fails with entropy.ErrNoCopy when the
	// node does not have the shard.
	Scrub(ctx context.Context, id uint64) ([]*tsmfile.Damage, error)
	// Damaged returns what is damaged, by shard.
	Damaged() (map[uint64]string, error)
	// Sound forgets that a copy was damaged: all its files are verified.
	Sound(id uint64) error
}

// Deps is what the service needs from its node. Fields without a remark must be set.
type Deps struct {
	Dir       string // of the service's own files
	Meta      entropy.Metadata
	Local     Local
	Transport entropy.Transport
	Limit     *pace.Limit // SetConfig changes it
	Pace      *pace.Pace  // that of this node's background work; nil for none
	Log       *zap.Logger

	Reconciler reconcile.Reconciler                 // reconcile.Rateless when nil
	Now        func() time.Time                     // time.Now when nil
	Leader     func() time.Time                     // the time by which shards expire; Now when nil
	After      func(time.Duration) <-chan time.Time // time.After when nil
}

// Service runs the status checks and the repairs of one node. A shard is queued on its first owner alone, so no two
// nodes drive the repair of one shard. It has many methods because it answers all that entropy.Control asks.
type Service struct {
	cluster    copies.Cluster
	local      Local
	cfg        atomic.Pointer[entropy.Config]
	limit      *pace.Limit
	report     *entropy.Report
	queue      *queue
	repairs    repair.Deps
	checker    *check.Checker
	dispatcher *dispatcher
	scrubber   *scrubber
	cancel     context.CancelFunc // nil before Open, and after Close
	loops      sync.WaitGroup
	teller     teller
}

// New returns a service that Open starts. It opens the queue of repairs. cfg must be valid and enabled.
func New(cfg entropy.Config, deps Deps) (*Service, error) {
	if deps.Reconciler == nil {
		deps.Reconciler = reconcile.Rateless{Dir: deps.Dir}
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.After == nil {
		deps.After = time.After
	}
	report := &entropy.Report{Log: deps.Log.With(zap.String("service", "anti-entropy"))}
	q, damaged, err := openQueue(deps.Dir)
	if err != nil {
		return nil, err
	}
	paused, err := q.paused()
	if err != nil {
		return nil, errors.Join(err, q.close())
	}
	s := &Service{
		cluster: copies.Cluster{
			Meta: deps.Meta, Local: deps.Local, Transport: deps.Transport, Now: deps.Now, Leader: deps.Leader,
		},
		local: deps.Local, limit: deps.Limit, report: report, queue: q,
	}
	s.teller = teller{cluster: s.cluster, report: report}
	s.cfg.Store(&cfg)
	equality, refusals := copies.NewEquality(report), refusal.NewMemory(deps.Now)
	s.repairs = repair.Deps{
		Cluster: s.cluster, Equality: equality, Refusals: refusals, Reconciler: deps.Reconciler, Config: s.config,
		Limit: deps.Limit, Pace: deps.Pace, Report: report, After: deps.After, Suspect: s.Suspect,
	}
	s.dispatcher = newDispatcher(q, paused, s.repairs, results{s})
	s.checker = check.New(check.Deps{
		Cluster: s.cluster, Equality: equality, Refusals: refusals, Reconciler: deps.Reconciler,
		Repairs: s.dispatcher, Config: s.config, Report: report, After: deps.After,
	})
	s.scrubber = &scrubber{
		cluster: s.cluster, local: deps.Local, queue: q, config: s.config, report: report, after: deps.After,
		suspect: s.Suspect, wake: make(chan struct{}, 1), retry: make(map[uint64]time.Time),
	}
	if damaged != "" {
		report.Errors.Add(1)
		report.Log.Error("The repair queue was damaged and begins empty, not paused: all shards are checked, "+
			"and repairs that were asked for have to be asked for again", zap.String("damaged_file", damaged))
		s.Suspect(0)
	}
	return s, nil
}

// Open starts the loops.
func (s *Service) Open() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.loops.Go(func() { s.scrubber.run(ctx) })
	s.loops.Go(func() { s.checker.Run(ctx) })
	s.loops.Go(func() { s.dispatcher.run(ctx) })
}

// Close stops the loops and the running repairs, which stay queued, and waits for them.
func (s *Service) Close() error {
	if s.cancel != nil {
		s.cancel()
		s.teller.close()
		s.loops.Wait()
		s.cancel = nil
	}
	return s.queue.close()
}

// SetConfig takes over a changed section without a restart. Switching the
// service off stops checks and repairs; the queue is kept.
func (s *Service) SetConfig(cfg entropy.Config) {
	s.cfg.Store(&cfg)
	s.limit.Set(uint64(cfg.MaxRate))
	s.dispatcher.reconfigured()
	s.checker.Reconfigured()
	s.scrubber.wakeUp()
}

func (s *Service) config() entropy.Config { return *s.cfg.Load() }

// Statistics are those of the measurements ae and agreement.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	values := s.report.Values()
	values["queueDepth"] = int64(s.queue.len())
	tags = models.StatisticTags{}.Merge(tags)
	return []models.Statistic{
		{Name: "ae", Tags: tags, Values: values},
		{Name: "agreement", Tags: tags, Values: s.agreement()},
	}
}

// agreement are the values of the measurement agreement: what this node knows of the shards of which it is the first
// owner that can be reached. Added up over all nodes, they are those of the cluster.
func (s *Service) agreement() map[string]any {
	a, now := s.checker.Agreement(), s.cluster.Now()
	values := map[string]any{
		"shards": int64(a.Shards), "equal": int64(a.Equal), "unknown": int64(a.Unknown),
		"diff": int64(a.Found[entropy.Diff]), "missing": int64(a.Found[entropy.Missing]),
		"conflict":     int64(a.Found[entropy.Conflict]),
		"oldestSec":    int64(0),
		"checkedSec":   int64(now.Sub(a.CheckedAll).Seconds()),
		"corrupt":      int64(0),
		"failedQueued": s.queue.failed(), "paused": int64(0),
	}
	if !a.Oldest.IsZero() {
		values["oldestSec"] = int64(now.Sub(a.Oldest).Seconds())
	}
	if damaged, err := s.local.Damaged(); err == nil {
		live, self := s.cluster.Live(), s.cluster.Self()
		for id := range damaged {
			if sh, ok := live[id]; !ok || !sh.Owned(self) {
				delete(damaged, id)
			}
		}
		values["corrupt"] = int64(len(damaged))
	}
	if s.dispatcher.isPaused() {
		values["paused"] = int64(1)
	}
	return values
}

// CheckNow checks all shards and returns when that is done. Shards that could not be
// compared are logged and looked at again at the next check.
func (s *Service) CheckNow(ctx context.Context) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	return s.checker.Now(ctx)
}

// Suspect makes a check due at once that compares a shard anew, or all shards for 0: it lost writes.
func (s *Service) Suspect(id uint64) { s.checker.Suspect(id) }

// Back tells that a node answers after a silence. What it owns is checked, and failed repairs are tried again.
func (s *Service) Back(node uint64) {
	if err := s.dispatcher.ownerBack(node); err != nil {
		s.report.Errors.Add(1)
		s.report.Log.Error("A node is back, but its failed repairs cannot be brought forward: they wait for their "+
			"usual pause", zap.String("node", s.cluster.Addr(node)), zap.Error(err))
	}
	s.checker.Soon()
}

// CheckSoon makes a check due at once: this node's own copies could not be asked before.
func (s *Service) CheckSoon() { s.checker.Soon() }

// Lacks has a shard of which this node's copy lacks something, 0 for several, checked at once: here, and on the
// owners that come before this node and drive its repair.
func (s *Service) Lacks(id uint64) {
	s.Suspect(id)
	if s.config().Enabled {
		s.teller.tell(id)
	}
}
