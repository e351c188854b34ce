package devcluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/history"
)

const (
	clientWaits = 20 * time.Second // for the answer to a write or delete
	hintsTime   = 2 * time.Minute  // for hinted handoff, when all nodes are up
	settleTime  = 30 * time.Second // for writes that were under way when their client got its answer
)

// order is a cluster on which schedules run, one after the other.
type order struct {
	c       *devcluster.Cluster
	points  int  // of the series of each schedule
	repairs bool // by anti-entropy
	made    int  // schedules so far
}

// mustStartOrder starts a cluster without anti-entropy: nothing but the order of writes, deletes and hints decides what
// an owner has.
func mustStartOrder(t *testing.T, nodes, points int) (context.Context, *order) {
	t.Helper()
	return mustStartOrderWith(t, nodes, points, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
}

func mustStartOrderWith(t *testing.T, nodes, points int, config func(*datanode.Config)) (context.Context, *order) {
	t.Helper()
	ctx, c := mustStartOptions(t, devcluster.Options{DataNodes: nodes, DataConfig: config, Now: clockOf})
	return ctx, &order{c: c, points: points}
}

// clockOf is the clock of a node, which is minutes off.
func clockOf(node int) time.Time {
	off := []time.Duration{0, 9 * time.Minute, -7 * time.Minute, -10 * time.Minute, 3 * time.Minute}
	return time.Now().Add(off[node%len(off)])
}

// run is a schedule as it runs: its own measurement with one series, and what its clients know. It has many fields,
// because each step of a schedule changes one or two of them, and the next step depends on all.
type run struct {
	*order
	t     *testing.T
	ctx   context.Context
	db    string
	name  string // of the measurement
	shard uint64
	nodes []int // of the cluster: the owners of the shard, and then the others
	rf    int

	falling bool            // newer values are smaller
	down    map[int]bool    // nodes that do not run, by place in nodes; so are the others
	cut     map[int]bool    // nodes without links
	hung    map[int]bool    // nodes that hang
	links   map[[2]int]bool // links that are cut one way
	log     []string        // the steps so far, with their answers

	mu       sync.Mutex // for two requests at the same time
	written  int        // values so far
	clock    history.Clock
	expected []history.Point // by time
}

// begin writes the first values to all owners.
func (o *order) begin(ctx context.Context, t *testing.T, rf int, falling bool) *run {
	t.Helper()
	o.made++
	r := &run{
		order: o, t: t, ctx: ctx, db: fmt.Sprintf("rf%d", rf), name: fmt.Sprintf("m%d", o.made),
		rf: rf, falling: falling,
		expected: make([]history.Point, o.points), down: map[int]bool{}, cut: map[int]bool{}, hung: map[int]bool{},
		links: map[[2]int]bool{},
	}
	if len(o.c.Shards(r.db)) == 0 {
		mustQuery(ctx, t, o.c, 0, "", fmt.Sprintf("CREATE DATABASE %s WITH REPLICATION %d", r.db, rf))
		var err error
		if o.c.Wait(ctx, func() bool { // on a busy machine it takes longer than a node that hangs is waited for
			err = o.c.Client(0).Write(ctx, r.db, "all", points(yesterday(), 0, 1))
			return err == nil
		}) != nil {
			t.Fatal(err)
		}
	}
	sh := o.c.Shards(r.db)[0]
	r.shard = sh.ID
	for _, id := range sh.Owners {
		r.nodes = append(r.nodes, place(o.c, id))
	}
	for i := range o.c.Data {
		if !slices.Contains(r.nodes, i) {
			r.nodes = append(r.nodes, i)
		}
	}
	first := op{kind: write, node: 0, level: "all"}
	err := r.do(scheduleStep{ops: []op{first}})
	for tries := 0; err != nil && tries < 20; tries++ { // a write of the schedule before may still be on its way
		if err = r.awaitHints(); err == nil {
			err = r.do(scheduleStep{ops: []op{first}})
		}
	}
	if err != nil {
		t.Fatalf("the first write, to all owners: %v", err)
	}
	return r
}

// An op is a request of a client.
type op struct {
	kind  opKind
	node  int    // through which it goes
	level string // of a write
}

type opKind int

const (
	write       opKind = iota // of all points
	deleteRange               // of all points but the last
	drop                      // of the measurement
)

func (o op) String() string {
	switch o.kind {
	case write:
		return fmt.Sprintf("write through node %d at %s", o.node+1, o.level)
	case deleteRange:
		return fmt.Sprintf("delete all points but the last through node %d", o.node+1)
	}
	return fmt.Sprintf("drop the measurement through node %d", o.node+1)
}

// A scheduleStep is one request, two at the same time, or an event.
type scheduleStep struct {
	ops        []op
	event      event
	node, peer int // of the event
}

type event int

const (
	noEvent      event = iota
	cutOff             // the node has no links, and answers its own clients
	stop               // the node is stopped
	kill               // the node ends as with kill -9
	hang               // the node's process is stopped: what goes to it and from it waits
	wipe               // when all owners are equal, the node loses its shards
	cutOneWay          // the node cannot call its peer
	back               // a node that was cut off, stopped, killed or hung is back
	linkBack           // a link that was cut one way is back
	hintsArrived       // nothing is kept for any node
)

func (s scheduleStep) String() string {
	switch s.event {
	case cutOff:
		return fmt.Sprintf("node %d is cut off", s.node+1)
	case stop:
		return fmt.Sprintf("node %d is stopped", s.node+1)
	case kill:
		return fmt.Sprintf("node %d is killed", s.node+1)
	case hang:
		return fmt.Sprintf("node %d hangs", s.node+1)
	case wipe:
		return fmt.Sprintf("all owners are equal, and node %d loses its disk", s.node+1)
	case cutOneWay:
		return fmt.Sprintf("node %d cannot call node %d", s.node+1, s.peer+1)
	case back:
		return fmt.Sprintf("node %d is back", s.node+1)
	case linkBack:
		return fmt.Sprintf("node %d can call node %d again", s.node+1, s.peer+1)
	case hintsArrived:
		return "all hints arrive"
	}
	out := s.ops[0].String()
	for _, o := range s.ops[1:] {
		out += ", and at the same time " + o.String()
	}
	return out
}

func (r *run) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// do runs a step. The error of a request is one of the outcomes that the history allows.
func (r *run) do(s scheduleStep) (err error) {
	if s.event == noEvent {
		var (
			begun sync.WaitGroup // so that no request ends before all began
			all   sync.WaitGroup
			lines = make([]string, len(s.ops))
			errs  = make([]error, len(s.ops))
		)
		begun.Add(len(s.ops))
		for i, o := range s.ops {
			all.Go(func() { lines[i], errs[i] = r.request(o, &begun) })
		}
		all.Wait()
		r.note("%s", strings.Join(lines, "\n      and at the same time: "))
		return errors.Join(errs...)
	}
	r.note("%v", s)
	node := r.nodes[s.node]
	switch s.event {
	case cutOff:
		r.cut[s.node] = true
		r.c.Cut(node)
	case stop:
		r.down[s.node] = true
		err = r.c.StopData(node)
	case kill:
		r.down[s.node] = true
		err = r.c.KillData(node)
	case hang:
		r.hung[s.node] = true
		r.c.Hang(node)
	case wipe:
		err = r.wipe(node)
	case cutOneWay:
		r.links[[2]int{s.node, s.peer}] = true
		r.c.CutLink(node, r.nodes[s.peer])
	case back:
		switch {
		case r.cut[s.node]:
			delete(r.cut, s.node)
			r.c.Heal(node)
		case r.hung[s.node]:
			delete(r.hung, s.node)
			r.c.GoOn(node)
		default:
			delete(r.down, s.node)
			err = r.start(node)
		}
	case linkBack:
		delete(r.links, [2]int{s.node, s.peer})
		r.c.HealLink(node, r.nodes[s.peer])
	case hintsArrived:
		err = r.awaitHints()
	}
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", s, err, r)
	}
	return nil
}

