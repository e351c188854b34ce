package handoff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
)

// WholeDatabase is the shard number of the queue for deletes that concern all
// of a node's shards of a database. It is sent before the queues of shards.
const WholeDatabase uint64 = 0

var (
	// ErrQueueFull means that max-size has no room for an entry.
	ErrQueueFull = errors.New("hinted handoff queue is full")
	// ErrClosed is the answer of a service that is not open.
	ErrClosed = errors.New("hinted handoff is closed")
)

// PermanentError is an entry that can never succeed: it is dropped, not sent again.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// Deps is what the service needs of its surroundings.
type Deps struct {
	// Due tells whether a node still is to get a shard's entries; those of a
	// removed node or a dropped shard are forgotten. known is false while there is no
	// metadata to tell it from: then nothing is sent, and nothing is forgotten.
	Due func(node, shard uint64) (due, known bool)
	// Database is the database of a shard, "" when it is not known; nil for never. It may be asked with locks held.
	Database func(shard uint64) string
	// Dropped is told of each shard that lost entries, WholeDatabase included.
	Dropped func(node, shard uint64)
	// Now is what time it is at the earliest and at the latest, when clocks disagree; time.Now when nil. An entry is
	// kept until it is older than max-age by all of them.
	Now func() (earliest, latest time.Time)
	Log *zap.Logger // nil for none
}

// Deliver sends entries of one shard to a node, in their order. It returns how many of them the
// node has, and why it lacks the next: a *PermanentError drops that one, any other error is tried again.
// behind are the deletes that wait behind the entries, in a queue from before writes had versions.
type Deliver func(ctx context.Context, node, shard uint64, entries, behind []Entry) (int, error)

// Service holds the queues of all nodes. It has a method for each thing that writes, deletes, statistics and the page
// ask of them.
type Service struct {
	cfg     Config
	deps    Deps
	deliver Deliver // since Open
	log     *zap.Logger
	disk    disk

	mu    sync.RWMutex
	nodes map[uint64]*node
	open  bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a service that Open starts.
func New(cfg Config, deps Deps) *Service {
	if deps.Now == nil {
		deps.Now = func() (_, _ time.Time) { now := time.Now(); return now, now }
	}
	if deps.Log == nil {
		deps.Log = zap.NewNop()
	}
	log := deps.Log.With(zap.String("service", "handoff"))
	return &Service{cfg: cfg, deps: deps, log: log, disk: realDisk, nodes: make(map[uint64]*node)}
}

// Open finds the queues on disk and starts to send them.
func (s *Service) Open(deliver Deliver) error {
	s.deliver = deliver
	if err := os.MkdirAll(s.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("[hinted-handoff] dir: %w", err)
	}
	nodes, err := numbered(s.cfg.Dir)
	if err != nil {
		return err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	var damaged []Waiting
	for _, id := range nodes {
		cut, err := s.addNode(id).load()
		if err != nil {
			return err
		}
		for _, shard := range cut {
			damaged = append(damaged, Waiting{id, shard})
		}
	}
	s.open = true
	for _, n := range s.nodes {
		s.start(n)
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for _, d := range damaged {
			s.deps.Dropped(d.Node, d.Shard)
		}
		s.purgeLoop()
	}()
	return nil
}

// numbered lists the folders of dir whose names are numbers.
func numbered(dir string) ([]uint64, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []uint64
	for _, n := range names {
		if id, err := strconv.ParseUint(n.Name(), 10, 64); err == nil && n.IsDir() {
			out = append(out, id)
		}
	}
	return out, nil
}

// Close stops sending; what is queued stays on disk.
func (s *Service) Close() error {
	s.mu.Lock()
	if !s.open {
		s.mu.Unlock()
		return nil
	}
	s.open = false
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	var errs []error
	for _, n := range s.all() {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}

// addNode adds the queues for a node. s.mu must be held.
func (s *Service) addNode(id uint64) *node {
	n := newNode(id, s)
	s.nodes[id] = n
	return n
}

// start starts to send the queues of a node. s.mu must be held.
func (s *Service) start(n *node) {
	s.wg.Add(1)
	go func() { defer s.wg.Done(); n.loop(s.ctx) }()
	notify(n.wake)
}

// all lists the nodes that have queues, or had some.
func (s *Service) all() []*node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.nodes))
}

// known returns a node's queues, nil when it never had any or the service is not open.
func (s *Service) known(id uint64) *node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.open {
		return nil
	}
	return s.nodes[id]
}

// node returns a node's queues, new ones when it had none.
func (s *Service) node(id uint64) (*node, error) {
	if n := s.known(id); n != nil {
		return n, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return nil, ErrClosed
	}
	n := s.nodes[id]
	if n == nil {
		n = s.addNode(id)
		s.start(n)
	}
	return n, nil
}

