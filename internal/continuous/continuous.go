// Package continuous runs the continuous queries of the cluster on one of its data nodes, by the engine's own rules of
// when each of them is due. The cluster's metadata says until when they have run, and is a minute behind at most. When
// the node dies, the next one goes on from there. It may compute a window again, which then has the same points, and
// perhaps more of them.
package continuous

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/monitor/diagnostics"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/continuous_querier"
	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/distquery"
)

const (
	leaseName = "continuous_querier"
	noteEvery = time.Minute
	// patience is for how long a query that runs may go on when the node stops. It may wait minutes for whole copies.
	patience = 3 * time.Second
	// resumeWithin is how long ago a query may have run for another node to go on from there: one query covers it all.
	resumeWithin = 24 * time.Hour
)

// Meta is the metadata of the cluster.
type Meta interface {
	AcquireLease(name string) (*emeta.Lease, error)
	Databases() []emeta.DatabaseInfo
	State() *cluster.State
	Refresh() error
	Execute(op cluster.Op) error
	// Now is the time by which the cluster decides; known is false while it is this node's own.
	Now() (now time.Time, known bool)
}

// Service runs continuous queries while this node has the lease.
type Service struct {
	cfg      continuous_querier.Config
	meta     Meta
	executor *query.Executor
	monitor  continuous_querier.Monitor
	log      *zap.Logger

	engine *continuous_querier.Service // knows when each query is due; nil without the lease
	ran    map[cluster.ContinuousQuery]time.Time
	rests  map[cluster.ContinuousQuery]rest
	noted  time.Time // when ran was last recorded

	ok, failed atomic.Int64
	patience   time.Duration
	stop, done chan struct{}
}

// New returns a service that Open starts. The monitor gets the statistics of each query.
func New(cfg continuous_querier.Config, meta Meta, executor *query.Executor, mon continuous_querier.Monitor) *Service {
	return &Service{
		cfg: cfg, meta: meta, executor: executor, monitor: mon, log: zap.NewNop(), patience: patience,
	}
}

// WithLogger sets the logger; call it before Open.
func (s *Service) WithLogger(log *zap.Logger) {
	s.log = log.With(zap.String("service", "continuous_querier"))
}

// Open starts to look for queries that are due, every run-interval.
func (s *Service) Open() error {
	s.stop, s.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(s.done)
		t := time.NewTimer(time.Duration(s.cfg.RunInterval))
		defer t.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-t.C:
				s.run()
				t.Reset(time.Duration(s.cfg.RunInterval))
			}
		}
	}()
	return nil
}

// Close waits for a query that runs, and ends it when that takes long: who runs continuous queries next computes its
// windows. It ends all queries of the executor, so those of clients must have ended before.
func (s *Service) Close() error {
	close(s.stop)
	for wait := s.patience; ; wait = 100 * time.Millisecond { // the engine may begin another attempt
		select {
		case <-s.done:
			return nil
		case <-time.After(wait):
		}
		for _, q := range s.executor.TaskManager.Queries() {
			_ = s.executor.TaskManager.KillQuery(q.ID) // an error says that it has ended
		}
	}
}

// stopping reports whether Close was called.
func (s *Service) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// Statistics are the engine's.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	values := map[string]any{"queryOk": s.ok.Load(), "queryFail": s.failed.Load()}
	return []models.Statistic{{Name: "cq", Tags: tags, Values: values}}
}

// Diagnostics are the engine's: none.
func (s *Service) Diagnostics() (*diagnostics.Diagnostics, error) {
	return &diagnostics.Diagnostics{}, nil
}

// run executes the queries that are due, if this node has the lease.
func (s *Service) run() {
	queries := s.queries()
	if len(queries) == 0 {
		return
	}
	if _, err := s.meta.AcquireLease(leaseName); err != nil {
		s.engine = nil // whoever has it goes on from what was noted
		return
	}
	now, _ := s.meta.Now()
	if s.engine == nil {
		s.resume(queries, now)
	}
	for _, q := range queries {
		if !s.stopping() && s.execute(q, now) {
			s.ran[q.name()] = now
		}
	}
	s.note(now)
}

