//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

const (
	drainDays   = 14   // a shard group each, of three shards with two copies
	pointsOfDay = 6000 // that are there before the drain
)

// drain is a cluster of six data nodes, one of which is emptied and removed under writes.
type drain struct {
	*process.Cluster
	begin time.Time // of the first shard group

	mu           sync.Mutex
	acknowledged map[int64]float64 // values, by time
	sent         int               // by the load
}

// TestNodeIsDrainedUnderWrites empties one of six data nodes while clients write to all shards. On the way the command,
// another data node and the leading meta node are killed. In the end the node is removed: every acknowledged point is
// there, and the other nodes have equal shares of all bytes.
func TestNodeIsDrainedUnderWrites(t *testing.T) {
	d := &drain{
		Cluster: process.Start(t, process.Options{
			Meta: 3, Data: 6, Disk: 512 << 20, // how full the disk of this machine is must not matter
			Settings: map[string]map[string]any{"anti-entropy": {"check-interval": "5s", "settle": "2s"}},
		}),
		begin:        time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -drainDays),
		acknowledged: make(map[int64]float64),
	}
	d.fill(t)
	stop := d.load(t)
	gone := d.Data[5]
	before := d.owned(t, gone)
	if before == 0 {
		t.Fatal("the node owns nothing")
	}

	// The command and another data node are killed.
	run := d.rebalance(t, "-drain", gone.TCP, "-max-rate", "50k")
	copied := d.awaitCopies(t, run, 2)
	run.cmd.Process.Kill()
	d.Data[1].Stop(syscall.SIGKILL)
	run.wait()
	d.Data[1].Start()
	d.Data[1].AwaitUp()
	if left := d.owned(t, gone); left == 0 || left > before {
		t.Fatalf("the node owns %d shards, and owned %d: the command was killed too late", left, before)
	}

	// The leading meta node is killed.
	run = d.rebalance(t, "-max-rate", "50k")
	d.awaitCopies(t, run, copied+2)
	var leader *process.Node
	d.Await("a meta node leads", func() bool { leader = d.leader(t); return leader != nil })
	leader.Stop(syscall.SIGKILL)
	if err := run.wait(); err == nil || !strings.Contains(run.out.String(), "influxd-ctl rebalance again") {
		t.Errorf("without its meta node the command ends with %v\n%s", err, run.out.String())
	}
	leader.Start()
	d.Await("a meta node leads", func() bool { return d.leader(t) != nil })

	d.finish(t)
	if left := d.owned(t, gone); left != 0 {
		t.Fatalf("the node still owns %d shards", left)
	}
	if out := d.Ctl("remove-data", gone.TCP); strings.Contains(out, "lost") || strings.Contains(out, "fewer copies") {
		t.Error(out)
	}
	gone.Stop(syscall.SIGTERM)
	stop()
	d.complete(t)

	d.finish(t) // what was written meanwhile has changed the sizes
	d.balanced(t)
	d.complete(t)
}

// fill writes the points that are there before.
func (d *drain) fill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const create = `CREATE DATABASE db WITH REPLICATION 2 SHARD DURATION 1d`
	if _, err := d.Data[0].Client().Query(ctx, "", create); err != nil {
		t.Fatal(err)
	}
	for day := range drainDays {
		d.Await("a write to a new shard group", func() bool {
			return d.write(ctx, d.Data[day%6], "all", d.begin.AddDate(0, 0, day), pointsOfDay) == nil
		})
	}
}

// write writes points of one day, from a second of it on, and notes them when they are acknowledged.
func (d *drain) write(ctx context.Context, n *process.Node, level string, from time.Time, count int) error {
	var b strings.Builder
	points := make(map[int64]float64, count)
	for i := range count {
		at, v := from.Add(time.Duration(i)*time.Second).UnixNano(), rand.Float64()
		points[at] = v
		fmt.Fprintf(&b, "m,host=h%02d v=%v %d\n", i%30, v, at)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.Client().Write(ctx, "db", level, []byte(b.String())); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, v := range points {
		d.acknowledged[at] = v
	}
	return nil
}

// load writes to all shards through all nodes but the one that is drained, until stop. No point is sent twice: which
// value stays would depend on writes that were not acknowledged.
func (d *drain) load(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond) // two processors have more to do than this
		defer tick.Stop()
		for ; ctx.Err() == nil; d.sent++ {
			<-tick.C
			if n := d.Data[d.sent%5]; n.Up() {
				// Behind the points of fill, 8 seconds for each write.
				day, second := d.sent%drainDays, pointsOfDay+8*(d.sent/drainDays)
				d.write(ctx, n, "quorum", d.begin.AddDate(0, 0, day).Add(time.Duration(second)*time.Second), 8)
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		t.Logf("the load sent %d writes; %d points are acknowledged in all", d.sent, len(d.acknowledged))
	})
}

// run is a command that runs.
type run struct {
	cmd  *exec.Cmd
	out  *output
	wait func() error
}

