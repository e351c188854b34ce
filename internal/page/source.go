package page

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/view"
	"concord/internal/eventlog"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// askTimeout is how long a node may take to say how it is.
const askTimeout = 2 * time.Second

// AskRaft asks all meta nodes for their parts in the consensus. seen says of which process, by HTTP address, which
// events the caller has.
type AskRaft func(
	ctx context.Context, timeout time.Duration, seen func(addr string) (process, after uint64),
) []rpc.Answer[cluster.Node, wire.Raft]

// source asks all nodes. It remembers what is known of nodes that are away, and the events of all.
type source struct {
	deps Deps

	mu     sync.Mutex
	nodes  map[uint64]*known // data nodes
	seen   map[string]mark   // by address of the node
	events []event           // the oldest first
	rates  map[[2]uint64]sent
	begun  map[string]time.Time // when queries began, by their keys
}

// known is what is remembered of a data node.
type known struct {
	up    bool
	since time.Time // since when it is so; zero for not known
}

// mark says which events of a process are here.
type mark struct{ process, number uint64 }

// sent is what a node had sent out of hinted handoff to another one.
type sent struct {
	at    time.Time
	bytes int64
	rate  float64
}

// event is an event with its key.
type event struct {
	key string
	Event
}

func newSource(d Deps) *source {
	return &source{
		deps: d, nodes: make(map[uint64]*known), seen: make(map[string]mark), rates: make(map[[2]uint64]sent),
		begun: make(map[string]time.Time),
	}
}

// snapshot is what all nodes said at about the same time.
type snapshot struct {
	at      time.Time
	state   *cluster.State
	live    map[uint64]cluster.Shard
	enabled bool
	entropy view.ClusterStatus
	repairs view.ClusterRepairs
	nodes   []nodeReport
	meta    []rpc.Answer[cluster.Node, wire.Raft]
	events  []event
}

// nodeReport is what a data node said, or why it did not.
type nodeReport struct {
	cluster.Node
	known
	report *rpc.ReportResponse // nil when it did not answer
	err    error
	hints  []Hints
}

// collect asks all nodes at the same time. A node that does not answer is one that is away, and no error.
func (s *source) collect(ctx context.Context) (*snapshot, error) {
	out := &snapshot{state: s.deps.State(), enabled: true}
	if out.state == nil || out.state.Data == nil {
		return nil, errors.New("this node does not know the cluster yet: try again in a moment")
	}
	var reports []rpc.Answer[cluster.Node, *rpc.ReportResponse]
	var wg sync.WaitGroup
	var err, errRepairs error
	wg.Go(func() { out.entropy, err = s.deps.View.Status(ctx, false) })
	wg.Go(func() { out.repairs, errRepairs = s.deps.View.Repairs(ctx) })
	wg.Go(func() { reports = rpc.AskAll(ctx, out.state.DataNodes, askTimeout, s.report) })
	wg.Go(func() { out.meta = s.deps.AskRaft(ctx, askTimeout, s.seenOf) })
	wg.Wait()
	if errors.Is(err, entropy.ErrDisabled) {
		out.enabled, err = false, nil
	} else if errors.Is(errRepairs, entropy.ErrDisabled) {
		errRepairs = nil
	}
	if err := errors.Join(err, errRepairs); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out.at = time.Now()
	out.live = out.state.Live(out.at)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range reports {
		out.nodes = append(out.nodes, s.take(a, out.at))
	}
	for _, a := range out.meta {
		if a.Err == nil {
			s.takeEvents(a.Node.HTTPAddr, a.Value.Process, a.Value.Events)
		}
	}
	s.forget(out)
	out.events = slices.Clone(s.events)
	return out, nil
}

// report asks one data node.
func (s *source) report(ctx context.Context, n cluster.Node) (*rpc.ReportResponse, error) {
	process, after := s.seenOf(n.TCPAddr)
	return s.deps.ask(ctx, n, &rpc.ReportRequest{Process: process, EventsAfter: after})
}

// ask asks one data node, which may be this one.
func (d Deps) ask(ctx context.Context, n cluster.Node, r *rpc.ReportRequest) (*rpc.ReportResponse, error) {
	if d.Own != nil && d.View.NodeID != nil && d.View.NodeID() == n.ID {
		return d.Own.Report(ctx, r)
	}
	conn, err := d.Pool.Conn(n.TCPAddr)
	if err != nil {
		return nil, err
	}
	return rpc.NewOverviewClient(conn).Report(ctx, r)
}

func (s *source) seenOf(addr string) (process, after uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.seen[addr]
	return m.process, m.number
}

// startedAt is when the process of a node started that answered.
func startedAt(a rpc.Answer[cluster.Node, *rpc.ReportResponse]) time.Time {
	return time.Unix(0, a.Value.GetStarted())
}

