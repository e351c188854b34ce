//go:build campaign

package campaign

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "seed of the campaign; 0 takes a new one")
	faultsFlag  = flag.Int("faults", 500, "faults of the campaign")
	metaFlag    = flag.Int("meta", 0, "meta nodes; 0 lets the seed choose 1 or 3")
	dataFlag    = flag.Int("data", 0, "data nodes; 0 lets the seed choose 3 or 4")
	repairFlag  = flag.String("repair", "", "auto: repairs run during the faults; end: they are asked for at the end; empty lets the seed choose")
	deletesFlag = flag.Bool("deletes", true, "delete ranges and series, too")
	throughFlag = flag.String("through", "any",
		"any: the writes of a point go through any node; one: through one, as long as it answers")
	sharedFlag = flag.Bool("shared", false, "all writers write to the same series; needs -through any")
	disksFlag  = flag.Bool("disks", true, "give data nodes disks that can be full; without them these faults are skipped")
	keepFlag   = flag.String("keep", "", "folder that keeps all files of the nodes")
)

const (
	writers    = 4
	firstDays  = 2
	allDays    = 5
	settleTime = 3 * time.Minute
	quietLimit = 30 * time.Second // writes at quorum must go on: the longest time without an acknowledged one
)

func TestMain(m *testing.M) { process.Main(m) }

// campaign is one run.
type campaign struct {
	t       *testing.T
	seed    uint64
	plan    plan
	cluster *process.Cluster
	rec     *record
	deletes bool
	start   time.Time

	mu  sync.Mutex
	log []string // faults and what else happened, with times
}

func TestCampaign(t *testing.T) {
	if *sharedFlag && *throughFlag != "any" {
		t.Fatal("-shared needs -through any: writers that share series have no node of their own")
	}
	c := &campaign{t: t, seed: *seedFlag}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano() % 1_000_000)
	}
	c.plan = newPlan(c.seed, *faultsFlag, *metaFlag, *dataFlag)
	c.plan.autoRepair = *repairFlag == "auto"
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events:\n%s", strings.Join(c.log, "\n"))
			t.Logf("replay with: %s", c.replay())
		}
	})
	if *keepFlag != "" {
		if err := os.MkdirAll(*keepFlag, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disk := int64(0)
	if *disksFlag {
		disk = diskSize
	}
	c.cluster = process.Start(t, process.Options{
		Meta: c.plan.metaNodes, Data: c.plan.dataNodes, Links: true, Disk: disk, Dir: *keepFlag,
		Settings: map[string]map[string]any{
			"cluster": {"write-timeout": "2s"},
			// With the inmem index a query asks for the tags of all shards, also
			// of those that its time range leaves out and a node alone lacks.
			"data":         {"index-version": "tsi1"},
			"anti-entropy": {"auto-repair-diff": c.plan.autoRepair, "settle": "3s"},
		},
	})
	// Without durable queues a delete that misses an owner fails, and what it
	// leaves behind is defined by nobody.
	c.deletes = c.cluster.HasSection("hinted-handoff") && *deletesFlag
	create := fmt.Sprintf(`CREATE DATABASE "%s" WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`, database)
	if _, err := c.cluster.Data[0].Client().Query(t.Context(), "", create); err != nil {
		t.Fatal(err)
	}
	c.start = time.Now()
	c.rec = newRecord(c.seed)
	c.event("seed %d: %d meta nodes, %d data nodes, %d faults, repairs during the faults: %v", c.seed, c.plan.metaNodes, c.plan.dataNodes, *faultsFlag, c.plan.autoRepair)
	c.work()
	c.awaitHandoff()
	c.settle()
	c.compareOwners()
	c.compareQueries()
	t.Logf("seed %d: %d faults in %v; %s", c.seed, *faultsFlag, time.Since(c.start).Round(time.Second), c.rec.summary())
	c.rec.mu.Lock()
	defer c.rec.mu.Unlock()
	if c.rec.longestGap > quietLimit {
		t.Errorf("no operation was acknowledged for %v though a quorum of the owners was there", c.rec.longestGap)
	}
}

// replay is the command that runs this campaign again.
func (c *campaign) replay() string {
	repair := "end"
	if c.plan.autoRepair {
		repair = "auto"
	}
	return fmt.Sprintf("make campaign SEED=%d FAULTS=%d ", c.seed, *faultsFlag) +
		fmt.Sprintf("CAMPAIGN='-meta %d -data %d -repair %s ", c.plan.metaNodes, c.plan.dataNodes, repair) +
		fmt.Sprintf("-through %s -shared=%t -deletes=%t -disks=%t'", *throughFlag, *sharedFlag, *deletesFlag, *disksFlag)
}

// event notes what happened, with the time since the start.
func (c *campaign) event(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs ", time.Since(c.start).Seconds()) + fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, line)
	if testing.Verbose() {
		fmt.Println(line)
	}
}

// work runs writers and faults until the plan is done.
func (c *campaign) work() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var days atomic.Int64
	days.Store(firstDays)
	var writing sync.WaitGroup
	begin := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -2-allDays).UnixNano()
	shared := newNames("all")
	for i := range writers {
		own := shared
		if !*sharedFlag {
			own = newNames(fmt.Sprintf("w%d", i+1))
		}
		w := &writer{
			names: own, rng: rand.New(rand.NewPCG(c.seed, 100+uint64(i))), rec: c.rec, nodes: c.cluster.Data,
			begin: begin, days: &days,
			deletes: c.deletes, stays: *throughFlag == "one", shunned: make(map[string]time.Time),
			report: func(err error) { c.event("%v", err); c.t.Error(err) },
		}
		writing.Add(1)
		go func() { defer writing.Done(); w.run(ctx) }()
	}
	var lanes sync.WaitGroup
	lanes.Add(1)
	go func() {
		defer lanes.Done()
		for _, f := range c.plan.meta {
			c.inject(ctx, f)
		}
	}()
	for i, f := range c.plan.data {
		days.Store(int64(firstDays + i*(allDays-firstDays+1)/len(c.plan.data)))
		c.inject(ctx, f)
	}
	lanes.Wait()
	stop()
	writing.Wait()
	c.event("writers are done: %s", c.rec.summary())
}

