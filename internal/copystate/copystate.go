package copystate

import (
	"context"
	"errors"
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
	freshFor        = 3 * time.Second  // how long an exchange counts at most
	awayFor         = 5 * time.Second  // a node away for longer: what it keeps for others is repaired from other copies
	markEvery       = 10 * time.Second // between two marks on disk
	saveEvery       = time.Second      // between two times that tables of others are stored

	// A clock that hears of a greater one stays behind it by as long as the fastest message took. After each contact,
	// some messages without a pause bring that from milliseconds to less.
	quickExchanges = 8
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
	Wake    func(cluster.Node) // is told that a node was heard, which may be back; may be nil

	Engine Engine
	Hints  Hints
	Place  Place
	Order  Order
	Events Events

	// FreeRAMLasts returns for how long the free RAM of this node lasts at least, whatever it does meanwhile. It is nil
	// when that is not known.
	FreeRAMLasts func() time.Duration

	Log *zap.Logger
	Now func() time.Time // the time that this node tells others; time.Now when nil
}

// Engine says what this node's engine has.
type Engine struct {
	Written map[uint64]time.Time                              // when each shard was last written to before the start
	Has     func(shard uint64) bool                           // a copy, be it one that cannot be opened
	Damaged func(shard uint64) (reason string, readable bool) // reason is empty for a sound copy
}

// Hints is what this node keeps for others.
type Hints struct {
	Owed   func() map[uint64][]uint64 // shards by node
	GiveUp func() error               // sets it aside, or returns ErrNotOpen
}

// ErrNotOpen is for hinted handoff that is not open yet. Nothing is sent out of it before the node is ready.
var ErrNotOpen = errors.New("hinted handoff is not open yet")

// Place says who this node is.
type Place struct {
	Process  func() uint64 // names this process among those of its node
	Identity func() string // of this node, as the cluster knows it
	Check    func()        // is called when another node refuses this one: its place may belong to another node now
}

// Said is what a node says of the order of writes.
type Said struct {
	Node, Process uint64 // who says it
	Clock         uint64
	Floor         uint64 // none of its writes with a smaller version will reach this node any more
	UnderWay      uint64 // none of this process with a smaller version is on its way to any node
	Lacks         uint64 // 0, or as Lacking says of its copies
	// Starting is set until the other node has told this one what it keeps for it, or has lost.
	Starting bool
}

// Order is what nodes tell each other of the order of writes. Its fields are nil for nothing.
type Order struct {
	Says func(to uint64) (clock, floor, underWay uint64) // what this node says to another one, as in Said
	Told func(Said)                                      // is told what another node says
	// Timeout is how long a write waits for the answer of a node before it goes to hinted handoff. What a node heard of
	// others counts no longer than this, and no longer than freshFor: it may have hung since. 0 means freshFor.
	Timeout time.Duration
	// Began is a version that this node had reached when its folders were written last; 0 for not known.
	Began uint64
	Now   func() uint64 // the version of now
}

// Events are told to the other parts of this node.
type Events struct {
	Heard func(node uint64)          // a node answers after a silence
	Gone  func(node, process uint64) // all processes of node are gone except process; 0: all are gone
	Found func(shard uint64)         // a copy here was found to lack something, 0 for several
	Ready func()                     // the copies of this node take part in repairs from now on: see Service.Ready
	// Clock is told how far the clock of another node is ahead. It may be nil.
	Clock func(node cluster.Node, ahead, margin time.Duration)
}

// Service keeps what a node knows of which copies are whole, and exchanges it with the other data nodes. It is made of
// layers, of which none knows those above it:
//
//   - knowledge is all of it in memory, under one lock: folders, records, holders and own.
//   - ledger keeps copies.db in step with it.
//   - exchanges talk with the other nodes.
//   - Service itself answers who wants to read a copy (Unfit) or to write (Admit), and follows the metadata and time.
type Service struct {
	*exchanges
	cancel context.CancelFunc
}

// Open reads copies.db, finds out whether the folders are those of the last start, and begins to talk to the others.
// The engine's store must be open.
func Open(deps Deps) (*Service, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	l, err := openLedger(deps, deps.Log.With(zap.String("service", "copystate")))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{exchanges: newExchanges(l, deps), cancel: cancel}
	s.follow(ctx)
	s.wg.Add(1)
	go func() { defer s.wg.Done(); s.loop(ctx) }()
	return s, nil
}

// Sign is the last answer of another node to an exchange.
type Sign struct {
	At      time.Time     // when it was asked; zero for never
	Process uint64        // that answered
	Memory  time.Duration // for how long its free RAM lasted then at least, whatever it did meanwhile
}

// Heard returns the last sign of life of another node.
func (s *Service) Heard(node uint64) Sign {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[node]; p != nil {
		return p.sign
	}
	return Sign{}
}

// Close ends the exchanges.
func (s *Service) Close() error {
	s.cancel()
	s.wg.Wait()
	s.tick()
	return s.close()
}

// loop follows the metadata and the time.
func (s *Service) loop(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	var seen *cluster.State
	for {
		changed := s.meta.Changed()
		if now := s.meta.State(); now != seen {
			s.follow(ctx)
			if err := s.review(look{}); err != nil {
				s.log.Error("Cannot write copies.db: which shards this node got, and what its copies of them lack, "+
					"is in memory only. After a restart, a copy that lacks older writes may count as whole",
					zap.Error(err))
			}
			seen = now
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
			s.keepGoingBack()
			s.tick()
		}
	}
}

// tick does what time asks for: holders that were removed or stay away, copies of which Events.Found is to be told
// again, and what is to be stored.
func (s *Service) tick() {
	s.takeOverRemoved()
	s.replaceAway()
	if s.half.Load() {
		s.heardHalf()
	}
	s.mu.Lock()
	toTell := s.records.takeToTell()
	s.mu.Unlock()
	for _, id := range toTell {
		s.found(id)
	}
	s.saveUnsaved()
	s.saveDue()
}

// Away are the other data nodes that do not answer this one, by TCP address, with how long that is so. Nodes that
// answer are in it with 0.
func (s *Service) Away() map[string]time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]time.Duration, len(s.peers))
	for _, p := range s.peers {
		out[p.node.TCPAddr] = 0
		if p.away() {
			out[p.node.TCPAddr] = max(time.Since(p.since), 1)
		}
	}
	return out
}

// Statistics are those of the measurement copies, and node for each other data node.
func (s *Service) Statistics(tags map[string]string) []models.Statistic {
	lacking, notWhole, owed := s.count()
	out := []models.Statistic{{
		Name: "copies", Tags: models.StatisticTags{}.Merge(tags),
		Values: map[string]any{
			"lacking": int64(lacking), "notWhole": int64(notWhole), "owed": int64(owed),
			"exchanges": s.stats.exchanges.Load(), "exchangesFailed": s.stats.failed.Load(),
			"announcements": s.stats.announced.Load(),
		},
	}}
	for addr, away := range s.Away() {
		isAway := int64(0)
		if away > 0 {
			isAway = 1
		}
		out = append(out, models.Statistic{
			Name: "node", Tags: models.StatisticTags{"node": addr}.Merge(tags),
			Values: map[string]any{"away": isAway, "awaySec": int64(away.Seconds())},
		})
	}
	return out
}
