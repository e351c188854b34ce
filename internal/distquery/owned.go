package distquery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// askTimeout bounds one question to one node, and the silence of a stream.
const askTimeout = 30 * time.Second

// Whole says which copies may be read. Its zero value says that all may.
type Whole struct {
	// Unfit returns for each of the shards whose copy on this node is not whole why that is so.
	Unfit func(ctx context.Context, ids ...uint64) map[uint64]copystate.Unfit
	// AwaitWrites waits until the writes that this node has acknowledged have arrived at a node's copies of shards, and
	// returns those shards of which some are still under way, or wait here for the node: a client sees what it wrote.
	AwaitWrites func(ctx context.Context, node uint64, ids []uint64) []uint64
	// Heard returns the last sign of life of another node; nil is for nodes that never run out of memory.
	Heard func(node uint64) copystate.Sign
}

func (w Whole) unfit(ctx context.Context, ids []uint64) map[uint64]copystate.Unfit {
	if w.Unfit == nil {
		return nil
	}
	return w.Unfit(ctx, ids...)
}

// How long a query waits for acknowledged writes to arrive at a copy: while other owners can be asked, and when there
// is none.
const (
	awaitSoon = 250 * time.Millisecond
	awaitLast = 2 * time.Second
)

// settle returns the shards of which acknowledged writes do not arrive at a node soon.
func (o *owned) settle(ctx context.Context, node uint64, ids []uint64) []uint64 {
	if o.whole.AwaitWrites == nil {
		return nil
	}
	limit := awaitSoon
	o.mu.Lock()
	if slices.ContainsFunc(ids, func(id uint64) bool { return len(o.owners[id]) == 1 || o.late[placed{node, id}] }) {
		limit = awaitLast
	}
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return o.whole.AwaitWrites(ctx, node, ids)
}

// awaitLate waits for acknowledged writes to arrive at copies that lack nothing else, where no other owner has a whole
// one. A copy that got them is whole.
func (o *owned) awaitLate(ctx context.Context, ids []uint64) {
	late := o.lateAlone(ids)
	if len(late) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, awaitLast)
	defer cancel()
	for node, ids := range late {
		left := o.whole.AwaitWrites(ctx, node, ids)
		o.mu.Lock()
		for _, id := range ids {
			if !slices.Contains(left, id) {
				delete(o.unfit, placed{node, id})
			}
			o.late[placed{node, id}] = true
		}
		o.mu.Unlock()
	}
}

// lateAlone returns shards, by node, of which this copy alone may be whole soon, and no other one is.
func (o *owned) lateAlone(ids []uint64) map[uint64][]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.unfit) == 0 {
		return nil
	}
	var late map[uint64][]uint64
next:
	for _, id := range ids {
		var best uint64
		for _, n := range o.owners[id] {
			at := placed{n, id}
			switch u, unfit := o.unfit[at]; {
			case o.down[n] != nil:
			case !unfit:
				continue next // it can be read
			case u.Reason == underWay.Reason && !o.late[at]:
				best = n
			}
		}
		if best != 0 {
			if late == nil {
				late = make(map[uint64][]uint64)
			}
			late[best] = append(late[best], id)
		}
	}
	return late
}

// underWay is why a copy is not read that acknowledged writes have not reached.
var underWay = copystate.Unfit{
	Reason: "writes that were acknowledged are still on their way to it", Readable: true, Rank: 1,
}

// owned are shards that other nodes have, and who can be asked for them. A
// node that failed once is not asked again by the same statement. A node that
// answers but does not have a shard is passed over for it; a shard that no
// owner has was never written to.
//
// A copy that is not whole is passed over, too. Only when no owner that can be
// reached has a whole one, the best of the others is read, and the report says so.
//
// It has many fields because all that one question has shown of a node or a copy decides whom the next one goes to.
type owned struct {
	self   uint64
	state  *cluster.State
	pool   *rpc.Pool
	whole  Whole
	report *Report
	// allowed is what the user of the statement may read; nil for everything. Other nodes get it with each question.
	allowed *restrict.Filter
	owners  map[uint64][]uint64 // shard: nodes
	breaks  *breaks             // of the statement

	mu    sync.Mutex
	down  map[uint64]error           // nodes that failed
	asked map[uint64]asked           // each node at first
	lacks map[placed]bool            // shards that are not where they should be
	here  map[uint64]bool            // shards that this node was to read, and had
	names map[uint64]bool            // shards of which the names of tags alone are asked for: they have no point to read
	unfit map[placed]copystate.Unfit // copies that are not whole
	late  map[placed]bool            // those of them that awaitLate has waited for
}

// asked is when a node was asked, and which of its processes, as far as this node knew.
type asked struct {
	at      time.Time
	process uint64
}

type placed struct{ node, shard uint64 }

// peer is a node that is asked: another one, or this one for a copy that is not whole.
type peer struct {
	rpc.QueryClient
	id         uint64
	addr       string
	incomplete bool // it is to read copies that are not whole
}

// passed are the shards that a node was asked for and did not read.
type passed struct {
	missing []uint64     // it does not have them
	unfit   []*rpc.Unfit // its copies are not whole
}

