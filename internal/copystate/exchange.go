package copystate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// peer is another data node. Its fields are guarded by Service.mu.
type peer struct {
	node   cluster.Node
	kick   chan struct{} // holds one signal: exchange now
	cancel context.CancelFunc

	begun   uint64    // number of the last exchange that began
	ended   uint64    // and of the last one that ended
	at      time.Time // when the last one that ended began
	reached bool      // it was answered
	refused bool      // nothing listens there, or it serves nothing: the node is down, and takes no writes
	since   time.Time // when it was first not answered, after it was
	heard   time.Time // when it last told this node its table
	told    uint64    // sequence of this node's table that it has
	process uint64    // that answered the last exchange, 0 for none
	have    map[uint64]version
}

// away reports whether the last exchange failed. mu must be held.
func (p *peer) away() bool { return p.ended > 0 && !p.reached }

// follow starts and ends exchanges as nodes come and go.
func (s *Service) follow(ctx context.Context) {
	st := s.deps.Meta.State()
	me := s.deps.Meta.NodeID()
	s.mu.Lock()
	defer s.mu.Unlock()
	live := make(map[uint64]cluster.Node)
	if me != 0 {
		for _, n := range st.DataNodes {
			if n.ID != me {
				live[n.ID] = n
			}
		}
	}
	for id, p := range s.peers {
		if n, ok := live[id]; !ok || n.TCPAddr != p.node.TCPAddr {
			p.cancel()
			delete(s.peers, id)
		}
	}
	for id, n := range live {
		if s.peers[id] != nil {
			continue
		}
		p := &peer{node: n, kick: make(chan struct{}, 1), since: time.Now()}
		var pctx context.Context
		pctx, p.cancel = context.WithCancel(ctx)
		s.peers[id] = p
		s.wg.Add(1)
		go func() { defer s.wg.Done(); s.talk(pctx, p) }()
	}
	s.settle()
}

// talk exchanges with one node until ctx ends.
func (s *Service) talk(ctx context.Context, p *peer) {
	again := false
	for ctx.Err() == nil {
		// Once: a node that does not take a table does not get it without pause.
		if again = s.exchange(ctx, p) && !again; again {
			continue
		}
		pause := exchangeEvery
		s.mu.Lock()
		if len(s.own.owed[p.node.ID]) > 0 {
			pause = owingEvery
		}
		s.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-p.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// exchange tells a node what this one knows, and takes over what it answers. again is true when the node lacks a
// table that came meanwhile.
func (s *Service) exchange(ctx context.Context, p *peer) (again bool) {
	s.mu.Lock()
	p.begun++
	number, began := p.begun, time.Now()
	s.refreshOwn()
	m := s.message(p.node.ID, p.have)
	sequence, ready := s.own.sequence, !m.Starting
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	var reply *rpc.CopyStates
	client, err := s.deps.Peer(p.node)
	if err == nil {
		sent := s.deps.Now()
		reply, err = client.Exchange(ctx, m)
		if took := s.deps.Now().Sub(sent); err == nil && s.deps.Clock != nil {
			s.deps.Clock(p.node, time.Unix(0, reply.Clock).Sub(sent.Add(took/2)), took/2)
		}
	}
	// A node of a version that does not know the exchange is there, and has nothing to say.
	if status.Code(err) == codes.Unimplemented {
		reply, err = &rpc.CopyStates{Node: p.node.ID, Starting: true}, nil
	}
	if status.Code(err) == codes.FailedPrecondition {
		s.deps.Doubt()
	}
	if err == nil && reply.Node != p.node.ID {
		err = fmt.Errorf("%s is data node %d, and not %d", p.node.TCPAddr, reply.Node, p.node.ID)
	}
	if err == nil && !s.holdsPlace(reply) {
		err = fmt.Errorf("%s was data node %d, whose place another one has now", p.node.TCPAddr, p.node.ID)
	}
	if err == nil {
		err = s.learn(reply)
	}
	if err == nil {
		s.toldLost(p.node.ID, m.Lost)
	}

	s.stats.exchanges.Add(1)
	if err != nil {
		s.stats.failed.Add(1)
	}
	s.mu.Lock()
	heard := err == nil && !p.reached
	if err != nil && p.reached {
		p.since = time.Now()
	}
	p.ended, p.at = number, began
	p.reached = err == nil
	refused := err != nil &&
		(strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), rpc.ServesNothing))
	gone := refused && !p.refused
	p.refused = refused
	p.process = 0
	if err == nil {
		p.process = reply.Process
		if ready {
			p.told = sequence
		}
		p.have = make(map[uint64]version, len(reply.Have))
		for _, v := range reply.Have {
			p.have[v.Holder] = decodeVersion(v)
		}
		again = !reply.Starting && s.lacksTables(p)
	}
	s.settle()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if heard {
		s.deps.Heard(p.node.ID)
	}
	if gone {
		s.deps.Gone(p.node.ID, 0)
	}
	return again
}

