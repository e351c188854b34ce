package copystate

import (
	"errors"
	"sync"

	"go.uber.org/zap"
)

// ledger is knowledge that survives a restart: it keeps copies.db in step with it. What copies lack for good is on
// disk before anything depends on it. Tables of other nodes are stored within a second; they matter only when several
// nodes fail together. It has a method for each thing that is noted, and for each that is read again.
type ledger struct {
	*knowledge
	dataDir string
	engine  Engine
	found   func(shard uint64) // Events.Found
	version func() uint64      // Order.Now; mu must not be held: the clock may wait for a disk
	log     *zap.Logger

	store   *store
	saving  sync.Mutex // held while records are changed and stored; taken before mu. It guards what follows.
	had     shardSet   // shards that this node owns, or owned and has a copy of
	unsaved shardSet   // shards of which it is not on disk that their copies lack something
}

// openLedger reads copies.db and finds out whether the folders are those of the last start.
func openLedger(deps Deps, log *zap.Logger) (*ledger, error) {
	db, st, err := openStore(deps.Path)
	if err != nil {
		return nil, err
	}
	l := &ledger{
		knowledge: newKnowledge(deps.Meta, deps.Hints.Owed, st), store: db,
		dataDir: deps.DataDir, engine: deps.Engine, found: deps.Events.Found, version: deps.Order.Now, log: log,
		unsaved: make(shardSet),
	}
	if l.version == nil {
		l.version = func() uint64 { return 0 }
	}
	if err := l.begin(deps.Order.Began); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return l, nil
}

// begin compares the names of the folders with those of the last start. Reached is Order.Began.
func (l *ledger) begin(reached uint64) error {
	name, err := readFolder(l.dataDir)
	if err != nil {
		return err
	}
	at := l.folders.begin(name, reached)
	if l.folders.self.Folder != name {
		if err := writeFolder(l.dataDir, l.folders.self.Folder); err != nil {
			return err
		}
	}
	l.knowledge.begin()
	if err := l.store.save(change{self: &l.folders.self, lost: l.own.lostChange()}); err != nil {
		return err
	}
	at.adopt = at.adopt && l.meta.NodeID() != 0 && l.engine.hasAny(l.meta.State())
	return l.review(at)
}

// close stores that the node stopped by itself, and what it heard last.
func (l *ledger) close() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	l.folders.self.Clean = true
	next := l.folders.self
	c := change{
		self: &next, tables: make(map[uint64]*table), marks: make(map[uint64]*uint64), shards: l.unsavedRecords(),
	}
	l.holders.takeDirtyMarks(&c)
	l.holders.takeDirty(&c)
	l.mu.Unlock()
	return errors.Join(l.store.save(c), l.store.close())
}

// unsavedRecords are the records that are not on disk. mu must be held.
func (l *ledger) unsavedRecords() map[uint64]*record {
	out := make(map[uint64]*record)
	for id := range l.unsaved {
		if r, known := l.records.byShard[id]; known {
			out[id] = &r
		}
	}
	return out
}

// saveUnsaved stores the records that could not be stored when they changed.
func (l *ledger) saveUnsaved() {
	l.saving.Lock()
	defer l.saving.Unlock()
	if len(l.unsaved) == 0 {
		return
	}
	l.mu.Lock()
	c := change{shards: l.unsavedRecords()}
	l.mu.Unlock()
	if err := l.store.save(c); err != nil {
		return // it was logged when it failed for the first time
	}
	l.log.Info("copies.db is written again: it says which copies of this node lack writes or deletes",
		zap.Int("shards", len(l.unsaved)))
	clear(l.unsaved)
	l.found(0)
}

// saveDue stores what time asks for: marks, and tables of other nodes.
func (l *ledger) saveDue() {
	l.saving.Lock()
	defer l.saving.Unlock()
	c := change{tables: make(map[uint64]*table), marks: make(map[uint64]*uint64)}
	l.mu.Lock()
	if mark := l.folders.due(); mark > l.folders.self.Mark {
		next := l.folders.self
		next.Mark = mark
		c.self = &next
		l.holders.takeDirtyMarks(&c)
	}
	l.holders.takeDirty(&c)
	l.mu.Unlock()
	if c.self == nil && len(c.tables) == 0 {
		return
	}
	err := l.store.save(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.log.Error("Cannot write copies.db, and goes on trying: the latest of what nodes keep for each other is in "+
			"memory only. After a restart, this node has to hear it again from nodes that answer", zap.Error(err))
		for id := range c.tables {
			l.holders.dirty[id] = true
		}
		for id := range c.marks {
			l.holders.dirtyMarks[id] = true
		}
		return
	}
	if c.self != nil {
		l.folders.self.Mark = c.self.Mark
	}
}

// Mark makes the others remember this moment: after it something is on this node's disk that an older copy of its
// folders lacks.
func (l *ledger) Mark() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	next := l.folders.self
	next.Mark++
	l.mu.Unlock()
	if err := l.store.save(change{self: &next}); err != nil {
		return err
	}
	l.mu.Lock()
	l.folders.self.Mark = next.Mark
	l.folders.firstMark++ // the marks of time go on from here
	l.mu.Unlock()
	return nil
}