func (p *passed) add(missing []uint64, unfit []*rpc.Unfit) {
	p.missing, p.unfit = append(p.missing, missing...), append(p.unfit, unfit...)
}

// removed adds shards that the node had, and has no more.
func (p *passed) removed(ids []uint64) {
	for _, id := range ids {
		p.unfit = append(p.unfit, &rpc.Unfit{ShardId: id, Reason: goneMeanwhile.Reason})
	}
}

// has reports whether a shard was not read.
func (p *passed) has(id uint64) bool {
	return slices.Contains(p.missing, id) ||
		slices.ContainsFunc(p.unfit, func(u *rpc.Unfit) bool { return u.ShardId == id })
}

// question asks a node for shards and tells those that it did not read.
type question func(ctx context.Context, p peer, ids []uint64) (passed, error)

func newOwned(meta Metadata, pool *rpc.Pool, whole Whole, report *Report) *owned {
	b := &breaks{}
	if report != nil {
		b = &report.breaks
	}
	return &owned{
		self: meta.NodeID(), state: meta.State(), pool: pool, whole: whole, report: report,
		owners: make(map[uint64][]uint64), down: make(map[uint64]error),
		asked: make(map[uint64]asked), breaks: b, lacks: make(map[placed]bool),
		here: make(map[uint64]bool), names: make(map[uint64]bool),
		unfit: make(map[placed]copystate.Unfit), late: make(map[placed]bool),
	}
}

// add takes shards, and returns those that this node itself reads: it is an
// owner, and its copy is whole and exists, or is the only one there can be.
func (o *owned) add(shards []emeta.ShardInfo, store *tsdb.Store) (local []uint64) {
	var mine []uint64
	for _, sh := range shards {
		owners := make([]uint64, len(sh.Owners))
		for i, ow := range sh.Owners {
			owners[i] = ow.NodeID
		}
		o.owners[sh.ID] = owners
		if slices.Contains(owners, o.self) {
			mine = append(mine, sh.ID)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	ctx := context.Background() // the engine's interface has none here
	late := o.settle(ctx, o.self, mine)
	unfit := o.whole.unfit(ctx, mine)
	for _, id := range mine {
		u, bad := unfit[id]
		if !bad && slices.Contains(late, id) {
			u, bad = underWay, true
		}
		switch exists := store.Shard(id) != nil; {
		case bad:
			u.Readable = u.Readable && exists
			o.unfit[placed{o.self, id}] = u
		case exists || len(o.owners[id]) == 1:
			local = append(local, id)
			o.here[id] = exists
		default:
			o.lacks[placed{o.self, id}] = true
		}
	}
	return local
}

// askForNames notes shards of which the names of tags alone are asked for. Where no owner of such a shard can answer,
// the statement goes on without them, and the report says so: a name that only this shard knows is taken for that of a
// field.
func (o *owned) askForNames(ids []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		o.names[id] = true
	}
}

// target is whom to ask, and for what.
type target struct {
	node       uint64
	incomplete bool
}

// assign gives each shard to one owner that is up and has a whole copy: the one that has most to do
// already, so that few nodes are asked. Without one, it is the one whose copy is the best to read.
func (o *owned) assign(ids []uint64) (map[target][]uint64, error) {
	if err := o.breaks.ended(); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make(map[target][]uint64)
	for _, id := range ids {
		if len(o.owners[id]) == 0 {
			return nil, fmt.Errorf("shard %d is on no data node: all its owners left the cluster; DROP SHARD %d gives it up",
				id, id)
		}
		var best, second uint64
		var rank int // of second
		var why []string
		empty := false // a whole copy does not exist: nothing was ever written to the shard
		for _, n := range o.owners[id] {
			u, unfit := o.unfit[placed{n, id}]
			switch err := o.down[n]; {
			case err != nil:
				why = append(why, err.Error())
			case unfit:
				why = append(why, o.name(n)+": "+u.Reason)
				if u.Readable && (second == 0 || u.Rank < rank) {
					second, rank = n, u.Rank
				}
			case o.lacks[placed{n, id}]:
				empty = true
			case best == 0 || len(out[target{n, false}]) > len(out[target{best, false}]):
				best = n
			}
		}
		switch {
		case best != 0:
			out[target{best, false}] = append(out[target{best, false}], id)
		case empty && (len(why) == 0 || o.whole.Unfit != nil), o.report.dropped(id):
		case second != 0:
			if err := o.incomplete(id, why); err != nil {
				return nil, err
			}
			out[target{second, true}] = append(out[target{second, true}], id)
		case o.names[id]:
			if err := o.incomplete(id, why); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("no owner of shard %d can answer: %s", id, strings.Join(why, "; "))
		}
	}
	return out, nil
}

// incomplete notes that no whole copy of a shard can be read. A statement during which a node ended is not tried again
// for it.
func (o *owned) incomplete(id uint64, why []string) error {
	err := o.report.add(id, why)
	if err != nil && o.breaks.seen() {
		return fmt.Errorf("%w: %v", ErrOwnerEnded, err)
	}
	return err
}

// open asks for shards, each of one node, in parallel. Where a node cannot
// answer, its shards go to their other owners; an answer that the query itself
// is wrong is final. The question's context ends with open when open fails.
func (o *owned) open(ctx context.Context, ids []uint64, ask question) error {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	for todo := ids; len(todo) > 0; {
		o.awaitLate(ctx, todo)
		nodes, err := o.assign(todo)
		if err != nil {
			return err
		}
		todo = nil
		var (
			wg    sync.WaitGroup
			mu    sync.Mutex
			final error
		)
		for to, ids := range nodes {
			wg.Add(1)
			go func() {
				defer wg.Done()
				not, err := o.ask(asking, to, ids, ask)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					todo = append(todo, o.pass(to, ids, not)...)
				case ctx.Err() != nil:
					final = ctx.Err()
				case retryable(err):
					if err = o.fail(to.node, err); err == nil {
						todo = append(todo, ids...)
						return
					}
					fallthrough
				case final == nil:
					final = o.final(to.node, err)
					cancel()
				}
			}()
		}
		wg.Wait()
		if final != nil {
			return final
		}
		slices.Sort(todo)
	}
	return nil
}