// lacksTables reports whether a node was not told of a table. mu must be held.
func (s *Service) lacksTables(p *peer) bool {
	for holder, t := range s.tables {
		if holder != p.node.ID && s.ready.Load() && t.version.newer(p.have[holder]) {
			return true
		}
	}
	return false
}

// settle works out from the exchanges what this node can know. mu must be held.
func (s *Service) settle() {
	fresh, all := time.Duration(1<<62), true
	reached, total := 1, 1
	for _, p := range s.peers {
		if p.ended == 0 {
			all = false
		} else {
			fresh = min(fresh, p.at.Add(freshFor).Sub(s.base))
		}
		if p.reached {
			reached++
		}
		if !p.refused {
			total++
		}
	}
	if !all {
		fresh = 0
	}
	s.freshUntil.Store(int64(fresh))
	var unsure *string
	if 2*reached < total {
		why := fmt.Sprintf("its node can reach %d of %d data nodes", reached, len(s.peers)+1)
		unsure = &why
	}
	s.unsure.Store(unsure)
	if all && s.deps.Meta.State().Data.ClusterID != 0 && !s.ready.Load() {
		s.own = table{version: version{s.self.Folder, s.self.Start, s.own.sequence + 1}, owed: s.own.owed}
		s.ready.Store(true)
		for _, p := range s.peers {
			notify(p.kick)
		}
	}
}

// message is what a node is told that has these tables. mu must be held.
func (s *Service) message(to uint64, have map[uint64]version) *rpc.CopyStates {
	me := s.deps.Meta.NodeID()
	m := &rpc.CopyStates{
		Node: me, Folder: s.self.Folder, Start: s.self.Start, Mark: s.self.Mark, Clock: s.deps.Now().UnixNano(),
		Process: s.deps.Process(), Starting: !s.ready.Load(), Identity: s.deps.Identity(),
		Lost: s.lost[to].sorted(),
	}
	if s.deps.Floor != nil {
		m.Version, m.Floor = s.deps.Floor(to)
		m.Lacks = len(s.lacking) > 0
	}
	if m.Starting {
		return m
	}
	tables := maps.Clone(s.tables)
	tables[me] = s.own
	for holder, t := range tables {
		m.Have = append(m.Have, t.version.encode(holder))
		if holder != to && t.version.newer(have[holder]) {
			m.Tables = append(m.Tables, t.encode(holder))
		}
	}
	if t, ok := s.tables[to]; ok {
		m.You = t.version.encode(to)
	}
	m.YourMark = s.marks[to]
	return m
}

// learn takes over what another node says. The error is that what this node lacks for good could not be stored.
func (s *Service) learn(m *rpc.CopyStates) error {
	me := s.deps.Meta.NodeID()
	if len(m.Lost) > 0 {
		if err := s.missed(m.Lost, "writes of data node "+s.addr(m.Node)+" did not reach it, and are not kept for it"); err != nil {
			return err
		}
	}
	s.learnSelf(m)
	s.mu.Lock()
	another := s.processes[m.Node] != m.Process && m.Process != 0
	s.processes[m.Node] = m.Process
	s.mu.Unlock()
	if another {
		s.deps.Gone(m.Node, m.Process)
	}
	if s.deps.Told != nil && m.Version != 0 {
		s.deps.Told(m.Node, m.Version, m.Floor, m.Lacks)
	}
	if m.Starting {
		return nil
	}
	var mine []uint64 // what a holder that lost its files kept for this node
	s.mu.Lock()
	// It is there again, and may keep more under the same version: what is queued behind other writes changes no table.
	delete(s.voided, m.Node)
	if p := s.peers[m.Node]; p != nil {
		p.heard = time.Now()
	}
	for _, encoded := range m.Tables {
		t, err := decodeTable(encoded)
		holder := encoded.GetVersion().GetHolder()
		old, known := s.tables[holder]
		if err != nil || holder == me || known && !t.version.newer(old.version) {
			continue
		}
		if known && old.folder != t.folder {
			mine = append(mine, s.takeOver(old)...)
			delete(s.marks, holder) // they go with the folder
		}
		s.tables[holder] = t
		s.dirty[holder] = true
	}
	if m.Mark > s.marks[m.Node] {
		s.marks[m.Node] = m.Mark
		s.dirtyMarks[m.Node] = true
	}
	s.refresh()
	c := change{lost: s.lostChange()}
	s.mu.Unlock()
	if len(mine) > 0 {
		s.missed(mine, "data node "+s.addr(m.Node)+" lost its files, and what it kept for it")
	}
	if len(c.lost) > 0 {
		s.saveLost()
	}
	return nil
}

