package copystate

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

const (
	exchangeEvery   = time.Second            // between two exchanges with a node
	owingEvery      = 250 * time.Millisecond // the same, with a node that this one owes something
	exchangeTimeout = time.Second
	freshFor        = 3 * time.Second  // how long an exchange counts
	awayFor         = 5 * time.Second  // after which what a node that is away keeps has to come from other copies
	markEvery       = 10 * time.Second // between two marks on disk
	saveEvery       = time.Second      // between two times that tables of others are stored
)

// Metadata is the cluster's state as this node knows it.
type Metadata interface {
	NodeID() uint64 // 0 before the node joined
	State() *cluster.State
	Changed() <-chan struct{}
}

// Deps is what the service needs of its node. Fields without a remark must be set.
type Deps struct {
	Path    string // of copies.db
	DataDir string // of the storage engine
	Meta    Metadata
	Peer    func(cluster.Node) (rpc.CopyStateClient, error)

	// Written is when each shard was last written to, as it was when the node started.
	Written map[uint64]time.Time
	Has     func(shard uint64) bool                           // whether this node has a copy, be it one that cannot be opened
	Damaged func(shard uint64) (reason string, readable bool) // reason is empty for a sound copy
	Owed    func() map[uint64][]uint64                        // shards by node: what this node keeps for others now
	GiveUp  func() error                                      // sets aside what this node keeps for others

	Process  func() uint64 // names this process among those of its node
	Identity func() string // of this node, as the cluster knows it
	Doubt    func()        // is told that another node does not take this one for what it says

	Heard func(node uint64)                                    // is told each time that a node answers after a silence
	Gone  func(node, process uint64)                           // is told that all processes of a node are gone but this one, 0 for all
	Found func(shard uint64)                                   // is told of a copy here that was found to lack something, 0 for several
	Clock func(node cluster.Node, ahead, margin time.Duration) // is told how far the clock of another node is ahead

	Floor func(node uint64) (clock, floor uint64) // what a node is told of the order of writes; nil for nothing
	// Told is told what another node says of it, and whether some of that node's copies lack something. It is not nil
	// when Floor is not.
	Told func(node, clock, floor uint64, lacks bool)

	Log *zap.Logger
	Now func() time.Time // the time that this node tells others; time.Now when nil
}

// Service keeps what a node knows of which copies are whole, and exchanges it with the other data nodes.
//
// Each other data node has a goroutine of its own, so that one that hangs does
// not hold up what the others are told. What copies lack for good is on disk
// before anything depends on it. Tables of other nodes are stored within a
// second; they matter only when several nodes fail together.
type Service struct {
	deps  Deps
	log   *zap.Logger
	store *store

	facts      atomic.Pointer[facts]  // what Unfit looks up
	owing      atomic.Pointer[table]  // own, for Owes
	freshUntil atomic.Int64           // nanoseconds since base, by the monotonic clock
	unsure     atomic.Pointer[string] // why this node cannot know; nil when it can
	ready      atomic.Bool            // the others were asked once since the start
	base       time.Time

	saving sync.Mutex // held while records are changed and stored; taken before mu

	mu         sync.Mutex
	self       self
	loadedMark uint64          // as it was on disk when the node started
	firstMark  uint64          // from which the marks of this process grow with time
	starts     map[uint64]bool // those of this process
	wentBack   bool            // the folders of this node are older than they were
	records    map[uint64]record
	lacking    shardSet // those of records that lack something
	expecting  shardSet // those of lacking for which writes wait as well: these come first
	arrived    shardSet // those of lacking for which none wait any more: they can be repaired now
	gen        uint64
	own        table
	tables     map[uint64]table   // of other holders, the newest known
	voided     map[uint64]version // by holder that stays away: a table of which this node counts nothing
	lost       map[uint64]shardSet
	marks      map[uint64]uint64 // of other nodes, the greatest known
	processes  map[uint64]uint64 // of other nodes, the newest known
	dirty      map[uint64]bool   // holders whose tables are not stored
	dirtyMarks map[uint64]bool
	peers      map[uint64]*peer
	changed    chan struct{} // closed and replaced when an exchange ended

	cancel context.CancelFunc
	wg     sync.WaitGroup
	stats  struct{ exchanges, failed, announced atomic.Int64 }
}

