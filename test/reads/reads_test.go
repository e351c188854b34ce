//go:build campaign

package reads

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"concord/test/process"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the campaign; 0 takes a new one")
	faultsFlag = flag.Int("faults", 2000, "faults of the campaign")
	metaFlag   = flag.Int("meta", 1, "meta nodes")
	dataFlag   = flag.Int("data", 4, "data nodes, at least 3")
	graceFlag  = flag.Duration("grace", 2*time.Second,
		"how long after its acknowledgement a write or delete may be unknown to another node that is reached")
	deletesFlag = flag.Bool("deletes", true, "delete points, too: they must not come back")
	clocksFlag  = flag.Bool("clocks", true,
		"move clocks; the first build for it takes minutes, as all of Go's library is compiled anew")
	onlyFlag = flag.String("only", "",
		"kinds of faults, with commas: kill, hang, isolate, cut, wipe, rejoin, replace, rollback, clock; all when empty")
	healFlag = flag.Duration("heal", 2*time.Minute,
		"how long hinted handoff and repairs may take until all copies are whole")
	keepFlag = flag.String("keep", "", "folder that keeps all files of the nodes")
)

// names are the kinds as -only has them.
var names = [...]string{"kill", "hang", "isolate", "cut", "wipe", "rejoin", "replace", "rollback", "clock"}

func TestMain(m *testing.M) { process.Main(m) }

func TestReads(t *testing.T) {
	c := &campaign{
		options: options{seed: *seedFlag, deletes: *deletesFlag, grace: *graceFlag, healLimit: *healFlag},
		t:       t, trouble: newTrouble(), figures: newFigures(),
		members: &members{ids: make(map[string]uint64), hurt: make(map[string]bool)},
		told: told{
			violations: make(map[string]int), during: make(map[string]int), complaints: make(map[string]int),
		},
	}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano() % 1_000_000)
	}
	only := make(map[string]bool)
	for name := range strings.SplitSeq(*onlyFlag, ",") {
		only[name] = name != ""
	}
	allowed := func(k kind) bool {
		return (k != clock || *clocksFlag) && (*onlyFlag == "" || only[names[k]])
	}
	if *dataFlag < 3 {
		t.Fatal("-data: at least 3")
	}
	c.plan = newPlan(c.seed, *faultsFlag, *dataFlag, allowed)
	replay := fmt.Sprintf("make campaign-reads SEED=%d READS_FAULTS=%d CAMPAIGN='-meta %d -data %d -grace %v "+
		"-deletes=%t -clocks=%t -only=%s'",
		c.seed, *faultsFlag, *metaFlag, *dataFlag, *graceFlag, *deletesFlag, *clocksFlag, *onlyFlag)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("replay with: %s", replay)
		}
	})
	if *keepFlag != "" {
		if err := os.MkdirAll(*keepFlag, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.cluster = process.Start(t, process.Options{
		Meta: *metaFlag, Data: *dataFlag, Links: true, Clocks: *clocksFlag, Dir: *keepFlag,
		Settings: map[string]map[string]any{
			"cluster":           {"write-timeout": "2s"},
			"data":              {"index-version": "tsi1", "query-log-enabled": false},
			"anti-entropy":      {"check-interval": "2s", "auto-repair-diff": true, "settle": "2s"},
			"shard-precreation": {"enabled": false},
		},
	})
	if err := c.identify(); err != nil {
		t.Fatal(err)
	}
	for copies, name := range map[int]string{2: "two", 3: "three"} {
		s := &store{name: name, copies: copies}
		s.hours.Store(2)
		create := fmt.Sprintf(`CREATE DATABASE "%s" WITH DURATION INF REPLICATION %d SHARD DURATION 1h NAME "autogen"`,
			name, copies)
		if _, err := c.cluster.Data[0].Client().Query(t.Context(), "", create); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.cluster.Data {
			c.cluster.Await(n.Name+" knows the database", func() bool {
				_, err := n.Client().Query(t.Context(), name, "SELECT v FROM m")
				return err == nil
			})
		}
		c.stores = append(c.stores, s)
	}
	c.begin = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -5).UnixNano()
	c.diary.start = time.Now()
	c.rec = newRecord(c.seed, c.trouble, c.grace)
	c.event("seed %d: %d meta nodes, %d data nodes, %d faults; grace %v",
		c.seed, *metaFlag, *dataFlag, *faultsFlag, c.grace)
	c.work()
	c.compare()
	c.end()
}

// end prints the figures and says what of them is a failure.
func (c *campaign) end() {
	c.t.Logf("seed %d: %d faults in %v; %s\n%s",
		c.seed, len(c.plan), time.Since(c.diary.start).Round(time.Second), c.rec.summary(), c.figures.summary())
	told := 0
	for _, n := range c.told.violations {
		told += n
	}
	if told > 0 {
		c.t.Errorf("%d answers lacked acknowledged points, or had deleted or unknown ones, and said nothing, "+
			"in %d times and places; by the last fault:\n    %s",
			told, len(c.told.violations), strings.Join(sorted(c.told.during), "\n    "))
	}
	if bad, all := c.figures.ratio(); bad > warnsAtOnce && bad*goodIn > all {
		c.t.Errorf("%d of %d answers carried a warning or an error while an owner of each shard was well: more than 1 in %d",
			bad, all, goodIn)
	}
	c.figures.mu.Lock()
	defer c.figures.mu.Unlock()
	if c.figures.longest > quietLimit {
		c.t.Errorf("no node gave a good answer for %v, until %.3fs", c.figures.longest,
			c.figures.longestAt.Sub(c.diary.start).Seconds())
	}
}