// wait lets time pass; it is the only clock of the faults.
func wait(d time.Duration) {
	<-time.After(d)
}

// inject does a fault, holds it, undoes it, and waits until the node answers.
func (c *campaign) inject(_ context.Context, f fault) {
	c.event("%v", f)
	data, links := c.cluster.Data, c.cluster.Links
	switch f.kind {
	case kill, restart:
		sig := syscall.SIGKILL
		if f.kind == restart {
			sig = syscall.SIGTERM
		}
		data[f.node].Stop(sig)
		wait(f.hold)
		data[f.node].Start()
	case pause:
		data[f.node].Signal(syscall.SIGSTOP)
		wait(f.hold)
		data[f.node].Signal(syscall.SIGCONT)
	case powerCut:
		for _, n := range data {
			n.Signal(syscall.SIGKILL)
		}
		for _, n := range data {
			n.Reap()
		}
		wait(f.hold)
		for _, n := range data {
			n.Start()
		}
	case isolate, slow:
		link := process.Link{Mode: f.mode}
		if f.kind == slow {
			link = process.Link{Delay: f.delay}
		}
		others := c.others(data[f.node])
		c.setBoth(data[f.node], others, link)
		wait(f.hold)
		c.setBoth(data[f.node], others, process.Link{})
	case repeat:
		c.setBoth(data[f.node], data, process.Link{Mode: process.Repeat, Late: f.late, Seed: f.seed})
		wait(f.hold)
		c.setBoth(data[f.node], data, process.Link{})
	case full:
		c.fillDisk(data[f.node], f)
	case cutPair:
		a, b := data[f.node].Name, data[f.peer].Name
		for _, link := range []process.Link{{Mode: f.mode}, {}} {
			links.Set(a, b, link)
			if !f.oneWay {
				links.Set(b, a, link)
			}
			if link.Mode != process.Open {
				wait(f.hold)
			}
		}
	case cutMeta:
		c.setBoth(data[f.node], c.cluster.Meta, process.Link{Mode: f.mode})
		wait(f.hold)
		c.setBoth(data[f.node], c.cluster.Meta, process.Link{})
	case metaKill:
		n := c.cluster.Meta[f.node]
		n.Stop(syscall.SIGKILL)
		wait(f.hold)
		n.Start()
	case metaPause:
		n := c.cluster.Meta[f.node]
		n.Signal(syscall.SIGSTOP)
		wait(f.hold)
		n.Signal(syscall.SIGCONT)
	case metaCut:
		n := c.cluster.Meta[f.node]
		c.setBoth(n, c.others(n), process.Link{Mode: f.mode})
		wait(f.hold)
		c.setBoth(n, c.others(n), process.Link{})
	}
	if f.kind < metaKill {
		for _, n := range data {
			n.AwaitUp()
		}
	}
	c.event("undone: %v %d", f.kind, f.node+1)
	wait(f.gap)
}