// Open reads copies.db, finds out whether the folders are those of the last start, and begins to talk to the others.
// The engine's store must be open.
func Open(deps Deps) (*Service, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	db, st, err := openStore(deps.Path)
	if err != nil {
		return nil, err
	}
	s := &Service{
		deps: deps, log: deps.Log.With(zap.String("service", "copystate")), store: db, base: time.Now(),
		self: st.self, records: st.shards, tables: st.tables, lost: st.lost, marks: st.marks,
		voided: make(map[uint64]version), starts: make(map[uint64]bool), processes: make(map[uint64]uint64), dirty: make(map[uint64]bool), dirtyMarks: make(map[uint64]bool),
		peers: make(map[uint64]*peer), changed: make(chan struct{}), gen: uint64(time.Now().UnixNano()), lacking: make(shardSet), arrived: make(shardSet),
	}
	for id, r := range s.records {
		s.gen = max(s.gen, r.Gen)
		s.setRecord(id, r)
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, db.close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.follow(ctx)
	s.wg.Add(1)
	go func() { defer s.wg.Done(); s.loop(ctx) }()
	return s, nil
}

// Close ends the exchanges.
func (s *Service) Close() error {
	s.cancel()
	s.wg.Wait()
	s.tick(true)
	s.self.Clean = true
	return errors.Join(s.store.save(change{self: &s.self}), s.store.close())
}

// start compares the names of the folders with those of the last start.
func (s *Service) start() error {
	name, err := readFolder(s.deps.DataDir)
	if err != nil {
		return err
	}
	s.loadedMark, s.firstMark = s.self.Mark, s.self.Mark+1
	crashed := !s.self.Clean
	s.self.Clean = false
	first := s.self.Folder == "" // of this program on this meta folder
	same := name != "" && name == s.self.Folder
	if !same {
		s.self.Folder = newFolder()
		if err := writeFolder(s.deps.DataDir, s.self.Folder); err != nil {
			return err
		}
	}
	s.self.Start = nextStart(s.self.Start)
	s.starts[s.self.Start] = true
	me := s.deps.Meta.NodeID()
	kept := s.owed()
	for node, shards := range s.tables[me].owed { // as it was when the node stopped
		for id := range shards {
			if node != me && !kept[node].has(id) {
				s.addLost(node, id)
			}
		}
	}
	s.own.owed, s.own.sequence = s.owed(), 1
	s.owing.Store(&table{owed: s.own.owed})
	if me != 0 {
		s.tables[me] = s.own
		s.dirty[me] = true
	}
	if err := s.store.save(change{self: &s.self, lost: s.lostChange()}); err != nil {
		return err
	}
	at := look{starting: true, newDisk: !first && !same, crashed: crashed && !first && same}
	if first && name == "" && s.deps.Meta.NodeID() != 0 {
		// What is on disk is believed, when there is something.
		at.adopt = slices.ContainsFunc(s.deps.Meta.State().Shards(), func(sh cluster.Shard) bool { return s.deps.Has(sh.ID) })
	}
	return s.review(at)
}

// nextStart is greater than all starts before it. Half of it is random: a node whose folders were rolled back counts
// its starts again from an older one, and the others must be able to tell the two apart.
func nextStart(last uint64) uint64 { return (last>>16+1)<<16 | uint64(rand.Uint32N(1<<16)) }

// loop follows the metadata and the time.
func (s *Service) loop(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	var seen *cluster.State
	for {
		changed := s.deps.Meta.Changed()
		if now := s.deps.Meta.State(); now != seen {
			s.follow(ctx)
			if err := s.review(look{}); err != nil {
				s.log.Error("Cannot store which shards are new", zap.Error(err))
			}
			seen = now
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
			s.tick(false)
		}
	}
}

// tick does what time asks for: marks, tables to store, and holders that stay away.
func (s *Service) tick(last bool) {
	s.takeOverRemoved()
	s.replaceAway()
	s.mu.Lock()
	arrived := s.arrived.sorted()
	clear(s.arrived)
	s.mu.Unlock()
	for _, id := range arrived {
		s.deps.Found(id)
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	c := change{tables: make(map[uint64]*table), marks: make(map[uint64]*uint64)}
	if m := uint64(time.Since(s.base) / markEvery); s.firstMark+m > s.self.Mark {
		next := s.self
		next.Mark = s.firstMark + m
		c.self = &next
		for id := range s.dirtyMarks {
			mark := s.marks[id]
			c.marks[id] = &mark
		}
		clear(s.dirtyMarks)
	}
	for id := range s.dirty {
		c.tables[id], c.marks[id] = nil, nil
		if t, ok := s.tables[id]; ok {
			c.tables[id] = &t
		}
		// With the table: a mark of the folder that a node had before would tell it that this one went back.
		if mark, ok := s.marks[id]; ok {
			c.marks[id] = &mark
		}
	}
	clear(s.dirty)
	s.mu.Unlock()
	if c.self == nil && len(c.tables) == 0 && !last {
		return
	}
	if err := s.store.save(c); err != nil {
		s.log.Error("Cannot store what nodes keep for each other", zap.Error(err))
		s.mu.Lock()
		for id := range c.tables {
			s.dirty[id] = true
		}
		s.mu.Unlock()
		return
	}
	if c.self != nil {
		s.mu.Lock()
		s.self.Mark = c.self.Mark
		s.mu.Unlock()
	}
}

// Mark makes the others remember this moment: after it something is on this node's disk that an older copy of its
// folders lacks.
func (s *Service) Mark() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	next := s.self
	next.Mark++
	s.mu.Unlock()
	if err := s.store.save(change{self: &next}); err != nil {
		return err
	}
	s.mu.Lock()
	s.self.Mark = next.Mark
	s.firstMark++ // the marks of time go on from here
	s.mu.Unlock()
	return nil
}

// Marked is this node's mark as it is on its disk.
func (s *Service) Marked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self.Mark
}

