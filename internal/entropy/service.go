package entropy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/toml"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/reconcile"
)

// ErrOvertaken is why points are not applied: a delete came after they were asked for.
var ErrOvertaken = errors.New("a delete came meanwhile")

// ErrNoFiles is why a missing shard is not made out of files: a write began it meanwhile, or the files of the source are damaged.
var ErrNoFiles = errors.New("no copy of files")

// ErrSourceNotWhole is why a missing shard is not made out of a source's files: that copy lacks something itself.
var ErrSourceNotWhole = errors.New("the source's copy is not whole")

// ErrUnknownShard is for an ID that the metadata does not have, or no more.
var ErrUnknownShard = errors.New("unknown shard")

// ErrDisabled is the answer of every call while the service is off.
var ErrDisabled = errors.New("anti-entropy is off: set [anti-entropy] enabled = true in influxdb.conf")

// Deps is what the service needs from its node. Fields without a remark must be set.
type Deps struct {
	Dir       string // of the service's own files
	Meta      Metadata
	Local     Replica
	Transport Transport
	Pace      *pace.Pace // that of this node's background work; nil for none

	Reconciler reconcile.Reconciler                 // reconcile.Rateless when nil
	Now        func() time.Time                     // time.Now when nil
	After      func(time.Duration) <-chan time.Time // time.After when nil
}

// Service runs the status checks and the repairs of one node.
//
// Two loops do the work. The checker compares every shard that this node is
// the first reachable owner of and keeps what it finds, so that Status answers
// at once. The dispatcher takes due shards from the durable queue: at most max-fetch at
// a time, of which max-sync compare and patch while the others copy the files of missing shards. A shard is queued on its first owner alone, so no two
// nodes drive the repair of one shard.
type Service struct {
	deps    Deps
	log     *zap.Logger
	limiter *rate.Limiter
	queue   *queue
	stats   statistics

	reload    chan struct{} // tells the checker of a new interval
	wake      chan struct{} // tells the dispatcher of a new or finished shard
	scrubbing chan struct{} // tells the scrubber of a new interval
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	checking  sync.Mutex // held by a check

	mu      sync.Mutex
	cfg     Config
	results map[uint64]ShardStatus
	checks  map[uint64]*lastCheck
	// pendingWhole are owners that could not be told that their copy was found equal, by shard, with the Beginning that
	// the copy had then, by owner.
	pendingWhole map[uint64]map[uint64]copystate.Beginning

	refused  map[uint64]keptRefusals // by shard: what its last repair could not write
	running  map[uint64]*job
	freed    chan struct{} // closed and replaced when a job may sync
	suspects bool          // a check is due at once
	paused   bool          // no repair is taken
	closed   bool          // no goroutine starts any more
	history  history
}

// lastCheck is what the checker remembers of a shard.
type lastCheck struct {
	owners []uint64  // the reachable ones
	lacks  []uint64  // what the owners' copies are known to lack, by Lack.Gen; nil when none lacks anything
	states []Version // at the last conclusive check, for owners; nil if there was none
	// A window of a shard that is being written counts when it differs in the same way
	// at lookAgain, up to the same time.
	until     int64
	lookAgain time.Time    // zero when there is no mismatch to look at again
	seen      *differences // with lookAgain: what was found
}

// statistics are the values of the measurement ae.
type statistics struct {
	bytesRx, bytesTx, errors, jobs, jobsActive, checks, pointsRepaired atomic.Int64

	conflicts         atomic.Int64 // points of which owners had different values, decided
	repairsInConflict atomic.Int64 // repairs that ended with points that an owner refuses
}