// fillDisk holds a full disk. A node may end for it, and must start once there is space.
func (c *campaign) fillDisk(n *process.Node, f fault) {
	if _, _, err := n.Disk(); err != nil {
		c.event("skipped: %s has no disk that could be full: %v", n.Name, err)
		return
	}
	filled := make(chan struct{})
	go func() { defer close(filled); n.FillDisk(f.leave, f.hold) }()
	if f.killed {
		wait(f.hold / 3)
		if n.Running() {
			n.Signal(syscall.SIGKILL)
			n.Reap()
		}
		n.Start()
	}
	<-filled
	if !n.Running() {
		c.event("%s ended while its disk was full: %v", n.Name, n.End())
		n.Start()
	}
}

func (c *campaign) others(n *process.Node) (out []*process.Node) {
	for _, o := range append(append([]*process.Node(nil), c.cluster.Meta...), c.cluster.Data...) {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

func (c *campaign) setBoth(n *process.Node, others []*process.Node, link process.Link) {
	for _, o := range others {
		if o == n { // which always reaches itself, and does so for an answer out of a copy that may not be whole
			continue
		}
		c.cluster.Links.Set(n.Name, o.Name, link)
		c.cluster.Links.Set(o.Name, n.Name, link)
	}
}

// awaitHandoff heals all links, waits until hinted handoff is done, and keeps
// what each owner has then: when the end is wrong, it tells whether the repairs made it so.
func (c *campaign) awaitHandoff() {
	c.t.Helper()
	c.cluster.Links.Heal()
	var why string
	done := process.Poll(settleTime, func() bool {
		for _, n := range c.cluster.Data {
			waiting, err := handoffWaiting(n)
			if err != nil {
				waiting = err.Error()
			}
			if why = waiting; why != "" {
				why = n.Name + " has " + why
				return false
			}
		}
		return true
	})
	if !done {
		c.t.Fatalf("hinted handoff is not done %v after the last fault: %s", settleTime, why)
	}
	c.event("hinted handoff is done")
	shards := c.shards()
	for _, sh := range shards {
		for _, n := range c.owners(sh) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			got, err := query(ctx, n, between(sh.Start, sh.End))
			cancel()
			if err != nil {
				c.event("%s: %v", n.Name, err)
				continue
			}
			c.rec.keep(n.Name, got)
		}
	}
}

// settle waits until nothing is left to do: no hinted handoff, no entropy.
func (c *campaign) settle() {
	c.t.Helper()
	var why string
	calm := time.Time{}
	done := process.Poll(settleTime, func() bool {
		why = c.unsettled()
		if why != "" {
			calm = time.Time{}
			return false
		}
		if calm.IsZero() {
			calm = time.Now()
		}
		// Two checks of every shard, so that none of them is from before.
		return time.Since(calm) > 8*time.Second
	})
	if !done {
		c.t.Fatalf("not settled %v after the last fault: %s", settleTime, why)
	}
	c.event("settled")
}

// unsettled names something that is still to be done, and asks for repairs
// where nobody else does.
func (c *campaign) unsettled() string {
	for _, n := range c.cluster.Data {
		if waiting, err := handoffWaiting(n); err != nil {
			return err.Error()
		} else if waiting != "" {
			return n.Name + " has " + waiting
		}
	}
	for _, n := range c.cluster.Data {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		s, raw, err := n.Client().EntropyStatus(ctx)
		cancel()
		if err != nil {
			return fmt.Sprintf("entropy status of %s: %v", n.Name, err)
		}
		if s.Clean() {
			continue
		}
		if !c.plan.autoRepair && len(s.Queued) == 0 {
			for _, sh := range s.Shards {
				if _, err := c.cluster.TryCtl("entropy", "repair", sh.ID); err != nil {
					return err.Error()
				}
				c.event("entropy repair %s (%s)", sh.ID, sh.Status)
			}
		}
		return n.Name + " says " + strings.TrimSpace(string(raw))
	}
	return ""
}

// handoffWaiting tells what a node's queues hold, "" for nothing.
func handoffWaiting(n *process.Node) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/debug/vars", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var vars map[string]json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		return "", fmt.Errorf("/debug/vars of %s: %w", n.Name, err)
	}
	for name, raw := range vars {
		var stat struct {
			Name   string
			Values map[string]any
		}
		if !strings.HasPrefix(name, "hh") || json.Unmarshal(raw, &stat) != nil {
			continue
		}
		for _, v := range []string{"queueBytes", "queueDepth"} {
			if held, _ := stat.Values[v].(float64); held > 0 {
				return fmt.Sprintf("%s %s %.0f", name, v, held), nil
			}
		}
	}
	return "", nil
}

