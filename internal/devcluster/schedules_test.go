package devcluster_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
)

var (
	scheduleSteps  = flag.Int("schedule-steps", 6, "steps of the longest schedules of TestSchedules")
	schedules      = flag.Int("schedules", 40, "schedules that TestSchedules runs; all of them where there are no more")
	scheduleSeed   = flag.Uint64("schedule-seed", 0, "which schedules TestSchedules picks; 0 takes a new seed")
	scheduleNumber = flag.Int64("schedule-number", -1,
		"the one schedule of -schedule-steps that the test runs; needs -run")
)

// failuresShown is after how many failed schedules TestSchedules ends.
const failuresShown = 5

// TestSchedules runs schedules of writes, deletes and nodes that are away, and compares the owners' copies with what
// the history of acknowledged operations allows.
func TestSchedules(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrder(t, 3, 3)
	runSchedules(ctx, t, o, generator{start: situation{nodes: 3}}, *schedules)
}

// TestSchedulesWithHungNodes: a node hangs, too. What was sent to it, and what it was about to send, arrives when it
// goes on, however long ago its sender has given it up.
func TestSchedulesWithHungNodes(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrderWith(t, 3, 3, func(cfg *datanode.Config) {
		cfg.AntiEntropy.Enabled = false
		cfg.Cluster.WriteTimeout = itoml.Duration(time.Second) // each write waits so long for a node that hangs
	})
	runSchedules(ctx, t, o, generator{start: situation{nodes: 3, hangs: true}}, *schedules/4)
}

// repairsSoon makes anti-entropy look for what differs all the time.
func repairsSoon(cfg *datanode.Config) {
	cfg.AntiEntropy.CheckInterval = itoml.Duration(200 * time.Millisecond)
	cfg.AntiEntropy.Settle = itoml.Duration(time.Second)
}

// TestSchedulesWithWipedNodes: a node loses its disk, once, while all owners are equal, and anti-entropy brings its
// copy back while the schedule goes on.
func TestSchedulesWithWipedNodes(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrderWith(t, 3, 3, repairsSoon)
	o.repairs = true
	runSchedules(ctx, t, o, generator{start: situation{nodes: 3, wipes: true}}, *schedules/4)
}

// TestSchedulesWithANodeWithoutCopy: one of four nodes has no copy. Nodes hang, and one is wiped, too. Repairs bring
// copies that are missing or lack something, and nothing else: hinted handoff brings the rest.
func TestSchedulesWithANodeWithoutCopy(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrderWith(t, 4, 3, func(cfg *datanode.Config) {
		repairsSoon(cfg)
		cfg.Cluster.WriteTimeout = itoml.Duration(time.Second)
	})
	o.repairs = true
	runSchedules(ctx, t, o, generator{start: situation{nodes: 4, wipes: true, hangs: true}}, *schedules/4)
}

// TestSchedulesWithoutHintedHandoff: what an owner misses comes from the others, by repairs. There are no deletes: one
// that does not reach every node fails, and a repair may bring back what it removed.
func TestSchedulesWithoutHintedHandoff(t *testing.T) {
	t.Parallel()
	ctx, o := mustStartOrderWith(t, 3, 3, func(cfg *datanode.Config) {
		repairsSoon(cfg)
		cfg.HintedHandoff.Enabled = false
		cfg.AntiEntropy.AutoRepairDiff = true
	})
	o.repairs = true
	runSchedules(ctx, t, o, generator{start: situation{nodes: 3, writesOnly: true}}, *schedules/4)
}

// runSchedules runs so many of the schedules that a generator makes.
func runSchedules(ctx context.Context, t *testing.T, o *order, g generator, most int) {
	t.Helper()
	g.counts = map[situation]map[int]int64{}
	total := g.total(*scheduleSteps)
	seed := *scheduleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano() % 1_000_000)
	}
	numbers := g.pick(seed, most, total)
	if *scheduleNumber >= 0 {
		numbers = []int64{*scheduleNumber}
	}
	t.Logf("%d of %d schedules of up to %d steps, -schedule-seed %d", len(numbers), total, *scheduleSteps, seed)
	replay := fmt.Sprintf("replay with: go test ./internal/devcluster -run '%s$' -schedule-steps %d -schedule-number",
		t.Name(), *scheduleSteps)
	var good []*run
	failed := 0
	for i, number := range numbers {
		rf, falling, steps := g.schedule(number, *scheduleSteps)
		rf = max(rf, g.start.nodes-1) // so that there is one shard
		r := o.begin(ctx, t, rf, falling)
		for _, s := range steps {
			_ = r.do(s)
		}
		problem := r.end()
		if problem == "" {
			good = append(good, r)
			continue
		}
		t.Errorf("%s\n%s%s %d", problem, r, replay, number)
		if failed++; failed == failuresShown {
			t.Errorf("ended after %d of %d schedules, %d failed", i+1, len(numbers), failed)
			break
		}
	}
	for _, r := range good { // what arrived after a schedule has ended changes nothing either
		problem := r.wrong()
		if r.repairs && problem != "" { // a copy of a node that was wiped is being made anew
			_ = r.settle()
			problem = r.wrong()
		}
		if problem != "" {
			t.Errorf("it was right at its end, and no longer is: %s\n%s", problem, r)
		}
	}
}

// situation is what decides which steps may come next.
type situation struct {
	nodes              int    // of the cluster
	cut, stopped, hung int    // the node that is away, counted from 1; 0 for none
	link               [2]int // that is cut one way
	faults, ops        int8   // so far, as far as it matters
	hangs, wipes       bool   // nodes may hang; one may be wiped, and was not yet
	writesOnly         bool   // there are no deletes
}

