package copystate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
	"concord/internal/trust"
)

// exchange tells a node what this one knows, and takes over what it answers. again is true when the node lacks a
// table that came meanwhile.
func (x *exchanges) exchange(ctx context.Context, p *peer) (again bool) {
	m := x.newMessage(p.node.ID)
	x.mu.Lock()
	p.begun++
	number, began, process := p.begun, time.Now(), x.processes[p.node.ID]
	x.refreshOwn()
	x.fill(m, p.node.ID, p.have, p.known)
	if !m.Starting {
		m.Lost = x.own.tellLost(p.node.ID)
	}
	sequence := x.own.sequence
	x.mu.Unlock()

	reply, err := x.call(ctx, p, m)
	if err == nil {
		err = x.learn(reply)
	}
	if err == nil {
		x.toldLost(p.node.ID, m.Lost)
	}

	x.stats.exchanges.Add(1)
	if err != nil {
		x.stats.failed.Add(1)
	}
	x.mu.Lock()
	lost, back := p.count(err, ctx.Err() != nil)
	heard, gone := p.end(number, began, reply, err)
	if err == nil {
		if !m.Starting {
			p.told = sequence
		}
		again = !reply.Starting && x.ready.Load() && p.lacksTable(x.holders.tables)
	}
	x.updateFreshness()
	close(x.changed)
	x.changed = make(chan struct{})
	x.mu.Unlock()
	switch {
	case lost:
		x.log.Warn("A data node does not answer", zap.String("node", p.node.TCPAddr),
			zap.String("error", rpc.Message(err)))
	case back:
		x.log.Info("A data node answers again", zap.String("node", p.node.TCPAddr))
	}
	if heard {
		x.events.Heard(p.node.ID)
	}
	if gone {
		x.tellGone(p.node.ID, process)
	}
	return again
}

// call sends a message to a node. An answer of another node than the one that has the place is an error.
func (x *exchanges) call(ctx context.Context, p *peer, m *rpc.CopyStates) (*rpc.CopyStates, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	client, err := x.dial(p.node)
	if err != nil {
		return nil, err
	}
	sent := x.now()
	reply, err := client.Exchange(ctx, m)
	ahead, margin, known := trust.AheadBy(err)
	if err == nil {
		margin, known = x.now().Sub(sent)/2, true
		ahead = time.Unix(0, reply.Clock).Sub(sent.Add(margin))
	}
	if known && x.events.Clock != nil {
		x.events.Clock(p.node, ahead, margin)
	}
	switch status.Code(err) {
	case codes.Unimplemented:
		// A node of a version that does not know the exchange is there, and has nothing to say.
		reply, err = &rpc.CopyStates{Node: p.node.ID, Starting: true}, nil
	case codes.FailedPrecondition:
		x.place.Check()
	}
	switch {
	case err != nil:
		return nil, err
	case reply.Node != p.node.ID:
		return nil, fmt.Errorf("%s is data node %d, and not %d", p.node.TCPAddr, reply.Node, p.node.ID)
	case !x.holdsPlace(reply):
		return nil, fmt.Errorf("%s was data node %d, whose place another one has now", p.node.TCPAddr, p.node.ID)
	}
	return reply, nil
}

// newMessage begins a message to a node with what has no part in the tables. mu must not be held: the clock of versions
// may wait for a disk.
func (x *exchanges) newMessage(to uint64) *rpc.CopyStates {
	m := &rpc.CopyStates{
		Node: x.meta.NodeID(), Clock: x.now().UnixNano(), Process: x.place.Process(), Identity: x.place.Identity(),
	}
	if x.memory != nil {
		m.MemoryLasts = uint64(x.memory().Milliseconds())
	}
	if x.order.Says != nil {
		m.Version, m.Floor, m.UnderWay = x.order.Says(to)
	}
	return m
}

// fill adds to a message what a node is told that has these tables. Compared is whether that node has said what it
// remembers of this one: it must not take over the table of folders that are older than they were. mu must be held.
func (x *exchanges) fill(m *rpc.CopyStates, to uint64, have map[uint64]version, compared bool) {
	self := x.folders.self
	m.Folder, m.Start, m.Mark = self.Folder, self.Start, self.Mark
	m.Starting = !x.ready.Load() || !compared || x.folders.goingBack()
	if x.order.Says != nil {
		m.Lacks = x.records.missedLast()
	}
	// Also while this node starts: the other one may be on folders that were rolled back, and must hear of it first.
	x.remind(m, to)
	if m.Starting {
		return
	}
	tables := maps.Clone(x.holders.tables)
	tables[m.Node] = x.own.table
	for holder, t := range tables {
		m.Have = append(m.Have, t.version.encode(holder))
		if holder != to && t.version.newer(have[holder]) {
			m.Tables = append(m.Tables, t.encode(holder))
		}
	}
}

// remind adds to a message what this node remembers of the folders of the other one. mu must be held.
func (x *exchanges) remind(m *rpc.CopyStates, to uint64) {
	if t, ok := x.holders.tables[to]; ok {
		m.You, m.YourFormer = t.version.encode(to), t.former
	}
	m.YourMark = x.holders.marks[to]
}

// learn takes over what another node says. The error is that what this node lacks for good could not be stored.
func (x *exchanges) learn(m *rpc.CopyStates) error {
	if len(m.Lost) > 0 {
		why := "it lacks writes or deletes that data node " + x.addr(m.Node) + " knows of, and that nobody keeps for it"
		if err := x.missed(m.Lost, why); err != nil {
			return err
		}
	}
	x.learnSelf(m)
	x.learnProcess(m)
	if x.order.Told != nil && m.Version != 0 {
		x.order.Told(Said{
			Node: m.Node, Process: m.Process, Clock: m.Version, Floor: m.Floor, UnderWay: m.UnderWay, Lacks: m.Lacks,
			Starting: m.Starting,
		})
	}
	if !m.Starting {
		x.learnTables(m)
	}
	return nil
}

