//go:build campaign

package campaign

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"concord/test/process"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "seed of the campaign; 0 takes a new one")
	faultsFlag  = flag.Int("faults", 500, "faults of the campaign")
	metaFlag    = flag.Int("meta", 0, "meta nodes; 0 lets the seed choose 1 or 3")
	dataFlag    = flag.Int("data", 0, "data nodes; 0 lets the seed choose 3, or 4 when there are three copies")
	copiesFlag  = flag.Int("replicas", 0, "copies of each shard; 0 lets the seed choose 2 or 3")
	repairFlag  = flag.String("repair", "", "auto: repairs run during the faults; end: they are asked for at the end; empty lets the seed choose")
	deletesFlag = flag.Bool("deletes", true, "delete ranges and series, too")
	throughFlag = flag.String("through", "any",
		"any: the writes of a point go through any node; one: through one, as long as it answers")
	sharedFlag = flag.Bool("shared", false, "all writers write to the same series; needs -through any")
	disksFlag  = flag.Bool("disks", true, "give data nodes disks that can be full; without them these faults are skipped")
	clocksFlag = flag.Bool("clocks", true, "move clocks; the first build for it takes minutes, as all of Go's library is "+
		"compiled anew; without it these faults are skipped")
	keepFlag = flag.String("keep", "", "folder that keeps all files of the nodes")
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
	members sync.Mutex // held by a fault of a meta node, and while a data node gets its place

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
	c.plan = newPlan(c.seed, *faultsFlag, *metaFlag, *dataFlag, *copiesFlag)
	if *repairFlag != "" {
		c.plan.autoRepair = *repairFlag == "auto"
	}
	if c.plan.dataNodes < c.plan.copies || c.plan.dataNodes >= 2*c.plan.copies {
		t.Fatalf("%d data nodes with %d copies: there must be one shard in a group", c.plan.dataNodes, c.plan.copies)
	}
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
		Meta: c.plan.metaNodes, Data: c.plan.dataNodes, Links: true, Disk: disk, Clocks: *clocksFlag,
		Dir: *keepFlag,
		Settings: map[string]map[string]any{
			"cluster": {"write-timeout": "2s"},
			// With the inmem index a query asks for the tags of all shards, also
			// of those that its time range leaves out and a node alone lacks.
			"data":         {"index-version": "tsi1", "query-log-enabled": false},
			"anti-entropy": {"auto-repair-diff": c.plan.autoRepair, "settle": "3s"},
		},
	})
	// Without durable queues a delete that misses an owner fails, and what it
	// leaves behind is defined by nobody.
	c.deletes = c.cluster.HasSection("hinted-handoff") && *deletesFlag
	create := fmt.Sprintf(`CREATE DATABASE "%s" WITH DURATION INF REPLICATION %d SHARD DURATION 1d NAME "autogen"`,
		database, c.plan.copies)
	if _, err := c.cluster.Data[0].Client().Query(t.Context(), "", create); err != nil {
		t.Fatal(err)
	}
	c.start = time.Now()
	c.rec = newRecord(c.seed)
	c.event("seed %d: %d meta nodes, %d data nodes, %d copies, %d faults, repairs during the faults: %v",
		c.seed, c.plan.metaNodes, c.plan.dataNodes, c.plan.copies, *faultsFlag, c.plan.autoRepair)
	c.work()
	c.awaitHandoff()
	if why := c.settle(); why != "" {
		c.t.Fatalf("not settled %v after the last fault: %s", settleTime, why)
	}
	c.event("settled")
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
		fmt.Sprintf("CAMPAIGN='-meta %d -data %d -replicas %d ", c.plan.metaNodes, c.plan.dataNodes, c.plan.copies) +
		fmt.Sprintf("-repair %s -through %s -shared=%t ", repair, *throughFlag, *sharedFlag) +
		fmt.Sprintf("-deletes=%t -disks=%t -clocks=%t'", *deletesFlag, *disksFlag, *clocksFlag)
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
			names: own, rng: rand.New(rand.NewPCG(c.seed, 100+uint64(i))), rec: c.rec, nodes: c.cluster.DataNodes,
			begin: begin, days: &days,
			deletes: c.deletes, stays: *throughFlag == "one", shunned: make(map[string]time.Time),
			report: func(err error) { c.event("%v", err); c.t.Error(err) },
		}
		writing.Add(1)
		go func() { defer writing.Done(); w.run(ctx) }()
	}
	var lanes sync.WaitGroup
	lanes.Go(func() {
		for _, f := range c.plan.meta {
			c.injectMeta(f)
		}
	})
	lanes.Go(func() {
		for _, f := range c.plan.clocks {
			c.moveClock(f)
		}
	})
	for i, f := range c.plan.data {
		days.Store(int64(firstDays + i*(allDays-firstDays+1)/len(c.plan.data)))
		c.inject(f)
	}
	lanes.Wait()
	stop()
	writing.Wait()
	c.event("writers are done: %s", c.rec.summary())
}