// away is the node that is away, counted from 1; 0 for none.
func (s situation) away() int { return max(s.cut, s.stopped, s.hung) }

// healthy reports whether no node is away and no link is cut.
func (s situation) healthy() bool { return s.away() == 0 && s.link == [2]int{} }

// next lists the steps that may come in a situation, and the situation after each.
func (s situation) next() (steps []scheduleStep, then []situation) {
	add := func(st scheduleStep, t situation) { steps, then = append(steps, st), append(then, t) }
	request := s
	if s.faults > 0 {
		request.ops = min(2, s.ops+1)
	}
	up := func(node int) bool { return s.stopped != node+1 && s.hung != node+1 }
	one := func(o op) { add(scheduleStep{ops: []op{o}}, request) }
	two := func(a, b op) { add(scheduleStep{ops: []op{a, b}}, request) }
	for n := range s.nodes {
		if !up(n) {
			continue
		}
		for _, level := range []string{"any", "one", "quorum", "all"} {
			one(op{kind: write, node: n, level: level})
		}
		if !s.writesOnly {
			one(op{kind: deleteRange, node: n})
			one(op{kind: drop, node: n})
		}
		for m := range s.nodes {
			if m == n || !up(m) {
				continue
			}
			if n < m {
				two(op{kind: write, node: n, level: "one"}, op{kind: write, node: m, level: "one"})
			}
			if !s.writesOnly {
				two(op{kind: write, node: n, level: "one"}, op{kind: deleteRange, node: m})
			}
		}
	}
	fault := s
	fault.faults = 1
	for n := range s.nodes {
		if s.away() == 0 {
			fault := fault
			fault.cut = n + 1
			add(scheduleStep{event: cutOff, node: n}, fault)
			fault.cut, fault.stopped = 0, n+1
			add(scheduleStep{event: stop, node: n}, fault)
			add(scheduleStep{event: kill, node: n}, fault)
			if fault.stopped = 0; s.hangs {
				fault.hung = n + 1
				add(scheduleStep{event: hang, node: n}, fault)
			}
		}
		if s.wipes && s.healthy() {
			fault := fault
			fault.wipes = false
			add(scheduleStep{event: wipe, node: n}, fault)
		}
		for m := range s.nodes {
			if s.link == [2]int{} && m != n {
				fault := fault
				fault.link = [2]int{n, m}
				add(scheduleStep{event: cutOneWay, node: n, peer: m}, fault)
			}
		}
	}
	if away := s.away(); away > 0 {
		healed := s
		healed.cut, healed.stopped, healed.hung = 0, 0, 0
		add(scheduleStep{event: back, node: away - 1}, healed)
	}
	if s.link != [2]int{} {
		healed := s
		healed.link = [2]int{}
		add(scheduleStep{event: linkBack, node: s.link[0], peer: s.link[1]}, healed)
	}
	if s.faults > 0 && s.healthy() {
		add(scheduleStep{event: hintsArrived}, s)
	}
	return steps, then
}

// tells reports whether a schedule that ends here can show anything: two requests came after a fault.
func (s situation) tells() bool { return s.ops >= 2 }

// A generator numbers all schedules, and makes each by its number.
type generator struct {
	start  situation
	counts map[situation]map[int]int64 // by the steps that are left: how many schedules go on from there
}

// starts are how a schedule begins: the replication factor, and whether newer values are smaller.
var starts = []struct {
	rf      int
	falling bool
}{{3, false}, {2, false}, {3, true}, {2, true}}

func (g generator) total(steps int) int64 { return int64(len(starts)) * g.count(g.start, steps) }

// count counts the schedules of up to so many further steps.
func (g generator) count(s situation, left int) (n int64) {
	if n, ok := g.counts[s][left]; ok {
		return n
	}
	if s.tells() {
		n++
	}
	if left > 0 {
		_, then := s.next()
		for _, t := range then {
			n += g.count(t, left-1)
		}
	}
	if g.counts[s] == nil {
		g.counts[s] = map[int]int64{}
	}
	g.counts[s][left] = n
	return n
}

// schedule makes the schedule with a number.
func (g generator) schedule(number int64, left int) (rf int, falling bool, out []scheduleStep) {
	start := starts[number%int64(len(starts))]
	number /= int64(len(starts))
	s := g.start
	for {
		if s.tells() {
			if number == 0 {
				return start.rf, start.falling, out
			}
			number--
		}
		steps, then := s.next()
		for i, t := range then {
			n := g.count(t, left-1)
			if number < n {
				out, s = append(out, steps[i]), t
				break
			}
			number -= n
		}
		left--
	}
}

// pick returns the numbers of n schedules, or of all.
func (g generator) pick(seed uint64, n int, total int64) []int64 {
	if int64(n) >= total {
		out := make([]int64, total)
		for i := range out {
			out[i] = int64(i)
		}
		return out
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	picked := map[int64]bool{}
	var out []int64
	for len(out) < n {
		if number := rng.Int64N(total); !picked[number] {
			picked[number] = true
			out = append(out, number)
		}
	}
	return out
}

// Each number is another schedule.
func TestSchedulesAreNumbered(t *testing.T) {
	t.Parallel()
	g := generator{start: situation{nodes: 2, hangs: true, wipes: true}, counts: map[situation]map[int]int64{}}
	const steps = 3
	seen := map[string]bool{}
	for number := range g.total(steps) {
		rf, falling, list := g.schedule(number, steps)
		if len(list) > steps {
			t.Fatalf("schedule %d has %d steps", number, len(list))
		}
		seen[fmt.Sprint(rf, falling, list)] = true
	}
	if int64(len(seen)) != g.total(steps) {
		t.Errorf("%d numbers make %d schedules", g.total(steps), len(seen))
	}
}