// output is what a command printed by now.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// rebalance starts influxd-ctl rebalance.
func (d *drain) rebalance(t *testing.T, args ...string) *run {
	t.Helper()
	r := &run{out: &output{}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	meta := d.Meta[slices.IndexFunc(d.Meta, (*process.Node).Running)]
	all := append([]string{"-bind", meta.HTTP, "rebalance"}, args...)
	r.cmd = exec.CommandContext(ctx, d.Bin("influxd-ctl"), all...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.wait = sync.OnceValue(func() error {
		defer func() { t.Logf("rebalance %v took %v", args, time.Since(began)) }()
		return r.cmd.Wait()
	})
	return r
}

// finish runs influxd-ctl rebalance until it has ended, again when it says so: another meta node may come to lead.
func (d *drain) finish(t *testing.T) {
	t.Helper()
	for range 5 {
		r := d.rebalance(t)
		err := r.wait()
		t.Log(r.out.String())
		if err == nil {
			return
		} else if !strings.Contains(r.out.String(), "influxd-ctl rebalance again") {
			t.Fatal(err)
		}
	}
	t.Fatal("it never ends")
}

// awaitCopies waits until a run has made so many additional copies, or has ended a step already. It returns how many
// there are.
func (d *drain) awaitCopies(t *testing.T, r *run, want int) (additional int) {
	t.Helper()
	if !process.Poll(2*time.Minute, func() bool {
		additional = 0
		for _, sh := range d.shards(t) {
			additional += max(len(sh.Owners)-2, 0)
		}
		return additional >= want || strings.Contains(r.out.String(), ", done")
	}) {
		t.Fatalf("there are %d additional copies:\n%s", additional, r.out.String())
	}
	return additional
}

// leader is the meta node that leads, nil for none.
func (d *drain) leader(t *testing.T) *process.Node {
	t.Helper()
	var shown struct{ Raft struct{ Leader string } }
	out, err := d.TryCtl("show", "-json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &shown)
	}
	if err != nil {
		t.Logf("show: %v", err)
		return nil
	}
	for _, m := range d.Meta {
		if m.Running() && m.TCP == shown.Raft.Leader {
			return m
		}
	}
	return nil
}

// owned counts the shards of a node.
func (d *drain) owned(t *testing.T, n *process.Node) (count int) {
	t.Helper()
	for _, sh := range d.shards(t) {
		if slices.ContainsFunc(sh.Owners, func(o wire.Owner) bool { return o.TCPAddr == n.TCP }) {
			count++
		}
	}
	return count
}

func (d *drain) shards(t *testing.T) (shards []wire.Shard) {
	t.Helper()
	if err := json.Unmarshal([]byte(d.Ctl("show-shards", "-json")), &shards); err != nil {
		t.Fatal(err)
	}
	return shards
}

// complete checks that every node answers with all acknowledged points.
func (d *drain) complete(t *testing.T) {
	t.Helper()
	for _, n := range d.Data[:5] {
		var missing, wrong int
		d.Await(n.Name+" has all points", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			rows, err := n.Client().Query(ctx, "db", "SELECT v FROM m")
			if err != nil {
				return false
			}
			missing, wrong = d.compare(t, rows)
			return missing+wrong == 0
		})
	}
}

// compare counts the acknowledged points that an answer lacks, and those with another value.
func (d *drain) compare(t *testing.T, rows [][]any) (missing, wrong int) {
	t.Helper()
	got := make(map[int64]float64, len(rows))
	for _, row := range rows {
		at, err := row[0].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		if got[at], err = row[1].(json.Number).Float64(); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, want := range d.acknowledged {
		if v, ok := got[at]; !ok {
			missing++
		} else if v != want {
			wrong++
		}
	}
	if missing+wrong > 0 {
		t.Logf("%d points are missing, and %d have another value", missing, wrong)
	}
	return missing, wrong
}

// balanced checks that each node has its share of the bytes of all copies, and nothing is left to do.
func (d *drain) balanced(t *testing.T) {
	t.Helper()
	var plan wire.RebalancePlan
	if err := json.Unmarshal([]byte(d.Ctl("rebalance", "-dry-run", "-json")), &plan); err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) > 0 {
		t.Errorf("%+v is left to do", plan.Steps)
	}
	bytes, total := map[string]int64{}, int64(0)
	for _, copies := range d.copies(t) {
		for _, c := range copies {
			bytes[c.TCPAddr] += c.Size
			total += c.Size
		}
	}
	if len(bytes) != 5 {
		t.Errorf("copies are on %v", bytes)
	}
	mean := float64(total) / 5
	for addr, b := range bytes {
		t.Logf("%s has %d bytes, %+.1f %% of the mean", addr, b, 100*(float64(b)/mean-1))
		if math.Abs(float64(b)-mean) > 0.05*mean {
			t.Errorf("%s has %d bytes, and the mean is %.0f", addr, b, mean)
		}
	}
}

// copies are all copies of all shards.
func (d *drain) copies(t *testing.T) (out map[string][]wire.Copy) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.Meta[0].HTTP+"/shard-copies", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}