// shards are those of the campaign, one in each group, with three owners each.
func (c *campaign) shards() []wire.Shard {
	c.t.Helper()
	var all, out []wire.Shard
	if err := json.Unmarshal([]byte(c.cluster.Ctl("show-shards", "-json")), &all); err != nil {
		c.t.Fatal(err)
	}
	groups := make(map[uint64]bool)
	for _, sh := range all {
		if sh.Database != database {
			continue
		}
		if groups[sh.GroupID] || len(sh.Owners) != 3 {
			c.t.Fatalf("shard %d: want one shard with three owners in a group: %+v", sh.ID, all)
		}
		groups[sh.GroupID] = true
		out = append(out, sh)
	}
	if len(out) < firstDays {
		c.t.Fatalf("only %d shards", len(out))
	}
	return out
}

// owners are a shard's owners.
func (c *campaign) owners(sh wire.Shard) (out []*process.Node) {
	for _, o := range sh.Owners {
		for _, n := range c.cluster.Data {
			if n.TCP == o.TCPAddr {
				out = append(out, n)
			}
		}
	}
	return out
}

// compareOwners asks every owner of every shard, with all links between data nodes
// cut so that nobody else can answer for it.
func (c *campaign) compareOwners() {
	c.t.Helper()
	shards := c.shards()
	for _, n := range c.cluster.Data {
		c.setBoth(n, c.cluster.Data, process.Link{Mode: process.Refuse})
	}
	defer c.cluster.Links.Heal()
	for _, sh := range shards {
		var first *process.Node
		var firstHas map[key]int64
		for _, n := range c.owners(sh) {
			what := fmt.Sprintf("shard %d of %s", sh.ID, n.Name)
			got := c.compare(what, n, sh.Start, sh.End)
			switch {
			case got == nil: // it could not be asked
			case first == nil:
				first, firstHas = n, got
			default:
				problems, different := c.rec.differences(first.Name, n.Name, firstHas, got, 3)
				c.report(what, problems, different, len(got))
			}
		}
	}
}

// compareQueries asks every node for everything, as a client would.
func (c *campaign) compareQueries() {
	c.t.Helper()
	for _, n := range c.cluster.Data {
		c.cluster.Await(n.Name+" reaches the others again", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
			defer cancel()
			_, err := n.Client().Query(ctx, database, "SELECT count(v) FROM m")
			return err == nil
		})
		c.compare("all of "+n.Name, n, time.Unix(0, 0), time.Unix(0, 1<<62))
	}
}

// compare judges what a node answers, and returns it, or nil when it does not answer.
func (c *campaign) compare(what string, n *process.Node, from, to time.Time) map[key]int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := query(ctx, n, between(from, to))
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return nil
	}
	problems, wrong := c.rec.compare(what, got, from.UnixNano(), to.UnixNano(), 3)
	c.report(what, problems, wrong, len(got))
	return got
}

// report fails the test for points that are wrong, of which some are told in full.
func (c *campaign) report(what string, problems []string, wrong, of int) {
	c.t.Helper()
	for _, p := range problems {
		c.t.Error(p)
	}
	if wrong > len(problems) {
		c.t.Errorf("%s: and %d more points are wrong, of %d", what, wrong-len(problems), of)
	}
}

func between(from, to time.Time) string {
	return fmt.Sprintf("SELECT v, s FROM m WHERE time >= %d AND time < %d", from.UnixNano(), to.UnixNano())
}