// HeardMark is the greatest mark that this node has heard of another one.
func (s *Service) HeardMark(node uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[node]
}

// Ready reports whether the others were asked since the start: until then this node sends nothing that it kept.
func (s *Service) Ready() bool { return s.ready.Load() }

// await waits for exchanges to end until ok, which is called with mu held, or until ctx ends.
func (s *Service) await(ctx context.Context, ok func() bool) bool {
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// ask exchanges with all nodes now.
func (s *Service) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout+200*time.Millisecond)
	defer cancel()
	s.mu.Lock()
	due := make(map[*peer]uint64, len(s.peers))
	for _, p := range s.peers {
		due[p] = p.begun + 1
		notify(p.kick)
	}
	s.mu.Unlock()
	if s.await(ctx, func() bool {
		for p, n := range due {
			if p.ended < n && s.peers[p.node.ID] == p {
				return false
			}
		}
		return true
	}) {
		return
	}
	why := "its node waits until the other data nodes have told what they keep for it, for some seconds"
	s.unsure.Store(&why)
}

// Statistics are those of the measurement copies.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	s.mu.Lock()
	lacking, owing := len(s.lacking), 0
	for _, shards := range s.own.owed {
		owing += len(shards)
	}
	s.mu.Unlock()
	return []models.Statistic{{
		Name: "copies", Tags: models.StatisticTags{}.Merge(tags),
		Values: map[string]any{
			"lacking": int64(lacking), "notWhole": int64(len(s.facts.Load().shards)), "owed": int64(owing),
			"exchanges": s.stats.exchanges.Load(), "exchangesFailed": s.stats.failed.Load(), "announcements": s.stats.announced.Load(),
		},
	}}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
