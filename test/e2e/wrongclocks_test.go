//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/internal/trust"
	"concord/test/process"
)

var clocksFlag = flag.Bool("clocks", false,
	"run the stories of wrong clocks: to move them, all of Go's library is compiled anew, for minutes the first time")

const (
	hoursAhead = 20 * time.Hour // by which versions of writes may be ahead
	daysAhead  = 72 * time.Hour
	hourBehind = -time.Hour
)

// TestWrongClockDecidesNothing has one data node whose clock is hours and then days ahead, and one whose clock is an
// hour behind.
func TestWrongClockDecidesNothing(t *testing.T) {
	t.Parallel()
	if !*clocksFlag {
		t.Skip("make e2e-clocks runs it")
	}
	for with, secret := range map[string]string{"with a shared secret": "s3cret", "without one": ""} {
		t.Run(with, func(t *testing.T) {
			t.Parallel()
			c := &clockCluster{secret: secret, metaCluster: newMetaCluster(t, process.Options{
				Meta: 3, Data: 3, Clocks: true, Settings: map[string]map[string]any{
					"retention":      {"check-interval": "1s"},
					"hinted-handoff": {"max-age": "2h", "purge-interval": "1s"},
				},
				Configure: func(node string, settings map[string]any) {
					if secret == "" {
						return
					}
					meta := settings["meta"].(map[string]any)
					if strings.HasPrefix(node, "meta") {
						meta["internal-shared-secret"] = secret
					} else {
						meta["meta-internal-shared-secret"] = secret
					}
				},
			})}
			c.right, c.ahead, c.behind = c.Data[0], c.Data[1], c.Data[2]
			tell(t, c, []story[*clockCluster]{
				{"all clocks are right, and two nodes keep hints", (*clockCluster).begin},
				{"one node is hours ahead", (*clockCluster).goHoursAhead},
				{"another one is an hour behind", (*clockCluster).goBehind},
				{"the first one is days ahead", (*clockCluster).goDaysAhead},
				{"both are started again", (*clockCluster).startAgain},
				{"all clocks are right again", (*clockCluster).setRight},
			})
		})
	}
}

// clockCluster is a cluster with a data node of each kind of clock.
type clockCluster struct {
	*metaCluster
	secret               string
	right, ahead, behind *process.Node
	points               int // that were acknowledged into the policy of an hour
}

// write writes a point of this moment, by the clock of this machine, into the policy of an hour.
func (c *clockCluster) write(t *testing.T, n *process.Node, level string) {
	t.Helper()
	line := fmt.Appendf(nil, "m,n=%d v=1 %d", c.points, time.Now().UnixNano())
	if err := n.Client().Write(t.Context(), "short", level, line); err != nil {
		t.Errorf("a write through %s: %v", n.Name, err)
	}
	c.points++
}

// checkPoints is that a node finds all points of the policy of an hour.
func (c *clockCluster) checkPoints(t *testing.T, n *process.Node) {
	t.Helper()
	var rows [][]any
	var warnings []string
	var err error
	if !process.Poll(30*time.Second, func() bool {
		rows, warnings, err = n.Client().Ask(t.Context(), "short", "SELECT count(v) FROM m WHERE time > 0")
		return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) == fmt.Sprint(c.points) && len(warnings) == 0
	}) {
		t.Errorf("%s has %v of %d points, %v %v", n.Name, rows, c.points, warnings, err)
	}
}

// setClock sets the clock of a node and waits until the node says so.
func (c *clockCluster) setClock(t *testing.T, n *process.Node, off time.Duration) {
	t.Helper()
	if err := n.SetClock(off); err != nil {
		t.Fatal(err)
	}
	c.Await(n.Name+" has the new time", func() bool {
		rows, err := n.Client().Query(t.Context(), "", "SHOW DIAGNOSTICS FOR 'system'")
		if err != nil || len(rows) != 1 {
			return false
		}
		return slices.ContainsFunc(rows[0], func(v any) bool {
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(v))
			return err == nil && time.Since(at.Add(-off)).Abs() < 10*time.Second
		})
	})
}