// take notes what a data node said. mu must be held.
func (s *source) take(a rpc.Answer[cluster.Node, *rpc.ReportResponse], now time.Time) nodeReport {
	up := a.Err == nil
	k := s.nodes[a.Node.ID]
	switch {
	case k == nil:
		k = &known{up: up}
		s.nodes[a.Node.ID] = k
	case k.up != up:
		// It may have been back for long: nobody asks while no page is open.
		since := now
		if started := startedAt(a); up && started.After(k.since) {
			since = started
		}
		k.up, k.since = up, since
	}
	if up && k.since.IsZero() {
		k.since = startedAt(a)
	}
	if !up && k.since.IsZero() {
		k.since = now
	}
	out := nodeReport{Node: a.Node, known: *k, report: a.Value, err: a.Err}
	if !up {
		return out
	}
	var events []wire.Event
	for _, e := range a.Value.Events {
		events = append(events, wire.Event{
			Number: e.Number, Time: time.Unix(0, e.Time), Level: e.Level, Kind: e.Kind, Text: string(e.Text), Shard: e.ShardId,
		})
	}
	s.takeEvents(a.Node.TCPAddr, a.Value.Process, events)
	for _, h := range a.Value.Hints {
		if h.Bytes > 0 || h.Dropped > 0 {
			out.hints = append(out.hints, s.hints(a.Node.ID, h, now))
		}
	}
	return out
}

// ratePart is over how long the rate of hinted handoff is measured at least.
const ratePart = 5 * time.Second

// hints adds to what a node said how fast it sends. mu must be held.
func (s *source) hints(from uint64, h *rpc.HintQueue, now time.Time) Hints {
	key := [2]uint64{from, h.Node}
	before, ok := s.rates[key]
	switch {
	case !ok || h.Sent < before.bytes:
		before = sent{at: now, bytes: h.Sent}
		s.rates[key] = before
	case now.Sub(before.at) >= ratePart:
		rate := float64(h.Sent-before.bytes) / now.Sub(before.at).Seconds()
		before = sent{now, h.Sent, rate}
		s.rates[key] = before
	}
	out := Hints{
		For: id(h.Node), Bytes: h.Bytes, Shards: h.Shards, Oldest: stamp(h.Oldest), Rate: rounded(before.rate),
		Dropped: h.Dropped,
	}
	if before.rate > 0 {
		out.Drained = rounded(float64(h.Bytes) / before.rate)
	}
	return out
}

// takeEvents keeps the events of a node, the last thousand of all. mu must be held.
func (s *source) takeEvents(addr string, process uint64, events []wire.Event) {
	m := s.seen[addr]
	if m.process != process {
		m = mark{process: process}
	}
	for _, e := range events {
		if e.Number <= m.number {
			continue
		}
		m.number = e.Number
		out := Event{Time: e.Time.UTC(), Node: addr, Level: e.Level, Kind: e.Kind, Text: e.Text}
		if e.Shard != 0 {
			out.Shard = id(e.Shard)
		}
		s.events = append(s.events, event{fmt.Sprintf("%x-%d", process, e.Number), out})
	}
	s.seen[addr] = m
	slices.SortStableFunc(s.events, func(a, b event) int { return a.Time.Compare(b.Time) })
	if more := len(s.events) - eventlog.Kept; more > 0 {
		s.events = slices.Delete(s.events, 0, more)
	}
}

// forget drops what is remembered of nodes and queries that are gone. mu must be held.
func (s *source) forget(out *snapshot) {
	for node := range s.nodes {
		if _, ok := out.state.DataNode(node); !ok {
			delete(s.nodes, node)
		}
	}
	begun := make(map[string]time.Time)
	for _, n := range out.nodes {
		if n.report == nil {
			continue
		}
		for _, q := range n.report.Queries {
			key := queryKey(n.ID, q.Id)
			// Each report measures anew for how long a query has run: the first one counts, so that it does not change.
			if at, ok := s.begun[key]; ok {
				q.Started = at.UnixNano()
			}
			begun[key] = time.Unix(0, q.Started)
		}
	}
	s.begun = begun
}

func queryKey(node, query uint64) string { return id(node) + "-" + id(query) }

func id(n uint64) string { return strconv.FormatUint(n, 10) }

// stamp is a time in nanoseconds since the epoch, nil for 0.
func stamp(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns).UTC()
	return &t
}

// stampOf is a time, nil for the zero one.
func stampOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// rounded keeps three digits, so that a value that hardly changes is not sent again and again.
func rounded(f float64) float64 {
	out, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 3, 64), 64)
	if err != nil {
		return f
	}
	return out
}
