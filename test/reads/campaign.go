package reads

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

const (
	hoursLimit  = 60               // shard groups of a database
	toldInFull  = 25               // violations
	goodIn      = 1000             // answers, of which one may carry a warning while an owner of each shard is well
	warnsAtOnce = 25               // answers that may in any case: readers that wait for one node are warned together
	calmTime    = 5 * time.Second  // two checks of every shard
	quietLimit  = 40 * time.Second // the longest time without a good answer
)

// campaign is one run.
type campaign struct {
	options
	t       testing.TB
	plan    []fault
	cluster *process.Cluster
	members *members
	stores  []*store
	begin   int64 // of the first hour

	rec     *record
	trouble *trouble
	figures *figures
	diary   diary
	told    told

	calm time.Time // since when anti-entropy has nothing to do, for watch
}

// options are what the flags say.
type options struct {
	seed      uint64
	deletes   bool
	grace     time.Duration
	healLimit time.Duration // within which all copies must be whole after the faults
}

// members is what is known of the data nodes.
type members struct {
	mu   sync.Mutex
	ids  map[string]uint64 // by name
	hurt map[string]bool   // nodes that lost data, until all is repaired
}

// lostData notes that a node lost data.
func (m *members) lostData(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hurt[name] = true
}

// anyHurt reports whether a node lost data that is not repaired.
func (m *members) anyHurt() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.hurt) > 0
}

// begin notes an empty node that takes the place of another one.
func (m *members) begin(old, by *process.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids[by.Name] = m.ids[old.Name]
	m.hurt[by.Name] = true
}

// forget is for a node that is gone for ever.
func (m *members) forget(old *process.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.hurt, old.Name)
}

// recovered returns those of the nodes that lack nothing any more, by what all nodes hold for them.
func (m *members) recovered(
	names []string, hints map[uint64]int, notWhole map[string]int, repaired bool,
) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if hints[m.ids[name]] > 0 || notWhole[name] > 0 || m.hurt[name] && !repaired {
			continue
		}
		delete(m.hurt, name)
		out = append(out, name)
	}
	return out
}

// diary is what happened, for those who read of a violation later.
type diary struct {
	start  time.Time
	mu     sync.Mutex
	events []string
}

// event notes what happened, with the time since the start, and prints it.
func (d *diary) event(format string, args ...any) {
	line := d.note(format, args...)
	if testing.Verbose() {
		fmt.Println(line)
	}
}

// note notes what happened.
func (d *diary) note(format string, args ...any) string {
	line := fmt.Sprintf("%8.3fs ", time.Since(d.start).Seconds()) + fmt.Sprintf(format, args...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, line)
	return line
}

// last are the last events.
func (d *diary) last(n int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events[max(0, len(d.events)-n):])
}

// told counts what was told, so that the same is told in full once.
type told struct {
	mu         sync.Mutex
	fault      int            // that is done just now
	kind       string         // of the fault that is on, or was the last
	violations map[string]int // by node, database and fault
	during     map[string]int // violations by kind
	complaints map[string]int // warnings and errors while all must be well, by node, database and fault
}

// begin begins a fault.
func (t *told) begin(fault int, kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault, t.kind = fault, kind
}

// complaint counts a complaint. It is true for the first of its node during a fault.
func (t *told) complaint(q asked) (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fmt.Sprint(q.node.node, " ", q.db, " during fault ", t.fault)
	t.complaints[key]++
	return t.complaints[key] == 1
}

// violation counts a violation. It is true for the first of its node during a fault, unless there are many.
func (t *told) violation(q asked) (full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fmt.Sprint(q.node.node, " ", q.db, " during fault ", t.fault)
	t.violations[key]++
	t.during[t.kind]++
	return t.violations[key] == 1 && len(t.violations) <= toldInFull
}

// event notes what happened, with the time since the start, and prints it.
func (c *campaign) event(format string, args ...any) { c.diary.event(format, args...) }

// nodes are the data nodes of the cluster.
func (c *campaign) nodes() []*process.Node { return c.cluster.DataNodes() }

func (c *campaign) member(n *process.Node) member { return member{n.Name, c.trouble.disk(n.Name)} }

func (c *campaign) store(name string) *store {
	for _, s := range c.stores {
		if s.name == name {
			return s
		}
	}
	return nil
}