// must runs a step whose requests have to be acknowledged. On a busy machine, a request may need more than one try.
func (r *run) must(s scheduleStep) {
	r.t.Helper()
	var err error
	for range 6 {
		if err = r.do(s); err == nil { // an event ends the test when it fails
			return
		}
	}
	r.t.Fatalf("%v: %v\n%s", s, err, r)
}

// mustHint waits until a node that cannot reach another one keeps something for it.
func (r *run) mustHint(node int) {
	r.t.Helper()
	if r.c.Wait(r.ctx, func() bool { return r.hints(node) }) != nil {
		r.t.Fatalf("node %d keeps no hint\n%s", node+1, r)
	}
}

// hints reports whether a node keeps something for another one.
func (r *run) hints(node int) bool { return r.c.Data[r.nodes[node]].HintsPending(r.shard) }

// wipe takes the shards of a node away, when nothing is missing anywhere: what is acknowledged by then is on the other
// owners.
func (r *run) wipe(node int) error {
	if err := r.settle(); err != nil {
		return err
	}
	err := r.c.StopData(node)
	if err == nil {
		err = r.c.Wipe(node)
	}
	if err == nil {
		err = r.start(node)
	}
	return err
}

// settle waits until all nodes have all.
func (r *run) settle() error {
	if err := r.awaitHints(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, hintsTime)
	defer cancel()
	whole := func(n *datanode.Node) bool { return n.Unfit(ctx, r.shard) == "" }
	err := r.c.Wait(ctx, func() bool {
		return r.wrong() == "" && !slices.ContainsFunc(r.c.Data, func(n *datanode.Node) bool { return !whole(n) })
	})
	if err != nil {
		return fmt.Errorf("the owners do not agree: %s", r.wrong())
	}
	return nil
}