// continuousQuery is a query with its database.
type continuousQuery struct {
	db *emeta.DatabaseInfo
	cq *emeta.ContinuousQueryInfo
}

func (q continuousQuery) name() cluster.ContinuousQuery {
	return cluster.ContinuousQuery{Database: q.db.Name, Name: q.cq.Name}
}

func (s *Service) queries() (out []continuousQuery) {
	dbs := s.meta.Databases()
	for i := range dbs {
		for j := range dbs[i].ContinuousQueries {
			out = append(out, continuousQuery{&dbs[i], &dbs[i].ContinuousQueries[j]})
		}
	}
	return out
}

// resume begins as the engine does, and makes it know until when queries ran elsewhere: it computes their last windows
// again, and all that came since when it runs the next time.
func (s *Service) resume(queries []continuousQuery, now time.Time) {
	s.engine = continuous_querier.NewService(s.cfg)
	s.engine.QueryExecutor, s.engine.Logger = s.executor, s.log
	if s.monitor != nil {
		s.engine.Monitor = s.monitor
	}
	s.ran, s.noted = make(map[cluster.ContinuousQuery]time.Time), time.Time{}
	if err := s.meta.Refresh(); err != nil {
		s.log.Warn("No meta node answers: continuous queries go on from this node's copy, and may compute windows "+
			"again", zap.Error(err))
	}
	until := make(map[cluster.ContinuousQuery]time.Time)
	for _, r := range s.meta.State().ContinuousRuns {
		until[r.ContinuousQuery] = r.Until
	}
	for _, q := range queries {
		// A time that is yet to come was noted by a leader whose clock was wrong.
		if at, ok := until[q.name()]; ok && at.Before(now) && now.Sub(at) < resumeWithin && !s.stopping() {
			s.execute(q, at)
		}
	}
}

// rest is for how long a query does not run.
type rest struct {
	query string // its text
	until time.Time
	pause time.Duration // that it has now, and twice as long the next time
}

// How long a query rests that may be why a data node ended. Each run may end another one.
const (
	firstRest = 10 * time.Minute
	mostRest  = 24 * time.Hour
)

// execute runs a query if it is due at now, and reports whether it did.
func (s *Service) execute(q continuousQuery, now time.Time) bool {
	r, rested := s.rests[q.name()]
	if rested = rested && r.query == q.cq.Query; rested && now.Before(r.until) {
		return false
	}
	ran, err := s.engine.ExecuteContinuousQuery(q.db, q.cq, now)
	switch {
	case errors.Is(err, distquery.ErrOwnerEnded):
		if !rested {
			r = rest{query: q.cq.Query}
		}
		r.pause = min(max(firstRest, 2*r.pause), mostRest)
		r.until = now.Add(r.pause)
		if s.rests == nil {
			s.rests = make(map[cluster.ContinuousQuery]rest)
		}
		s.rests[q.name()] = r
		s.log.Warn("A continuous query rests: a data node may have ended because of it. Change the query, or give the "+
			"data nodes more memory", zap.String("database", q.db.Name), zap.String("name", q.cq.Name),
			zap.String("query", q.cq.Query), zap.Duration("for", r.pause), zap.Error(err))
	case err != nil:
		s.log.Warn("A continuous query failed", zap.String("database", q.db.Name), zap.String("name", q.cq.Name),
			zap.String("query", q.cq.Query), zap.Error(err))
	case ran:
		delete(s.rests, q.name())
	}
	if err != nil {
		s.failed.Add(1)
	} else if ran {
		s.ok.Add(1)
	}
	return ran && err == nil
}

// note records once a minute until when queries have run.
func (s *Service) note(now time.Time) {
	if len(s.ran) == 0 || now.Sub(s.noted).Abs() < noteEvery {
		return
	}
	s.noted = now
	var op cluster.NoteContinuousQueries
	for q, until := range s.ran {
		op.Runs = append(op.Runs, cluster.ContinuousRun{ContinuousQuery: q, Until: until})
	}
	if err := s.meta.Execute(op); err != nil {
		s.log.Warn("Cannot record until when continuous queries have run: another node would begin earlier",
			zap.Error(err))
		return
	}
	clear(s.ran)
}
