package reads

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

const (
	hoursLimit = 60               // shard groups of a database
	toldInFull = 25               // violations
	goodIn     = 1000             // answers, of which one may carry a warning while an owner of each shard is well
	calmTime   = 5 * time.Second  // two checks of every shard
	quietLimit = 40 * time.Second // the longest time without a good answer
)

// campaign is one run.
type campaign struct {
	t         testing.TB
	seed      uint64
	plan      []fault
	cluster   *process.Cluster
	rec       *record
	trouble   *trouble
	figures   *figures
	stores    []*store
	deletes   bool
	grace     time.Duration
	healLimit time.Duration // within which all copies must be whole after the faults
	start     time.Time
	begin     int64              // of the first hour
	images    map[string]imageOf // by name of the node
	calm      time.Time          // since when anti-entropy has nothing to do, for watch

	mu         sync.Mutex
	ids        map[string]uint64 // of data nodes, by name
	hurt       map[string]bool   // nodes that lost data, until all is repaired
	events     []string
	told       map[string]int // violations by node, database and fault
	during     map[string]int // violations by the kind of the fault that was on, or was the last
	complained map[string]int // the same of warnings and errors while all must be well
	fault      int            // that is done just now
	data       []*process.Node
}

// imageOf is an image of a node's folders.
type imageOf struct {
	dir  string
	made time.Time
}

// event notes what happened, with the time since the start, and prints it.
func (c *campaign) event(format string, args ...any) {
	line := c.note(format, args...)
	if testing.Verbose() {
		fmt.Println(line)
	}
}

// note notes what happened, for those who read of a violation later.
func (c *campaign) note(format string, args ...any) string {
	line := fmt.Sprintf("%8.3fs ", time.Since(c.start).Seconds()) + fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, line)
	return line
}

// nodes are the data nodes of the cluster.
func (c *campaign) nodes() []*process.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data
}

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
		c.violation(q, c.rec.tell(findings, c.start, 3))
	}
	return true
}

// complaint tells of an answer that must be a good one and is not. Those of one node during one fault are told once.
func (c *campaign) complaint(q asked, s said) {
	c.mu.Lock()
	key := fmt.Sprint("complaint of ", q.node.node, " ", q.db, " during fault ", c.fault)
	c.complained[key]++
	first := c.complained[key] == 1
	c.mu.Unlock()
	if first {
		c.event("%v, asked at %.3fs, answers %q with %q %q though an owner of each shard is well",
			q.node, q.sent.Sub(c.start).Seconds(), q.statement, s.err, s.warnings)
	}
}

// violation tells of an answer that broke the law. Those of one node during one fault are told once in full.
func (c *campaign) violation(q asked, found string) {
	c.mu.Lock()
	key := fmt.Sprint(q.node.node, " ", q.db, " during fault ", c.fault)
	c.told[key]++
	full := c.told[key] == 1 && len(c.told) <= toldInFull
	during := "the time after the last fault"
	if c.fault <= len(c.plan) {
		during = c.plan[c.fault-1].kind.String()
	}
	c.during[during]++
	around := slices.Clone(c.events[max(0, len(c.events)-10):])
	c.mu.Unlock()
	if !full {
		c.t.Fail()
		return
	}
	owners, err := c.cluster.TryCtl("show-shards")
	if err != nil {
		owners = err.Error()
	}
	text := fmt.Sprintf("VIOLATION: %v, asked at %.3fs and answering at %.3fs without a warning: %q%s\n  now the nodes "+
		"say, of the same:%s\n  around it:\n    %s\n  shards of that hour:\n%s",
		q.node, q.sent.Sub(c.start).Seconds(), q.got.Sub(c.start).Seconds(), q.statement, found, c.others(q),
		strings.Join(around, "\n    "), c.ownersOf(q, owners))
	c.note("VIOLATION by %v: %q", q.node, q.statement)
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
		w := &writer{
			base: base{rand.New(rand.NewPCG(c.seed, 100+uint64(i))), c, writerAvoid, make(map[string]time.Time)}, id: i + 1,
		}
		running.Go(func() { w.run(ctx) })
	}
	for i := range readers {
		r := &reader{
			base:    base{rand.New(rand.NewPCG(c.seed, 200+uint64(i))), c, readerAvoid, make(map[string]time.Time)},
			patient: i%2 == 1,
		}
		running.Go(func() { r.run(ctx) })
	}
	c.figures.begin()
	watched := make(chan struct{})
	watching, unwatch := context.WithCancel(context.Background())
	go func() { defer close(watched); every(watching, 250*time.Millisecond, c.watch) }()
	for i, f := range c.plan {
		c.mu.Lock()
		c.fault = i + 1
		c.mu.Unlock()
		for _, s := range c.stores {
			s.hours.Store(int64(2 + i/max(4, (len(c.plan)+hoursLimit-1)/hoursLimit)))
		}
		c.inject(i+1, f)
	}
	c.cluster.Links.Heal()
	c.mu.Lock()
	c.fault = len(c.plan) + 1
	c.mu.Unlock()
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