// start starts a node, and waits until it serves clients.
func (r *run) start(node int) error {
	if err := r.c.StartData(node); err != nil {
		return err
	}
	return r.c.Wait(r.ctx, func() bool {
		_, err := r.c.Client(node).Query(r.ctx, "", "SHOW DATABASES")
		return err == nil
	})
}

// request sends a client's request, notes in the history when it began and when its answer came, and says both in a
// line.
func (r *run) request(o op, begun *sync.WaitGroup) (line string, err error) {
	r.mu.Lock()
	left, covered := history.Outcome{}, len(r.expected)
	switch o.kind {
	case write:
		r.written++
		left = history.Value(int64(r.written))
		if r.falling {
			left = history.Value(int64(100 - r.written))
		}
	case deleteRange:
		covered--
	}
	begins := r.clock.Begin()
	for i := range covered {
		r.expected[i].Add(begins, left)
	}
	r.mu.Unlock()
	begun.Done()
	begun.Wait()

	ctx, cancel := context.WithTimeout(r.ctx, clientWaits)
	defer cancel()
	client := r.c.Client(r.nodes[o.node])
	line = o.String()
	switch o.kind {
	case write:
		line += fmt.Sprintf(": %v", left)
		var b []byte
		for i := range covered {
			b = fmt.Appendf(b, "%s v=%di %d\n", r.name, left.Value, r.at(i))
		}
		err = client.Write(ctx, r.db, o.level, b)
	case deleteRange:
		_, err = client.Query(ctx, r.db, fmt.Sprintf("DELETE FROM %s WHERE time < %d", r.name, r.at(covered)))
	case drop:
		_, err = client.Query(ctx, r.db, "DROP MEASUREMENT "+r.name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.clock.End(begins, history.Limbo)
		return fmt.Sprintf("%s: in limbo: %.200v", line, err), err
	}
	r.clock.End(begins, history.Acknowledged)
	return line + ": acknowledged", nil
}

// at is the time of the i-th point.
func (r *run) at(i int) int64 { return yesterday().Add(time.Duration(i+1) * time.Second).UnixNano() }

// awaitHints waits until no node that runs keeps anything for another one.
func (r *run) awaitHints() error {
	ctx, cancel := context.WithTimeout(r.ctx, hintsTime)
	defer cancel()
	if err := r.c.Wait(ctx, func() bool { return !r.hintsPending() }); err != nil {
		return errors.New("hinted handoff does not end")
	}
	return nil
}

func (r *run) hintsPending() bool {
	return slices.ContainsFunc(r.c.Data, func(n *datanode.Node) bool { return n != nil && n.HintsPending(r.shard) })
}

// end brings all nodes and links back, waits for the hints, and returns what is wrong with the owners' copies then.
func (r *run) end() string {
	for link := range maps.Clone(r.links) {
		_ = r.do(scheduleStep{event: linkBack, node: link[0], peer: link[1]})
	}
	for _, away := range []map[int]bool{r.cut, r.down, r.hung} {
		for node := range maps.Clone(away) {
			_ = r.do(scheduleStep{event: back, node: node})
		}
	}
	_ = r.do(scheduleStep{event: hintsArrived})
	if r.repairs {
		if err := r.settle(); err != nil {
			return err.Error()
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, settleTime)
	defer cancel()
	_ = r.c.Wait(ctx, func() bool { return !r.hintsPending() && r.wrong() == "" })
	return r.wrong()
}

// wrong compares all owners' copies with each other and with what the history allows.
func (r *run) wrong() string {
	var copies [][]history.Outcome
	for i := range r.rf {
		copies = append(copies, r.read(i))
	}
	var out []string
	for i := range r.expected {
		var has []string
		bad := false
		for k, c := range copies {
			has = append(has, fmt.Sprintf("node %d has %v", k+1, c[i]))
			bad = bad || c[i] != copies[0][i] || !r.expected[i].Allows(c[i])
		}
		if bad {
			allowed := r.expected[i].Allowed()
			out = append(out, fmt.Sprintf("point %d: %s; want one of %v on each", i+1, strings.Join(has, ", "),
				allowed))
		}
	}
	if len(out) > 5 {
		out = append(out[:5], fmt.Sprintf("and %d more points", len(out)-5))
	}
	return strings.Join(out, "\n")
}

// read returns what a node's own copy has.
func (r *run) read(node int) []history.Outcome {
	out := make([]history.Outcome, len(r.expected))
	sh := r.c.Data[r.nodes[node]].Store.Shard(r.shard)
	if sh == nil {
		return out
	}
	cursors, err := sh.CreateCursorIterator(r.ctx)
	if errors.Is(err, tsdb.ErrEngineClosed) { // a repair makes the copy anew: it has nothing that could be right now
		for i := range out {
			out[i] = history.Value(-1)
		}
		return out
	}
	if err != nil {
		r.t.Fatal(err)
	}
	cur, err := cursors.Next(r.ctx, &tsdb.CursorRequest{
		Name: []byte(r.name), Field: "v", Ascending: true, StartTime: models.MinNanoTime, EndTime: models.MaxNanoTime,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	values, ok := cur.(tsdb.IntegerArrayCursor)
	if !ok {
		return out // nobody wrote to it
	}
	defer values.Close()
	for a := values.Next(); a.Len() > 0; a = values.Next() {
		for i, at := range a.Timestamps {
			out[(at-r.at(0))/int64(time.Second)] = history.Value(a.Values[i])
		}
	}
	return out
}

// String lists the steps that ran, with the answers.
func (r *run) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "measurement %s with %d points in shard %d", r.name, r.points, r.shard)
	fmt.Fprintf(&b, ", whose owners are nodes 1 to %d:\n", r.rf)
	for i, line := range r.log {
		fmt.Fprintf(&b, "%4d. %s\n", i+1, line)
	}
	return b.String()
}

// A write that began after another one was acknowledged stays when the older one arrives as a hint.
func TestNewerWriteStaysWhenHintsArrive(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrder(t, 3, 1)
	for _, rf := range []int{3, 2} {
		t.Run(fmt.Sprintf("RF%d", rf), func(t *testing.T) {
			for _, falling := range []bool{false, true} {
				for _, newer := range []op{
					{node: 1, level: "one"}, {node: 1, level: "quorum"}, {node: 1, level: "all"},
					{node: 2, level: "one"}, {node: 2, level: "quorum"}, {node: 2, level: "all"},
				} {
					name := fmt.Sprintf("%v, smaller %t", newer, falling)
					t.Run(name, func(t *testing.T) {
						r := o.begin(ctx, t, rf, falling)
						r.must(scheduleStep{event: cutOff, node: 1})
						r.must(scheduleStep{ops: []op{{node: 0, level: "one"}}})
						r.must(scheduleStep{event: cutOneWay, node: 0, peer: 1})
						r.must(scheduleStep{event: back, node: 1})
						r.mustHint(0)
						r.must(scheduleStep{ops: []op{newer}})
						r.mustHint(0)
						if problem := r.end(); problem != "" {
							t.Errorf("%s\n%s", problem, r)
						}
					})
				}
			}
		})
	}
}

// Points that were deleted stay deleted when a hint with them arrives at an owner that has run the delete already,
// from a node that has not.
func TestDeletedPointsStayDeletedWhenALateHintArrives(t *testing.T) {
	t.Parallel()
	for _, repairs := range []bool{false, true} {
		t.Run(fmt.Sprintf("repairs %t", repairs), func(t *testing.T) {
			t.Parallel()
			ctx, o := mustStartOrderWith(t, 5, 100, func(cfg *datanode.Config) {
				repairsSoon(cfg)
				cfg.AntiEntropy.Enabled = repairs
			})
			o.repairs = repairs
			for _, kind := range []opKind{deleteRange, drop} {
				t.Run(op{kind: kind, node: 3}.String(), func(t *testing.T) {
					r := o.begin(ctx, t, 3, false)
					r.must(scheduleStep{event: cutOff, node: 1})
					r.must(scheduleStep{ops: []op{{node: 0, level: "quorum"}}})
					r.mustHint(0) // for node 2
					r.must(scheduleStep{event: cutOff, node: 0})
					r.must(scheduleStep{ops: []op{{kind: kind, node: 3}}})
					for _, n := range []int{2, 3, 4} { // which know of the delete, and keep it for node 1
						r.must(scheduleStep{event: cutOneWay, node: n, peer: 0})
					}
					r.must(scheduleStep{event: back, node: 1})
					if err := o.c.Wait(ctx, func() bool { return !r.read(1)[0].Present }); err != nil {
						t.Fatalf("node 2 does not run the delete that was kept for it\n%s", r)
					}
					r.note("node 2 has run the delete")
					r.must(scheduleStep{event: back, node: 0})
					hints, cancel := context.WithTimeout(ctx, hintsTime)
					defer cancel()
					if err := o.c.Wait(hints, func() bool { return !r.hints(0) }); err != nil {
						t.Errorf("node 1 does not send its hint\n%s", r)
					}
					if r.read(1)[0].Present {
						t.Errorf("the hint brings back what node 2 has deleted\n%s", r)
					}
					if problem := r.end(); problem != "" {
						t.Errorf("%s\n%s", problem, r)
					}
				})
			}
		})
	}
}

// A node that hangs has no write of meanwhile, and all of them when it goes on.
func TestHungNodeGetsLateWhatWasSentToIt(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrderWith(t, 2, 1, func(cfg *datanode.Config) {
		cfg.AntiEntropy.Enabled = false
		cfg.Cluster.WriteTimeout = itoml.Duration(time.Second)
	})
	r := o.begin(ctx, t, 2, false)
	before := history.Value(int64(r.written)) // a busy machine may need more than one try
	_ = r.do(scheduleStep{event: hang, node: 1})
	if err := r.do(scheduleStep{ops: []op{{kind: write, node: 0, level: "all"}}}); err == nil {
		t.Error("a write to all owners is acknowledged while one of them hangs")
	}
	meanwhile := history.Value(int64(r.written))
	if got := r.read(1)[0]; got != before {
		t.Errorf("the node that hangs has %v, want the value of before", got)
	}
	_ = r.do(scheduleStep{event: back, node: 1})
	if err := o.c.Wait(ctx, func() bool { return r.read(1)[0] == meanwhile }); err != nil {
		t.Errorf("the node that goes on has %v, want what was written meanwhile", r.read(1)[0])
	}
	if problem := r.end(); problem != "" {
		t.Errorf("%s\n%s", problem, r)
	}
}