// Append queues entries for a shard of a node, as one, and returns when they are on disk. When they cannot be queued,
// it says so to Deps.Dropped, but for deletes: other nodes may keep the same delete.
func (s *Service) Append(nodeID, shard uint64, entries ...Entry) error {
	n, err := s.node(nodeID)
	if err != nil {
		return err
	}
	_, now := s.deps.Now()
	for i := range entries {
		entries[i].Time = now.UnixNano()
	}
	if err := n.append(shard, entries); err != nil {
		_, points := measure(entries)
		n.tally(shard, func(c *counts) {
			c.dropped.Add(int64(len(entries)))
			if errors.Is(err, ErrQueueFull) {
				c.blocked.Add(1)
			}
		})
		if shard == WholeDatabase {
			s.log.Warn("Cannot keep a delete for a data node that misses it", zap.Uint64("node_id", nodeID), zap.Error(err))
			return err
		}
		s.log.Warn("Dropped what a data node misses: anti-entropy has to repair it",
			zap.Uint64("node_id", nodeID), zap.Uint64("db_shard_id", shard), zap.Int("points", points), zap.Error(err))
		s.deps.Dropped(nodeID, shard)
		return err
	}
	notify(n.wake)
	return nil
}

// Pending tells whether entries for a shard of a node wait, or deletes for all of its shards.
func (s *Service) Pending(nodeID, shard uint64) bool {
	n := s.known(nodeID)
	return n != nil && n.queued(shard, WholeDatabase)
}

// Nodes lists the nodes for which entries of a shard, or deletes, wait.
func (s *Service) Nodes(shard uint64) []uint64 {
	var out []uint64
	for _, n := range s.all() {
		if s.Pending(n.id, shard) {
			out = append(out, n.id)
		}
	}
	return out
}

// Waiting is a queue with entries.
type Waiting struct{ Node, Shard uint64 }

// Waiting lists the queues of shards that have entries.
func (s *Service) Waiting() []Waiting {
	var out []Waiting
	for _, n := range s.all() {
		for _, sq := range n.all() {
			if sq.shard != WholeDatabase {
				out = append(out, Waiting{n.id, sq.shard})
			}
		}
	}
	return out
}

// Owe makes everything count as acknowledged to clients that waits for a node's copy of a shard.
func (s *Service) Owe(nodeID, shard uint64) {
	if n := s.known(nodeID); n != nil {
		n.owe(shard)
	}
}

// Owed lists the shards, by node, for which something acknowledged waits, with WholeDatabase where it is a delete.
// After a start all that waits counts as acknowledged.
func (s *Service) Owed() map[uint64][]uint64 {
	out := make(map[uint64][]uint64)
	for _, n := range s.all() {
		for _, sq := range n.all() {
			if sq.q.owes() {
				out[n.id] = append(out[n.id], sq.shard)
			}
		}
	}
	return out
}

// SetAside takes everything off the queues and keeps their files beside them: the folder is older than it was, and
// what is in it was delivered since or is lost.
func (s *Service) SetAside() error {
	var errs []error
	for _, n := range s.all() {
		for _, sq := range n.all() {
			errs = append(errs, n.setAside(sq))
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.open { // some queues may not have been there any more
		errs = append(errs, errors.New("hinted handoff is closed"))
	}
	return errors.Join(errs...)
}

// Forget removes all queues: this node has left its cluster.
func (s *Service) Forget() error {
	var errs []error
	for _, n := range s.all() {
		for _, sq := range n.all() {
			errs = append(errs, n.forget(sq, "this node left the cluster"))
		}
	}
	return errors.Join(errs...)
}

// Kept lists the queues with entries in a folder whose service is not open.
func Kept(dir string) (kept []Waiting, err error) {
	nodes, err := numbered(dir)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		path := filepath.Join(dir, strconv.FormatUint(node, 10))
		shards, err := numbered(path)
		if err != nil {
			return nil, err
		}
		for _, shard := range shards {
			segments, err := listSegments(filepath.Join(path, strconv.FormatUint(shard, 10)))
			if err != nil {
				return nil, err
			}
			if len(segments) > 0 {
				kept = append(kept, Waiting{node, shard})
			}
		}
	}
	return kept, nil
}

// Heard ends the pause after a failure: the node was heard of.
func (s *Service) Heard(nodeID uint64) {
	if n := s.known(nodeID); n != nil {
		notify(n.heard)
	}
}

// Back is Heard of a node that did not answer before: every queue is tried at once, also those that rest alone.
func (s *Service) Back(nodeID uint64) {
	n := s.known(nodeID)
	if n == nil {
		return
	}
	for _, sq := range n.all() {
		sq.q.rest.retry()
	}
	notify(n.back)
	notify(n.wake)
}

func (s *Service) purgeLoop() {
	t := time.NewTicker(time.Duration(s.cfg.PurgeInterval))
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
			s.Purge()
		}
	}
}

// Purge drops entries older than max-age, and queues of nodes and shards that are gone.
func (s *Service) Purge() {
	for _, n := range s.all() {
		n.forgetParts()
		for _, sq := range n.all() {
			if err := n.purge(sq); err != nil && !errors.Is(err, errNoMetadata) {
				n.setback(sq, own(err))
			}
		}
	}
}