// compare compares what another node remembers of this one with what this one remembers. It reports whether the
// folders of this node turn out to be older than they were.
func (l *ledger) compare(r remembered) (back bool) {
	l.mu.Lock()
	known := l.folders.knows(r)
	l.mu.Unlock()
	if known {
		return false
	}
	l.saving.Lock() // first: a mark that is stored meanwhile must not be stored over
	defer l.saving.Unlock()
	l.mu.Lock()
	back, next := l.folders.compare(r)
	l.mu.Unlock()
	// Before it is told: a start that others remember, and these folders do not, makes them look older than they were.
	if err := l.store.save(change{self: &next}); err != nil {
		l.log.Error("Cannot write copies.db, and goes on trying: which names and starts of its folders other nodes "+
			"remember. Until it is written, they may not learn what this node keeps for them. A restart loses nothing",
			zap.Error(err))
		return back
	}
	l.mu.Lock()
	l.folders.self = next
	l.folders.starts[next.Start] = true
	l.renewOwn()
	l.mu.Unlock()
	return back
}

// rename gives the folders of this node, which are older than they were, another name: it is not to be mistaken for the
// one that others remember. That its copies are stale is stored before. After a crash in between it finds out again.
func (l *ledger) rename() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	l.folders.rename()
	l.renewOwn()
	next := l.folders.self
	l.mu.Unlock()
	if err := l.store.save(change{self: &next}); err != nil {
		return err
	}
	return writeFolder(l.dataDir, next.Folder)
}

// noteGoingBack notes whether what the node keeps for others is to be set aside, because its folders are older than
// they were.
func (l *ledger) noteGoingBack(going bool) error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	next := l.folders.self
	l.mu.Unlock()
	next.GoingBack = going
	if err := l.store.save(change{self: &next}); err != nil {
		return err
	}
	l.mu.Lock()
	l.folders.self.GoingBack = going
	l.mu.Unlock()
	return nil
}

// heardHalf notes that half of the other nodes have answered: they would have said that the folders were rolled back.
func (l *ledger) heardHalf() {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	next := l.folders.self
	l.mu.Unlock()
	if next.Reached == 0 {
		return
	}
	next.Reached = 0
	if err := l.store.save(change{self: &next}); err != nil {
		l.log.Error("Cannot write copies.db, and goes on trying: that half of the other nodes have answered since "+
			"this start is in memory only. A restart loses no more than that: if the folders of this node then turn out "+
			"to be older than they were, it runs more deletes again than it has to", zap.Error(err))
		return
	}
	l.mu.Lock()
	l.folders.self.Reached = 0
	l.mu.Unlock()
}

// saveLost stores what was lost for other nodes. It logs an error, which only who must rely on the disk looks at.
func (l *ledger) saveLost() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	c := change{lost: l.own.lostChange()}
	l.mu.Unlock()
	err := l.store.save(c)
	if err != nil {
		l.log.Error("Cannot write copies.db: which copies on other nodes lack writes or deletes that nobody keeps is "+
			"in memory only. A restart forgets it for nodes that have not heard of it", zap.Error(err))
	}
	return err
}

// toldLost forgets what a node has noted itself, after a message with these shards.
func (l *ledger) toldLost(node uint64, shards []uint64) {
	if len(shards) == 0 {
		return
	}
	l.mu.Lock()
	l.own.toldLost(node, shards)
	l.mu.Unlock()
	l.saveLost()
	l.mu.Lock()
	l.own.dropEmpty()
	l.mu.Unlock()
}

// takeOverRemoved tells others what nodes kept for them that are no data nodes any more.
func (l *ledger) takeOverRemoved() {
	st := l.meta.State()
	me := l.meta.NodeID()
	if st.Data.ClusterID == 0 || me == 0 {
		return
	}
	var mine []uint64
	lost := false
	l.mu.Lock()
	for holder, t := range l.holders.tables {
		if _, ok := st.DataNode(holder); ok || holder == me {
			continue
		}
		mine = append(mine, l.takeOver(t)...)
		lost = lost || len(t.owed) > 0
		l.holders.remove(holder)
	}
	for node := range l.own.lost {
		if _, ok := st.DataNode(node); !ok {
			lost = true
			clear(l.own.lost[node])
		}
	}
	l.refresh()
	l.mu.Unlock()
	if len(mine) > 0 {
		l.missed(mine, "a data node that kept writes or deletes for it was removed")
	}
	if lost {
		l.saveLost()
		l.mu.Lock()
		l.own.dropEmpty()
		l.mu.Unlock()
	}
}

// Forget forgets all copies: this node has left its cluster, and another one may have the same numbers.
func (l *ledger) Forget() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := change{
		shards: make(map[uint64]*record), tables: make(map[uint64]*table), lost: make(map[uint64]*shardSet),
		marks: make(map[uint64]*uint64),
	}
	l.had = nil
	clear(l.unsaved)
	l.records.forget(&c)
	l.holders.forget(&c)
	l.own.forget(&c)
	l.folders.self.Newest, l.folders.self.Reviewed = 0, false
	l.folders.rename() // another node may have had the place of this one when it comes back
	l.renewOwn()
	next := l.folders.self
	c.self = &next
	l.refresh()
	if err := l.store.save(c); err != nil {
		return err
	}
	return writeFolder(l.dataDir, next.Folder)
}