// takeOver makes this node tell others what a holder kept for them that lost it. It returns what it kept for this
// node. mu must be held.
func (s *Service) takeOver(old table) (mine []uint64) {
	me := s.deps.Meta.NodeID()
	for node, shards := range old.owed {
		for id := range shards {
			if node == me {
				mine = append(mine, id)
			} else {
				s.addLost(node, id)
			}
		}
	}
	return mine
}

func (s *Service) saveLost() {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	c := change{lost: s.lostChange()}
	s.mu.Unlock()
	if err := s.store.save(c); err != nil {
		s.log.Error("Cannot store that copies on other nodes lack writes", zap.Error(err))
	}
}

// toldLost forgets what a node has noted itself.
func (s *Service) toldLost(node uint64, shards []uint64) {
	if len(shards) == 0 {
		return
	}
	s.mu.Lock()
	for _, id := range shards {
		delete(s.lost[node], id)
	}
	s.mu.Unlock()
	s.saveLost()
	s.mu.Lock()
	if len(s.lost[node]) == 0 {
		delete(s.lost, node)
	}
	s.mu.Unlock()
}

// learnSelf compares what another node remembers of this one with what this one remembers.
func (s *Service) learnSelf(m *rpc.CopyStates) {
	you := decodeVersion(m.You)
	s.mu.Lock()
	known := you.start == 0 || s.starts[you.start]
	s.mu.Unlock()
	if known {
		return
	}
	s.saving.Lock() // first: a mark that is stored meanwhile must not be stored over
	s.mu.Lock()
	back := you.folder == s.self.Folder && !s.wentBack && (m.YourMark > s.loadedMark || you.start>>16 >= s.self.Start>>16)
	if you.start>>16 >= s.self.Start>>16 {
		s.self.Start = nextStart(you.start)
		s.starts[s.self.Start] = true
	}
	if back {
		s.wentBack = true
		s.self.Folder = newFolder()
	}
	s.own.version = version{s.self.Folder, s.self.Start, s.own.sequence + 1}
	next := s.self
	s.mu.Unlock()
	err := s.store.save(change{self: &next})
	s.saving.Unlock()
	if err != nil {
		s.log.Error("Cannot store the place of this node among its starts", zap.Error(err))
	}
	if back {
		s.goneBack(m)
	}
}

// goneBack is called once when the folders of this node turn out to be older than they were.
func (s *Service) goneBack(m *rpc.CopyStates) {
	s.log.Error("The folders of this node are older than they were: its copies are made anew from the other nodes, and what it kept for others is set aside",
		zap.String("told_by", s.addr(m.Node)))
	// First: who hears of what follows may have copies repaired at once, and must not take these for right.
	s.missed([]uint64{allShards}, "the folders of its node are older than they were")
	if err := writeFolder(s.deps.DataDir, s.self.Folder); err != nil {
		s.log.Error("Cannot name the data folder anew", zap.Error(err))
	}
	// Who heard a later mark knows what this node kept for others since: the rest was brought there. It takes that over.
	if m.YourMark <= s.loadedMark {
		s.mu.Lock()
		for node, shards := range s.deps.Owed() {
			for _, id := range shards {
				s.addLost(node, id)
			}
		}
		s.mu.Unlock()
		s.saveLost()
	}
	if err := s.deps.GiveUp(); err != nil {
		s.log.Error("Cannot set aside what this node kept for others", zap.Error(err))
	}
}

// takeOverRemoved tells others what nodes kept for them that are no data nodes any more.
func (s *Service) takeOverRemoved() {
	st := s.deps.Meta.State()
	me := s.deps.Meta.NodeID()
	if st.Data.ClusterID == 0 || me == 0 {
		return
	}
	var mine []uint64
	lost := false
	s.mu.Lock()
	for holder, t := range s.tables {
		if _, ok := st.DataNode(holder); ok || holder == me {
			continue
		}
		mine = append(mine, s.takeOver(t)...)
		lost = lost || len(t.owed) > 0
		delete(s.tables, holder)
		delete(s.voided, holder)
		s.dirty[holder] = true
	}
	for node := range s.lost {
		if _, ok := st.DataNode(node); !ok {
			lost = true
			clear(s.lost[node])
		}
	}
	s.refresh()
	s.mu.Unlock()
	if len(mine) > 0 {
		s.missed(mine, "a data node that kept writes for it was removed")
	}
	if lost {
		s.saveLost()
	}
}