func (c *clockCluster) begin(t *testing.T) {
	c.query(t, c.right, `CREATE DATABASE short WITH DURATION 1h REPLICATION 3 SHARD DURATION 1h`)
	c.query(t, c.right,
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT sum(v) INTO sums FROM ticks GROUP BY time(1s) END`)
	var ticks []byte
	for i := range 120 {
		at := time.Now().Truncate(time.Second).Add(time.Duration(i) * time.Second)
		ticks = fmt.Appendf(ticks, "ticks v=1 %d\n", at.UnixNano())
	}
	if err := c.right.Client().Write(t.Context(), "db", "all", ticks); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Data {
		c.write(t, n, "all")
	}
	// What two nodes keep for the third one is older than max-age by the clock of the one that will be ahead.
	c.behind.Stop(syscall.SIGTERM)
	c.write(t, c.right, "quorum")
	c.write(t, c.ahead, "quorum")
	c.Await("two nodes keep hints", func() bool { return c.hints(c.right) > 0 && c.hints(c.ahead) > 0 })
}

func (c *clockCluster) goHoursAhead(t *testing.T) {
	c.setClock(t, c.ahead, hoursAhead)
	c.awaitRetention(t)
	if c.hints(c.ahead) == 0 {
		t.Error("the node that is ahead has dropped what it kept for another one")
	}
	c.write(t, c.ahead, "one") // by its own clock this point is too old for the policy
	c.behind.Start()
	c.behind.AwaitUp()
	c.Await("the hints are delivered", func() bool { return c.hints(c.right)+c.hints(c.ahead) == 0 })
}

func (c *clockCluster) goBehind(t *testing.T) {
	c.setClock(t, c.behind, hourBehind)
	c.checkNames(t, "(20h0m|19h59m)")
	if c.secret == "" { // nodes refuse the calls of those that are behind, otherwise
		for _, n := range c.Data {
			c.write(t, n, "all")
		}
		c.use(t, soon)
	}
}

func (c *clockCluster) goDaysAhead(t *testing.T) {
	c.setClock(t, c.ahead, daysAhead)
	c.awaitRetention(t)
	c.checkOneRuns(t)
	c.write(t, c.right, "one")
	c.write(t, c.behind, "one")
	c.checkNames(t, "(72h0m|71h59m)")
}

// startAgain starts both nodes with wrong clocks again. With a secret nobody may confirm who they are.
func (c *clockCluster) startAgain(t *testing.T) {
	wrong := []*process.Node{c.ahead, c.behind}
	for _, n := range wrong {
		n.Stop(syscall.SIGTERM)
	}
	for _, n := range wrong {
		n.Start()
	}
	for _, n := range wrong {
		if c.secret == "" {
			n.AwaitUp()
			continue
		}
		said := ""
		if !process.Poll(20*time.Second, func() bool {
			if _, err := n.Client().Query(t.Context(), "", "SHOW DATABASES"); err != nil {
				said = err.Error()
			}
			return strings.Contains(said, "serves nothing: ") && strings.Contains(said, trust.ErrClocks.Error())
		}) {
			t.Errorf("%s says after a restart %q", n.Name, said)
		}
	}
}

func (c *clockCluster) setRight(t *testing.T) {
	for _, n := range c.Data {
		if err := n.SetClock(0); err != nil {
			t.Fatal(err)
		}
		n.AwaitUp()
	}
	for _, n := range c.Data {
		c.checkPoints(t, n)
	}
	for _, n := range slices.Concat(c.Data, c.Meta) {
		for line := range strings.Lines(n.Log()) {
			if strings.Contains(line, trust.ErrRefused.Error()) || strings.Contains(line, "older than max-age") {
				t.Errorf("%s logged %s", n.Name, line)
			}
		}
	}
}

// awaitRetention waits until the node that is ahead has tried to drop what has expired by its clock.
func (c *clockCluster) awaitRetention(t *testing.T) {
	t.Helper()
	seen := len(c.ahead.Log())
	c.Await("the node that is ahead wants to drop a shard group", func() bool {
		return strings.Contains(c.ahead.Log()[seen:], "has not expired by the clock of the meta nodes' leader")
	})
}

// checkNames is that influxd-ctl show and the log of the node that is right name the other two.
func (c *clockCluster) checkNames(t *testing.T, ahead string) {
	t.Helper()
	var shown string
	if !process.Poll(time.Minute, func() bool {
		shown = c.Ctl("show")
		names := func(n *process.Node, how string) bool {
			return regexp.MustCompile(`The clock of data node \d+, ` + n.TCP + `, is ` + how).MatchString(shown)
		}
		return names(c.ahead, ahead+`\d+s ahead of`) && names(c.behind, `(1h0m|59m5)\d+s behind`) &&
			strings.Count(shown, "The clock of") == 2
	}) {
		t.Errorf("influxd-ctl show does not name the two wrong clocks:\n%s", shown)
	}
	for _, n := range []*process.Node{c.ahead, c.behind} {
		if !process.Poll(time.Minute, func() bool {
			return regexp.MustCompile(`The clock of another node differs.* node=` + n.TCP).MatchString(c.right.Log())
		}) {
			t.Errorf("the log of %s does not name the clock of %s", c.right.Name, n.Name)
		}
	}
}

// checkOneRuns is that one node alone runs continuous queries, once in each second.
func (c *clockCluster) checkOneRuns(t *testing.T) {
	t.Helper()
	before, began := c.ran(t), time.Now()
	var runs []int
	c.Await("continuous queries run", func() bool {
		runs = c.ran(t)
		most := 0
		for i := range runs {
			runs[i] -= before[i]
			most = max(most, runs[i])
		}
		return most >= 4
	})
	took := time.Since(began)
	slices.Sort(runs)
	if runs[1] != 0 || runs[2] > int(took.Seconds())+3 {
		t.Errorf("in %v the data nodes ran %v continuous queries", took, runs)
	}
}

// hints is how many bytes a node keeps for others.
func (c *clockCluster) hints(n *process.Node) (bytes int) {
	h, err := n.Held()
	if err != nil {
		return 0
	}
	for _, b := range h.Hints {
		bytes += b
	}
	return bytes
}

// ran is how many continuous queries each data node has run.
func (c *clockCluster) ran(t *testing.T) (ran []int) {
	t.Helper()
	for _, n := range c.Data {
		if n.Running() {
			ran = append(ran, continuousRuns(t, n))
		}
	}
	return ran
}