// final is the error of a statement that no other owner can answer.
func (o *owned) final(node uint64, err error) error {
	if errors.Is(err, ErrOwnerEnded) {
		return err
	}
	return errors.New(named(o.name(node), rpc.Message(err)))
}

// each is open for questions with one answer.
func (o *owned) each(ctx context.Context, ids []uint64, ask question) error {
	return o.open(ctx, ids, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return ask(ctx, p, ids)
	})
}

func (o *owned) ask(ctx context.Context, to target, ids []uint64, ask question) (passed, error) {
	n, ok := o.state.DataNode(to.node)
	if !ok {
		return passed{}, errors.New("it left the cluster")
	}
	conn, err := o.pool.Conn(n.TCPAddr)
	if err != nil {
		return passed{}, err
	}
	client, err := rpc.NewFilteredQueryClient(conn, o.allowed)
	if err != nil {
		return passed{}, err
	}
	var late []*rpc.Unfit
	if !to.incomplete {
		for _, id := range o.settle(ctx, to.node, ids) {
			late = append(late, &rpc.Unfit{ShardId: id, Reason: underWay.Reason, Readable: true,
				Rank: uint32(underWay.Rank)})
		}
	}
	if len(late) > 0 {
		ids = slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return (&passed{unfit: late}).has(id) })
	}
	var not passed
	if len(ids) > 0 {
		o.noteAsked(to.node)
		not, err = ask(ctx, peer{
			QueryClient: client, id: to.node, addr: n.TCPAddr, incomplete: to.incomplete,
		}, ids)
	}
	not.unfit = append(not.unfit, late...)
	return not, err
}

func (o *owned) noteAsked(node uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.asked[node]; !ok {
		a := asked{at: time.Now()}
		if o.whole.Heard != nil {
			a.process = o.whole.Heard(node).Process
		}
		o.asked[node] = a
	}
}

func (o *owned) name(node uint64) string {
	if n, ok := o.state.DataNode(node); ok {
		return n.TCPAddr
	}
	return fmt.Sprintf("node %d", node)
}

// damaged notes that this node cannot read its own copy of a shard.
func (o *owned) damaged(id uint64, why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unfit[placed{o.self, id}] = copystate.Unfit{Reason: why.Error()}
}

// removed takes shards that this node was to read and does not have. It returns those that it had when the query began,
// unless they were dropped since: the copy was removed, and other owners must be asked.
func (o *owned) removed(missing []uint64) (todo []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range missing {
		if o.here[id] && !o.report.dropped(id) {
			o.unfit[placed{o.self, id}] = goneMeanwhile
			todo = append(todo, id)
		}
	}
	return todo
}

// goneMeanwhile is why a copy is not read that could be read when the query began.
var goneMeanwhile = copystate.Unfit{Reason: "its copy was removed or closed meanwhile"}

// pass notes what a node did not read and returns what others must be asked for.
func (o *owned) pass(to target, asked []uint64, not passed) []uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	var todo []uint64
	for _, id := range not.missing {
		if !slices.Contains(asked, id) {
			continue
		}
		if to.incomplete { // it went meanwhile
			o.unfit[placed{to.node, id}] = goneMeanwhile
		} else {
			o.lacks[placed{to.node, id}] = true
		}
		todo = append(todo, id)
	}
	for _, u := range not.unfit {
		if slices.Contains(asked, u.ShardId) {
			readable := u.Readable && !to.incomplete // else it is not, whatever it says
			o.unfit[placed{to.node, u.ShardId}] = copystate.Unfit{Reason: u.Reason, Readable: readable,
				Rank: int(u.Rank)}
			todo = append(todo, u.ShardId)
		}
	}
	return todo
}

// retryable tells whether another owner may answer what this one did not.
func retryable(err error) bool {
	s, ok := status.FromError(err)
	return !ok || s.Code() != codes.InvalidArgument
}