// replaceAway has copies repaired for which only nodes keep writes that stay away.
func (s *Service) replaceAway() {
	me := s.deps.Meta.NodeID()
	var mine []uint64
	var away uint64
	s.mu.Lock()
	for holder, t := range s.tables {
		p := s.peers[holder]
		if holder == me || p == nil || !p.away() || s.voided[holder] == t.version || len(t.owed[me]) == 0 {
			continue
		}
		if time.Since(p.since) < awayFor || time.Since(p.heard) < awayFor {
			continue
		}
		mine = append(mine, t.owed[me].sorted()...)
		s.voided[holder] = t.version
		away = holder
	}
	s.mu.Unlock()
	if len(mine) > 0 {
		slices.Sort(mine)
		s.missed(slices.Compact(mine), "data node "+s.addr(away)+", which keeps writes for it, is away")
	}
}

// Server answers the other data nodes.
type Server struct {
	rpc.UnimplementedCopyStateServer
	*Service
}

// forwardTimeout bounds how long a node waits for those that it passes a table on to.
const forwardTimeout = 600 * time.Millisecond

// Exchange takes over what another node knows, and answers with what this node knows.
func (s Server) Exchange(ctx context.Context, m *rpc.CopyStates) (*rpc.CopyStates, error) {
	if s.deps.Meta.NodeID() == 0 {
		return nil, status.Error(codes.FailedPrecondition, "this data node is in no cluster")
	}
	if _, ok := s.deps.Meta.State().DataNode(m.Node); !ok || m.Node == s.deps.Meta.NodeID() {
		return nil, status.Errorf(codes.FailedPrecondition, "data node %d is not one of this cluster that this node knows", m.Node)
	}
	if !s.holdsPlace(m) {
		return nil, status.Errorf(codes.FailedPrecondition, "another node has the place of data node %d now", m.Node)
	}
	if s.answersElsewhere(ctx, m) {
		return nil, status.Errorf(codes.FailedPrecondition, "another process answers at the address of data node %d", m.Node)
	}
	s.mu.Lock()
	var you *rpc.TableVersion
	if t, ok := s.tables[m.Node]; ok {
		you = t.version.encode(m.Node)
	}
	mark := s.marks[m.Node]
	s.mu.Unlock()
	if err := s.learn(m); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	s.passOn(ctx, m.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	have := make(map[uint64]version, len(m.Have))
	for _, v := range m.Have {
		have[v.Holder] = decodeVersion(v)
	}
	s.refreshOwn()
	reply := s.message(m.Node, have)
	reply.Lost = nil // it is told in a request, whose answer shows that it was stored
	reply.You, reply.YourMark = you, mark
	if p := s.peers[m.Node]; p != nil && p.away() {
		notify(p.kick) // it is back
	}
	return reply, nil
}

// holdsPlace reports whether the cluster has given the place of a message's sender to its folders, as far as this node
// knows.
func (s *Service) holdsPlace(m *rpc.CopyStates) bool {
	n, _ := s.deps.Meta.State().DataNode(m.Node)
	return n.Identity == "" || m.Identity == "" || n.Identity == m.Identity
}

// answersElsewhere reports whether the address of a message's sender leads to another process than the one that sent
// it: two processes have copies of the same folders. A node that was restarted is asked again first.
func (s Server) answersElsewhere(ctx context.Context, m *rpc.CopyStates) bool {
	s.mu.Lock()
	p := s.peers[m.Node]
	if p == nil || m.Process == 0 || p.process == 0 || p.process == m.Process {
		s.mu.Unlock()
		return false
	}
	attempt := p.begun + 1
	notify(p.kick)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	other := false
	s.await(ctx, func() bool {
		if p.ended < attempt {
			return false
		}
		other = p.process != 0 && p.process != m.Process
		return true
	})
	return other
}

// passOn tells nodes at once what waits for them on a node that may not reach them itself.
func (s Server) passOn(ctx context.Context, holder uint64) {
	s.mu.Lock()
	t := s.tables[holder]
	attempt := make(map[*peer]uint64)
	for node := range t.owed {
		p := s.peers[node]
		if p == nil || node == holder || p.away() && !p.refused || !t.version.newer(p.have[holder]) {
			continue
		}
		attempt[p] = p.begun + 1 // also of one that was down: it may be up again
		notify(p.kick)
	}
	s.mu.Unlock()
	if len(attempt) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	s.await(ctx, func() bool {
		for p, n := range attempt {
			if t.version.newer(p.have[holder]) && (p.ended < n || p.reached) {
				return false
			}
		}
		return true
	})
}