// New returns a service that Open starts. cfg must be valid and enabled.
func New(cfg Config, deps Deps) *Service {
	if deps.Reconciler == nil {
		deps.Reconciler = reconcile.Rateless{Dir: deps.Dir}
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.After == nil {
		deps.After = time.After
	}
	s := &Service{
		deps: deps, cfg: cfg, log: zap.NewNop(), limiter: rate.NewLimiter(rateOf(cfg.MaxRate)),
		reload: make(chan struct{}, 1), wake: make(chan struct{}, 1), scrubbing: make(chan struct{}, 1),
		results: make(map[uint64]ShardStatus), checks: make(map[uint64]*lastCheck), pendingWhole: make(map[uint64]map[uint64]copystate.Beginning), refused: make(map[uint64]keptRefusals), running: make(map[uint64]*job), freed: make(chan struct{}),
	}
	if l, ok := deps.Local.(*Local); ok {
		l.throttle = s.Throttle
	}
	return s
}

// WithLogger sets the logger. It must be called before Open.
func (s *Service) WithLogger(log *zap.Logger) {
	s.log = log.With(zap.String("service", "anti-entropy"))
}

// Open reads the queue and starts the loops.
func (s *Service) Open() error {
	q, aside, err := openQueue(s.deps.Dir)
	if err != nil {
		return err
	}
	if aside != "" {
		s.stats.errors.Add(1)
		s.log.Error("The repair queue was damaged and begins empty, not paused: all shards are checked, and repairs that were asked for have to be asked for again",
			zap.String("damaged_file", aside))
		s.Suspect(0)
	}
	if s.paused, err = q.paused(); err != nil {
		return errors.Join(err, q.close())
	}
	s.queue = q
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Add(3)
	go func() { defer s.wg.Done(); s.scrubLoop(ctx) }()
	go func() { defer s.wg.Done(); s.checkLoop(ctx) }()
	go func() { defer s.wg.Done(); s.dispatchLoop(ctx) }()
	return nil
}

// Close stops the loops and the running repairs, which stay queued, and waits for them.
func (s *Service) Close() error {
	if s.cancel == nil {
		return nil
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	s.cancel = nil
	return s.queue.close()
}

// SetConfig takes over a changed section without a restart. Switching the
// service off stops checks and repairs; the queue is kept.
func (s *Service) SetConfig(cfg Config) {
	s.mu.Lock()
	s.cfg = cfg
	s.free()
	for _, c := range s.checks {
		c.states = nil // what is to be queued unasked may be other shards now
	}
	if !cfg.Enabled {
		for _, j := range s.running {
			j.cancel(ErrDisabled)
		}
	}
	s.mu.Unlock()
	limit, burst := rateOf(cfg.MaxRate)
	s.limiter.SetBurst(burst)
	s.limiter.SetLimit(limit)
	notify(s.reload)
	notify(s.wake)
	notify(s.scrubbing)
}

func (s *Service) config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// rateOf is a limit in bytes per second, with a burst of one second.
func rateOf(n toml.Size) (rate.Limit, int) {
	if n == 0 {
		return rate.Inf, 0
	}
	return rate.Limit(n), int(max(n, 1<<20))
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Statistics are those of the measurement ae.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	depth := 0
	if s.queue != nil {
		depth = s.queue.len()
	}
	return []models.Statistic{{
		Name: "ae",
		Tags: models.StatisticTags{}.Merge(tags),
		Values: map[string]interface{}{
			"bytesRx":           s.stats.bytesRx.Load(),
			"bytesTx":           s.stats.bytesTx.Load(),
			"errors":            s.stats.errors.Load(),
			"jobs":              s.stats.jobs.Load(),
			"jobsActive":        s.stats.jobsActive.Load(),
			"checks":            s.stats.checks.Load(),
			"pointsRepaired":    s.stats.pointsRepaired.Load(),
			"conflicts":         s.stats.conflicts.Load(),
			"repairsInConflict": s.stats.repairsInConflict.Load(),
			"queueDepth":        int64(depth),
		},
	}}
}

var _ Control = (*Service)(nil)

// Status tells the kept results of checks and the queue, without shards that
// expired or were dropped meanwhile. It asks no other node.
func (s *Service) Status(context.Context) (NodeStatus, error) {
	live := s.live()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cfg.Enabled {
		return NodeStatus{}, nil
	}
	out := NodeStatus{Enabled: true}
	for id, r := range s.results {
		if _, ok := live[id]; ok {
			out.Shards = append(out.Shards, r)
		}
	}
	for _, it := range s.queue.list() {
		if _, ok := live[it.ID]; ok {
			out.Queued = append(out.Queued, it.ID)
		}
	}
	for id := range s.running {
		if _, ok := live[id]; ok && s.queue.has(id) {
			out.Processing = append(out.Processing, id)
		}
	}
	var err error
	if out.Shards, err = s.damagedHere(live, out.Shards); err != nil {
		return NodeStatus{}, err
	}
	slices.SortFunc(out.Shards, func(a, b ShardStatus) int { return compareIDs(a.ID, b.ID) })
	slices.Sort(out.Queued)
	slices.Sort(out.Processing)
	return out, nil
}

func compareIDs(a, b uint64) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

// live are the shards of the metadata that have not expired.
func (s *Service) live() map[uint64]cluster.Shard {
	return liveShards(s.deps.Meta.State(), s.deps.Now())
}

func liveShards(st *cluster.State, now time.Time) map[uint64]cluster.Shard {
	out := make(map[uint64]cluster.Shard)
	if st == nil || st.Data == nil {
		return out
	}
	for _, sh := range st.Shards() {
		if sh.Expires == 0 || sh.Expires > now.UnixNano() {
			out[sh.ID] = sh
		}
	}
	return out
}

// Repair queues a shard, of which this node must be the first owner.
func (s *Service) Repair(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return ErrDisabled
	}
	sh, ok := s.live()[id]
	if !ok {
		return fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	if self := s.deps.Meta.NodeID(); len(sh.Owners) == 0 || sh.Owners[0] != self {
		return fmt.Errorf("shard %d is repaired by its first owner, which node %d is not", id, self)
	}
	if err := s.hopeless(sh); err != nil {
		return err
	}
	// In this order: an attempt that has failed by the time of hurry would be made again at once.
	if err := s.queue.put(id, s.deps.Now()); err != nil {
		return err
	}
	if err := s.queue.hurry(id, s.deps.Now()); err != nil {
		return err
	}
	notify(s.wake)
	return nil
}

// Suspect makes the next check of a shard, or of all shards for 0, compare it
// again, at once: it lost writes.
func (s *Service) Suspect(id uint64) {
	s.mu.Lock()
	for shard, c := range s.checks {
		if id == 0 || id == shard {
			c.states = nil
		}
	}
	for shard := range s.refused { // what is refused may be accepted now
		if id == 0 || id == shard {
			delete(s.refused, shard)
		}
	}
	s.suspects = true
	s.mu.Unlock()
	notify(s.reload)
}

// CheckSoon makes the next check due at once: an owner that could not be reached may be back.
func (s *Service) CheckSoon() {
	s.mu.Lock()
	s.suspects = true
	s.mu.Unlock()
	notify(s.reload)
}

// tellTimeout bounds how long another owner is told that a copy lacks something.
const tellTimeout = 5 * time.Second

// Lacks has a shard of which this node's copy lacks something, 0 for several, checked at once: here, and on the
// owners that come before this node and drive its repair.
func (s *Service) Lacks(id uint64) {
	s.Suspect(id)
	st, self := s.deps.Meta.State(), s.deps.Meta.NodeID()
	if !s.config().Enabled || st == nil || st.Data == nil {
		return
	}
	first := make(map[uint64]bool)
	for _, sh := range s.live() {
		if (id == 0 || sh.ID == id) && owns(sh, self) && sh.Owners[0] != self {
			first[sh.Owners[0]] = true
		}
	}
	for node := range first {
		n, ok := st.DataNode(node)
		if !ok {
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return
		}
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
			defer cancel()
			if err := s.deps.Transport.Control(n).Check(ctx, id); err != nil {
				s.log.Debug("Cannot tell the first owner that a copy lacks something: its next check finds out", zap.String("node", n.TCPAddr), zap.Error(err))
			}
		}()
	}
}

func (s *Service) enqueue(id uint64) error {
	if err := s.queue.put(id, s.deps.Now()); err != nil {
		return err
	}
	notify(s.wake)
	return nil
}

// CancelRepair takes a shard from the queue and stops a running repair, which
// keeps what it did. It does not wait for its end.
func (s *Service) CancelRepair(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return ErrDisabled
	}
	return s.drop(id, errCanceled)
}