// ask asks a node, judges its answer, and tells whether there was one.
func (c *campaign) ask(n *process.Node, q asked, waits time.Duration) bool {
	q.node, q.statement = c.member(n), q.text()
	ctx, cancel := context.WithTimeout(context.Background(), waits)
	defer cancel()
	q.sent = time.Now()
	s, err := ask(ctx, n.HTTP, q.db, q.statement)
	q.got = time.Now()
	good := c.trouble.counts(q.node.node, q.copies, q.sent, q.got, c.grace)
	c.figures.answered(q, s, good, err)
	if err != nil {
		return false
	}
	if s.err != "" || len(s.warnings) > 0 {
		if good {
			c.complaint(q, s)
		}
		return true
	}
	a, err := q.read(s)
	if err != nil {
		c.violation(q, fmt.Sprintf("\n    %v", err))
		return true
	}
	findings, excused, own := c.rec.judge(q, a)
	c.figures.judged(findings, excused, own)
	if len(findings) > 0 {
		c.violation(q, c.rec.tell(findings, c.diary.start, 3))
	}
	return true
}

// complaint tells of an answer that must be a good one and is not. Those of one node during one fault are told once.
func (c *campaign) complaint(q asked, s said) {
	if c.told.complaint(q) {
		c.event("%v, asked at %.3fs, answers %q with %q %q though an owner of each shard is well",
			q.node, q.sent.Sub(c.diary.start).Seconds(), q.statement, s.err, s.warnings)
	}
}

// violation tells of an answer that broke the law. Those of one node during one fault are told once in full.
func (c *campaign) violation(q asked, found string) {
	around := c.diary.last(10)
	if !c.told.violation(q) {
		c.t.Fail()
		return
	}
	owners, err := c.cluster.TryCtl("show-shards")
	if err != nil {
		owners = err.Error()
	}
	start := c.diary.start
	text := fmt.Sprintf("VIOLATION: %v, asked at %.3fs and answering at %.3fs without a warning: %q%s\n"+
		"  now the nodes say, of the same:%s\n  around it:\n    %s\n  shards of that hour:\n%s",
		q.node, q.sent.Sub(start).Seconds(), q.got.Sub(start).Seconds(), q.statement, found,
		c.others(q), strings.Join(around, "\n    "), c.ownersOf(q, owners))
	c.diary.note("VIOLATION by %v: %q", q.node, q.statement)
	c.t.Error(text)
}

// others asks all nodes the same question again.
func (c *campaign) others(q asked) string {
	var b strings.Builder
	for _, n := range c.nodes() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s, err := ask(ctx, n.HTTP, q.db, q.statement)
		cancel()
		rows := 0
		for _, r := range s.series {
			rows += len(r.Values)
		}
		first := ""
		if rows > 0 {
			first = fmt.Sprint(", the first ", s.series[0].Values[0])
		}
		if err == nil && s.err != "" {
			err = fmt.Errorf("%s", s.err)
		}
		fmt.Fprintf(&b, "\n    %s: %d rows%s %v", n.Name, rows, first, s.warnings)
		if err != nil {
			fmt.Fprintf(&b, " %v", err)
		}
	}
	return b.String()
}

// ownersOf are the lines of show-shards about the shards of a question.
func (c *campaign) ownersOf(q asked, table string) string {
	begin := time.Unix(0, c.begin+int64(q.hour)*hour).UTC().Format(time.RFC3339)
	var b strings.Builder
	for i, line := range strings.Split(table, "\n") {
		if i == 1 || strings.Contains(line, q.db) && strings.Contains(line, begin) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(line))
		}
	}
	for _, n := range c.nodes() {
		fmt.Fprintf(&b, "    %s is %s\n", n.Name, n.TCP)
	}
	return b.String()
}

// work runs writers, readers and faults until the plan is done.
func (c *campaign) work() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var running sync.WaitGroup
	for i := range writers {
		rng := rand.New(rand.NewPCG(c.seed, 100+uint64(i)))
		w := &writer{base: base{rng, c, writerAvoid, make(map[string]time.Time)}, id: i + 1}
		running.Go(func() { w.run(ctx) })
	}
	for i := range readers {
		rng := rand.New(rand.NewPCG(c.seed, 200+uint64(i)))
		r := &reader{base: base{rng, c, readerAvoid, make(map[string]time.Time)}, patient: i%2 == 1}
		running.Go(func() { r.run(ctx) })
	}
	c.figures.begin()
	faults := &faults{campaign: c, images: make(map[string]imageOf)}
	watched := make(chan struct{})
	watching, unwatch := context.WithCancel(context.Background())
	go func() { defer close(watched); every(watching, 250*time.Millisecond, c.watch) }()
	for i, f := range c.plan {
		c.told.begin(i+1, f.kind.String())
		for _, s := range c.stores {
			s.hours.Store(int64(2 + i/max(4, (len(c.plan)+hoursLimit-1)/hoursLimit)))
		}
		faults.inject(i+1, f)
	}
	c.cluster.Links.Heal()
	c.told.begin(len(c.plan)+1, "the time after the last fault")
	if !c.awaitWhole() {
		c.t.Errorf("not all copies are whole %v after the last fault: %v have not recovered",
			c.healLimit, c.trouble.unrecovered())
	}
	stop()
	running.Wait()
	unwatch()
	<-watched
	c.event("writers and readers are done: %s", c.rec.summary())
}