// wait lets time pass; it is the only clock of the faults.
func wait(d time.Duration) { <-time.After(d) }

// inject does a fault, holds it, undoes it, and waits until the node answers.
func (c *campaign) inject(i int, f fault) {
	for _, n := range c.nodes() {
		if !n.Running() {
			c.t.Fatalf("%s ended by itself: %v", n.Name, n.End())
		}
	}
	if f.kind.destroys() && !c.awaitWhole() {
		c.event("not all copies are whole after %v: %v have not recovered; no data is destroyed now",
			c.healLimit, c.trouble.unrecovered())
		c.t.Errorf("fault %d: not all copies are whole after %v", i, c.healLimit)
		c.figures.skip(fmt.Sprintf("%v, as not all copies are whole: a kill instead", f.kind))
		f.kind = kill
	}
	if f.image {
		c.image(c.nodes()[(f.node+f.peer)%len(c.nodes())])
	}
	n := c.nodes()[f.node]
	if f.kind == rollBack {
		if old, ok := c.images[n.Name]; !ok || time.Since(old.made) < f.age {
			if !ok {
				c.image(n)
			}
			wait(f.age)
		}
	}
	c.event("fault %d: %v (%s)", i, f, n.Name)
	c.figures.fault(f.kind)
	links := c.cluster.Links
	switch f.kind {
	case hang:
		c.trouble.touch(n.Name)
		end := c.trouble.part(n.Name, "")
		n.Signal(syscall.SIGSTOP)
		wait(f.hold)
		n.Signal(syscall.SIGCONT)
		n.AwaitUp()
		end()
	case isolate:
		c.trouble.touch(n.Name)
		end := c.trouble.part(n.Name, "")
		for _, link := range []process.Link{{Mode: f.mode}, {}} {
			for _, o := range append(slices.Clone(c.cluster.Meta), c.nodes()...) {
				if o != n {
					links.Set(n.Name, o.Name, link)
					links.Set(o.Name, n.Name, link)
				}
			}
			if link.Mode != process.Open {
				wait(f.hold)
				// What the node took alone the others lack; they hear of it now.
				for _, o := range c.nodes() {
					c.trouble.touch(o.Name)
				}
			}
		}
		n.AwaitUp()
		end()
	case clock:
		if err := n.SetClock(f.skew); err != nil {
			c.t.Fatal(err)
		}
		wait(f.hold)
		if err := n.SetClock(0); err != nil {
			c.t.Fatal(err)
		}
	case cut:
		a, b := n.Name, c.nodes()[f.peer].Name
		c.trouble.touch(a, b)
		end := c.trouble.part(a, b)
		for _, link := range []process.Link{{Mode: f.mode}, {}} {
			links.Set(a, b, link)
			if !f.oneWay {
				links.Set(b, a, link)
			}
			if link.Mode != process.Open {
				wait(f.hold)
			}
		}
		end()
	default:
		c.down(n, f)
	}
	c.event("undone: fault %d", i)
	wait(f.gap)
}