var errCanceled = errors.New("repair was canceled")

func (s *Service) drop(id uint64, cause error) error {
	err := s.queue.remove(id)
	s.mu.Lock()
	if j := s.running[id]; j != nil {
		j.cancel(cause)
	}
	s.mu.Unlock()
	return err
}

// purge forgets shards that expired or were dropped. Without metadata nothing is known to be gone.
func (s *Service) purge() {
	if st := s.deps.Meta.State(); st == nil || st.Data == nil || st.Index == 0 {
		return
	}
	live := s.live()
	for _, it := range s.queue.list() {
		if _, ok := live[it.ID]; ok {
			continue
		}
		if err := s.drop(it.ID, ErrUnknownShard); err != nil {
			s.fail("Cannot take a dropped shard from the queue", it.ID, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.results {
		if _, ok := live[id]; !ok {
			delete(s.results, id)
		}
	}
	for id := range s.pendingWhole {
		if _, ok := live[id]; !ok {
			delete(s.pendingWhole, id)
		}
	}
	for id := range s.checks {
		if _, ok := live[id]; !ok {
			delete(s.checks, id)
		}
	}
	for id := range s.refused {
		if _, ok := live[id]; !ok {
			delete(s.refused, id)
		}
	}
}

func (s *Service) fail(msg string, id uint64, err error) {
	s.stats.errors.Add(1)
	s.log.Warn(msg, zap.Uint64("db_shard_id", id), zap.Error(err))
}

// replica returns an owner's copies: this node's own, or over the network.
func (s *Service) replica(st *cluster.State, owner uint64) (Replica, error) {
	if owner == s.deps.Meta.NodeID() {
		return s.deps.Local, nil
	}
	node, ok := st.DataNode(owner)
	if !ok {
		return nil, fmt.Errorf("owner %d is not a data node of the cluster", owner)
	}
	return s.deps.Transport.Replica(node), nil
}

// addr names an owner in messages: its TCP address.
func addr(st *cluster.State, owner uint64) string {
	if n, ok := st.DataNode(owner); ok {
		return n.TCPAddr
	}
	return fmt.Sprintf("node %d", owner)
}