// awaitWhole waits until every node has recovered from every fault.
func (c *campaign) awaitWhole() bool {
	return process.Poll(c.healLimit, func() bool { return len(c.trouble.unwell()) == 0 })
}

// watch finds out which nodes have recovered: nobody has hints for them, all their copies are whole, and when they
// lost data, all is repaired.
func (c *campaign) watch() {
	waiting := c.trouble.unrecovered()
	if len(waiting) == 0 {
		return
	}
	asked := time.Now()
	hints := make(map[uint64]int)
	notWhole := make(map[string]int)
	nodes := c.nodes()
	for _, n := range nodes {
		if !c.trouble.reaches(n.Name) {
			return
		}
		held, err := n.Held()
		if err != nil {
			return // what it holds nobody knows
		}
		notWhole[n.Name] = held.NotWhole
		for id, bytes := range held.Hints {
			hints[id] += bytes
		}
	}
	for _, name := range c.members.recovered(waiting, hints, notWhole, c.repaired(nodes)) {
		// The others hear of it a moment later.
		c.trouble.recovered(name, asked, time.Now().Add(c.grace))
	}
}

// repaired tells whether anti-entropy has had nothing to do for so long that every shard was checked since.
func (c *campaign) repaired(nodes []*process.Node) bool {
	if !c.members.anyHurt() {
		c.calm = time.Time{}
		return true
	}
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		s, _, err := n.Client().EntropyStatus(ctx)
		cancel()
		if err != nil || !s.Clean() {
			c.calm = time.Time{}
			return false
		}
	}
	if c.calm.IsZero() {
		c.calm = time.Now()
	}
	return time.Since(c.calm) > calmTime
}

// identify asks the cluster for the IDs of its data nodes.
func (c *campaign) identify() error {
	var members wire.Members
	out, err := c.cluster.TryCtl("show", "-json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &members)
	}
	if err != nil {
		return err
	}
	for _, n := range c.cluster.Data {
		for _, m := range members.Data {
			if m.TCPAddr == n.TCP {
				c.members.ids[n.Name] = m.ID
			}
		}
		if c.members.ids[n.Name] == 0 {
			return fmt.Errorf("%s has no ID in %s", n.Name, out)
		}
	}
	return nil
}

// compare asks every node for everything when all is over: then no answer may carry a warning, and none may lack
// a point, but those of which every copy was destroyed.
func (c *campaign) compare() {
	for _, n := range c.nodes() {
		for _, s := range c.stores {
			for _, h := range c.rec.hours(s.name) {
				from := c.begin + int64(h)*hour
				for f := range forms {
					q := asked{window: window{s.name, h}, copies: s.copies, from: from, to: from + hour, form: f}
					if !c.ask(n, q, longWaits) {
						c.t.Errorf("%s does not answer %q", n.Name, q.text())
					}
				}
			}
		}
	}
	for _, s := range c.stores {
		for _, h := range c.rec.hours(s.name) {
			c.compareNodes(s, h)
		}
	}
}

// compareNodes asks all nodes for the points of an hour. All must say the same, and what the history of each point
// allows.
func (c *campaign) compareNodes(s *store, h int) {
	from := c.begin + int64(h)*hour
	var first answer
	for i, n := range c.nodes() {
		q := asked{
			window: window{s.name, h}, copies: s.copies, from: from, to: from + hour, node: c.member(n),
			sent: time.Now(),
		}
		q.statement = q.text()
		ctx, cancel := context.WithTimeout(context.Background(), longWaits)
		said, err := ask(ctx, n.HTTP, q.db, q.statement)
		cancel()
		var a answer
		if err == nil {
			a, err = q.read(said)
		}
		if err != nil || said.err != "" {
			c.t.Errorf("%s answers %q with %v %s", n.Name, q.statement, err, said.err)
			return
		}
		q.got = time.Now()
		if found := c.rec.last(q, a); len(found) > 0 {
			c.violation(q, c.rec.tell(found, c.diary.start, 3))
		}
		if i == 0 {
			first = a
		} else if !maps.Equal(first.points, a.points) {
			c.t.Errorf("%s and %s do not have the same: %d and %d points of %q", c.nodes()[0].Name, n.Name,
				len(first.points), len(a.points), q.statement)
		}
	}
}