// down kills a node, and starts it, or another one in its place, with all of its folders or less.
func (c *campaign) down(n *process.Node, f fault) {
	c.trouble.touch(n.Name)
	end := c.trouble.part(n.Name, "")
	n.Stop(syscall.SIGKILL)
	if f.kind.destroys() {
		c.trouble.loseDisk(n.Name)
	}
	switch f.kind {
	case wipe:
		n.Wipe("data", "wal", "hh")
	case rejoin:
		n.Wipe("meta", "data", "wal", "hh")
	case rollBack:
		image := c.images[n.Name]
		c.event("%s is as it was %v ago", n.Name, time.Since(image.made).Round(10*time.Millisecond))
		if err := n.Restore(image.dir); err != nil {
			c.t.Fatal(err)
		}
	}
	if f.kind.destroys() {
		c.forgetImage(n)
		c.mu.Lock()
		c.hurt[n.Name] = true
		c.mu.Unlock()
	}
	wait(f.hold)
	if f.kind == replace {
		c.replace(n)
		return
	}
	n.Start()
	n.AwaitUp()
	if f.kind == rejoin {
		c.cluster.Ctl("update-data", n.TCP, n.TCP)
		n.AwaitUp()
	}
	end()
}

// replace puts an empty node in the place of one that is gone for ever, with what it did not tell.
func (c *campaign) replace(old *process.Node) {
	n := c.cluster.AddNode()
	c.trouble.touch(n.Name)
	end := c.trouble.part(n.Name, "")
	c.cluster.Ctl("update-data", old.TCP, n.TCP)
	n.AwaitUp()
	c.cluster.Forget(old)
	c.mu.Lock()
	c.ids[n.Name] = c.ids[old.Name]
	c.hurt[n.Name] = true
	delete(c.hurt, old.Name)
	place := slices.Index(c.data, old)
	c.data = slices.Clone(c.data)
	c.data[place] = n
	c.mu.Unlock()
	now := time.Now()
	c.trouble.recovered(old.Name, now, now) // it owns nothing any more
	c.event("%s is in the place of %s", n.Name, old.Name)
	end()
}

// image makes an image of a node's folders.
func (c *campaign) image(n *process.Node) {
	dir := filepath.Join(c.cluster.Dir, n.Name+".image")
	began := time.Now()
	if err := n.Image(dir); err != nil {
		c.t.Fatal(err)
	}
	c.images[n.Name] = imageOf{dir, began}
	c.event("made an image of %s in %v", n.Name, time.Since(began).Round(time.Millisecond))
}

func (c *campaign) forgetImage(n *process.Node) {
	if old, ok := c.images[n.Name]; ok {
		delete(c.images, n.Name)
		if err := os.RemoveAll(old.dir); err != nil {
			c.t.Error(err)
		}
	}
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
		of, lacking, err := heldBy(n)
		if err != nil {
			return // what it holds nobody knows
		}
		notWhole[n.Name] = lacking
		for id, bytes := range of {
			hints[id] += bytes
		}
	}
	repaired := c.repaired(nodes)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range waiting {
		if hints[c.ids[name]] > 0 || notWhole[name] > 0 || c.hurt[name] && !repaired {
			continue
		}
		delete(c.hurt, name)
		// The others hear of it a moment later.
		c.trouble.recovered(name, asked, time.Now().Add(c.grace))
	}
}

// repaired tells whether anti-entropy has had nothing to do for so long that every shard was checked since.
func (c *campaign) repaired(nodes []*process.Node) bool {
	c.mu.Lock()
	hurt := len(c.hurt)
	c.mu.Unlock()
	if hurt == 0 {
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

// heldBy are the bytes of hints that a node has, by the node they are for, and how many of its copies it knows not to
// be whole.
func heldBy(n *process.Node) (hints map[uint64]int, notWhole int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/debug/vars", nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	var vars map[string]json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		return nil, 0, fmt.Errorf("/debug/vars of %s: %w", n.Name, err)
	}
	hints = make(map[uint64]int)
	for _, value := range vars {
		var stat struct {
			Name   string
			Tags   struct{ Node string }
			Values struct{ QueueBytes, QueueDepth, NotWhole float64 }
		}
		if json.Unmarshal(value, &stat) != nil {
			continue // not a statistic
		}
		switch stat.Name {
		case "copies":
			notWhole += int(stat.Values.NotWhole)
		case "hh_node":
			id, err := strconv.ParseUint(stat.Tags.Node, 10, 64)
			if err != nil {
				return nil, 0, fmt.Errorf("/debug/vars of %s: hh_node has no node", n.Name)
			}
			hints[id] += int(stat.Values.QueueBytes + stat.Values.QueueDepth)
		}
	}
	return hints, notWhole, nil
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
				c.ids[n.Name] = m.ID
			}
		}
		if c.ids[n.Name] == 0 {
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
}