// learnSelf compares what another node remembers of this one with what this one remembers.
func (x *exchanges) learnSelf(m *rpc.CopyStates) {
	if !x.compare(remembered{decodeVersion(m.You), decodeNames(m.YourFormer), m.YourMark}) {
		return
	}
	x.log.Error("The folders of this node are older than they were: its copies are compared with those of the other "+
		"nodes and repaired, and what it kept for others is set aside",
		zap.String("told_by", x.addr(m.Node)))
	x.goingBackMu.Lock()
	defer x.goingBackMu.Unlock()
	x.goBack()
}

// keepGoingBack tries again what follows from folders that are older than they were, where that failed.
func (x *exchanges) keepGoingBack() {
	if x.goingBackMu.TryLock() {
		defer x.goingBackMu.Unlock()
		x.goBack()
	}
}

// goBack does what follows from folders that are older than they were. Until it has done all of it, this node is not
// ready, and tells others no table. goingBackMu must be held.
func (x *exchanges) goBack() {
	x.mu.Lock()
	going, unnoted := x.folders.goingBack(), x.folders.unnoted
	x.mu.Unlock()
	if !going {
		return
	}
	var err error
	if unnoted {
		err = x.noteGoneBack()
	}
	if err == nil {
		err = x.giveUp()
	}
	if err == nil {
		err = x.noteGoingBack(false)
	}
	if err != nil && !errors.Is(err, ErrNotOpen) && !x.backFailed {
		x.log.Error("Cannot set aside what this node kept for others, and goes on trying", zap.Error(err))
		x.backFailed = true
	}
}

// noteGoneBack notes on disk that the folders are older than they were, and gives them another name. A node that
// crashes before it has that name finds out again.
func (x *exchanges) noteGoneBack() error {
	// First: who hears of what follows may have copies repaired at once, and must not take these for right.
	if err := errors.Join(x.rolledBack(x.folders.reached), x.noteGoingBack(true)); err != nil {
		return err
	}
	// A node that heard a later mark also has a later table of this node. It takes over what that table says is kept or
	// lost. Whatever else is in these older folders was delivered or told by then. When nobody heard a later mark, what
	// this node keeps counts as lost, as it is set aside now.
	x.mu.Lock()
	if x.folders.markHeard {
		for _, shards := range x.own.lost {
			clear(shards)
		}
	} else {
		for node, shards := range x.kept() {
			for _, id := range shards {
				x.own.addLost(node, id)
			}
		}
	}
	x.mu.Unlock()
	x.saveLost()
	if err := x.rename(); err != nil {
		return err
	}
	x.mu.Lock()
	x.folders.unnoted = false
	x.mu.Unlock()
	return nil
}

// tellGone tells that all processes of a node are gone, unless one that is newer than the given one was heard
// meanwhile.
func (x *exchanges) tellGone(node, process uint64) {
	x.processMu.Lock()
	defer x.processMu.Unlock()
	x.mu.Lock()
	another := x.processes[node] != process
	x.mu.Unlock()
	if !another {
		x.events.Gone(node, 0)
	}
}

// learnProcess takes over which process of a node runs now. When it returns, it was told that the former one is gone:
// nothing that the new one says of the order of writes comes before that.
func (x *exchanges) learnProcess(m *rpc.CopyStates) {
	x.processMu.Lock()
	defer x.processMu.Unlock()
	x.mu.Lock()
	another := x.processes[m.Node] != m.Process && m.Process != 0
	x.processes[m.Node] = m.Process
	x.mu.Unlock()
	if another {
		x.events.Gone(m.Node, m.Process)
	}
}

// learnTables takes over what a node knows of itself and of other holders.
func (x *exchanges) learnTables(m *rpc.CopyStates) {
	var mine []uint64 // what a holder that lost its files kept for this node
	x.mu.Lock()
	// It is there again, and may keep more under the same version: what is queued behind other writes changes no table.
	delete(x.holders.voided, m.Node)
	if p := x.peers[m.Node]; p != nil {
		p.heard = time.Now()
	}
	for _, encoded := range m.Tables {
		mine = append(mine, x.learnTable(encoded)...)
	}
	x.holders.heardMark(&rpc.DiskMark{Node: m.Node, Folder: m.Folder, Start: m.Start, Mark: m.Mark})
	x.refresh()
	lost := len(x.own.lost) > 0
	x.mu.Unlock()
	if len(mine) > 0 {
		x.missed(mine, "data node "+x.addr(m.Node)+" lost its files, and what it kept for it")
	}
	if lost {
		x.saveLost()
	}
}

// learnTable takes over a table that is newer than the known one. When its holder has lost its files since, it returns
// what the holder kept for this node. mu must be held.
func (x *exchanges) learnTable(encoded *rpc.OwedTable) (mine []uint64) {
	t, err := decodeTable(encoded)
	holder := encoded.GetVersion().GetHolder()
	old, known := x.holders.tables[holder]
	if err != nil || holder == x.meta.NodeID() || known && !t.version.newer(old.version) {
		return nil
	}
	if known && old.folder != t.folder {
		mine = x.takeOver(old)
		delete(x.holders.marks, holder) // they go with the folder
	}
	x.holders.set(holder, t)
	return mine
}
