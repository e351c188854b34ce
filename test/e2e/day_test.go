//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/meta/wire"
	"concord/test/process"
)

// day is a cluster, what was written to it, and what an operator knows of it. It has a method for each step of the day.
type day struct {
	*process.Cluster
	begin   time.Time // of the points' times
	written atomic.Int64
}

// TestOperatorsDay is what an operator does with a cluster, on separate
// processes: three meta and four data nodes. Each step works on what those
// before it left.
func TestOperatorsDay(t *testing.T) {
	d := &day{
		Cluster: process.Start(t, process.Options{Meta: 3, Data: 4, Settings: map[string]map[string]any{
			"cluster": {"write-timeout": "3s"},
		}}),
		begin: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -2),
	}
	for _, step := range []struct {
		name string
		run  func(*day, *testing.T)
	}{
		{"the cluster is as it was made", (*day).shown},
		{"databases get their replicas", (*day).create},
		{"writes at each level, queries from every node", (*day).write},
		{"the Raft leader is killed during writes", (*day).killLeader},
		{"a killed data node is replaced", (*day).replace},
		{"all nodes restart in turn under load", (*day).rollingRestart},
		{"hot shards are truncated", (*day).truncate},
		{"a shard is copied and removed", (*day).copyShard},
		{"a dropped database is restored from its backup", (*day).restore},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(d, t) }) {
			t.Fatal("the steps after this one need it")
		}
	}
}

// ask queries a node and must get an answer.
func (d *day) ask(t *testing.T, n *process.Node, q string) [][]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	rows, err := n.Client().Query(ctx, "ops", q)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return rows
}

// running are the data nodes that run.
func (d *day) running() (out []*process.Node) {
	for _, n := range d.Data {
		if n.Running() {
			out = append(out, n)
		}
	}
	return out
}

// line is the i-th point: its values and its time follow from i alone.
func (d *day) line(i int64) string {
	ts := d.begin.Add(time.Duration(i*7919%(2*86400)) * time.Second).Add(time.Duration(i))
	return fmt.Sprintf("m,s=s%02d v=%di,f=%d.5,t=\"x%d\" %d\n", i%20, i, i, i%7, ts.UnixNano())
}

// send writes points through a node.
func (d *day) send(ctx context.Context, n *process.Node, level string, from, count int64) error {
	var b strings.Builder
	for i := from; i < from+count; i++ {
		b.WriteString(d.line(i))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return n.Client().Write(ctx, "ops", level, []byte(b.String()))
}

// load writes at quorum, as a client that goes to the next node after an
// error and sends the same again, until stop. stop tells how long the longest batch took.
func (d *day) load(t *testing.T) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		wg      sync.WaitGroup
		longest time.Duration
	)
	wg.Add(1)
	go func() {
		defer wg.Done()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for at := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			const batch = 40
			from, began := d.written.Load(), time.Now()
			at++
			for tries := 0; ; tries++ {
				n := d.Data[at%len(d.Data)]
				err := d.send(context.Background(), n, "quorum", from, batch)
				if err == nil {
					break
				}
				at++
				if time.Since(began) > time.Minute {
					t.Errorf("a write at quorum failed %d times, the last through %s: %v", tries+1, n.Name, err)
					return
				}
				var op *net.OpError
				if !errors.As(err, &op) {
					t.Logf("written again: %s: %v", n.Name, err)
				}
				<-tick.C
			}
			d.written.Add(batch)
			longest = max(longest, time.Since(began))
		}
	}()
	return func() time.Duration {
		cancel()
		wg.Wait()
		return longest
	}
}

// complete waits until every node that runs answers with all that was written.
func (d *day) complete(t *testing.T) {
	t.Helper()
	n := d.written.Load()
	want := fmt.Sprintf("[%d %d]", n, n*(n-1)/2)
	for _, node := range d.running() {
		got := ""
		if !process.Poll(time.Minute, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			rows, err := node.Client().Query(ctx, "ops", "SELECT count(v), sum(v) FROM m")
			got = fmt.Sprint(rows, err)
			return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1:]) == want
		}) {
			t.Fatalf("%s answers %s, want %s", node.Name, got, want)
		}
	}
}

// answers are what clients see of the database, from one node.
func (d *day) answers(t *testing.T, n *process.Node) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, q := range []string{
		"SELECT count(v), mean(f), first(v), last(v), max(f) FROM m",
		"SELECT sum(v) FROM m WHERE time >= 0 GROUP BY s, time(6h) fill(none)",
		"SELECT v, f, t FROM m WHERE s = 's07' ORDER BY time DESC LIMIT 50",
		"SHOW TAG VALUES FROM m WITH KEY = s",
		"SHOW FIELD KEYS",
		"SHOW MEASUREMENTS",
		"SHOW RETENTION POLICIES",
	} {
		out[q] = fmt.Sprint(d.ask(t, n, q))
	}
	return out
}

// sameAnswers compares what all nodes that run answer with want.
func (d *day) sameAnswers(t *testing.T, want map[string]string) {
	t.Helper()
	for _, n := range d.running() {
		if diff := cmp.Diff(want, d.answers(t, n)); diff != "" {
			t.Errorf("%s answers otherwise:\n%s", n.Name, diff)
		}
	}
}

// clean waits until anti-entropy of the whole cluster reports nothing.
func (d *day) clean(t *testing.T) {
	t.Helper()
	last := ""
	if !process.Poll(2*time.Minute, func() bool {
		s, raw, err := d.running()[0].Client().EntropyStatus(t.Context())
		last = fmt.Sprint(string(raw), err)
		return err == nil && s.Clean()
	}) {
		t.Fatalf("anti-entropy goes on reporting %s", last)
	}
}

func (d *day) shards(t *testing.T) (out []wire.Shard) {
	t.Helper()
	return shardsOf(t, d.Cluster, "ops")
}

// shardsOf are the shards of a database.
func shardsOf(t *testing.T, c *process.Cluster, db string) (out []wire.Shard) {
	t.Helper()
	var all []wire.Shard
	if err := json.Unmarshal([]byte(c.Ctl("show-shards", "-json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, sh := range all {
		if sh.Database == db {
			out = append(out, sh)
		}
	}
	if len(out) == 0 {
		t.Fatal("no shards")
	}
	return out
}

// ownersAgree asks each owner of each shard for the shard, which it answers from
// its own copy.
func (d *day) ownersAgree(t *testing.T) {
	t.Helper()
	for _, sh := range d.shards(t) {
		answers := make(map[string]string)
		for _, o := range sh.Owners {
			for _, n := range d.running() {
				if n.TCP == o.TCPAddr {
					answers[n.Name] = fmt.Sprint(d.ask(t, n,
						fmt.Sprintf("SELECT count(v), sum(v), mean(f), count(t) FROM m WHERE "+
							"time >= %d AND time < %d", sh.Start.UnixNano(), sh.End.UnixNano())))
				}
			}
		}
		if len(answers) != len(sh.Owners) {
			t.Errorf("shard %d: %d of its owners %v run", sh.ID, len(answers), sh.Owners)
		}
		first := ""
		for _, a := range answers {
			if first == "" {
				first = a
			}
			if a != first {
				t.Errorf("shard %d: its owners differ: %v", sh.ID, answers)
			}
		}
	}
}

// shown checks what show prints, on every meta node.
func (d *day) shown(t *testing.T) {
	want := []string{"Data Nodes\n==========\n", "Meta Nodes\n==========\n", "Raft Status\n==========\n"}
	for _, n := range append(slices.Clone(d.Data), d.Meta...) {
		want = append(want, n.TCP, n.HTTP)
	}
	for _, m := range d.Meta {
		// A follower may be a heartbeat behind.
		d.Await(m.Name+" shows all nodes", func() bool {
			out, err := d.CtlAt(m, "show")
			return err == nil && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(out, w) })
		})
	}
	d.Await("a meta node leads", func() bool { return d.leader(t) != nil })
}

// leader is the meta node that leads, nil for none.
func (d *day) leader(t *testing.T) *process.Node {
	t.Helper()
	var shown struct {
		Raft struct {
			Leader string   `json:"leader"`
			Peers  []string `json:"peers"`
		} `json:"raft"`
	}
	out, err := d.TryCtl("show", "-json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &shown)
	}
	if err != nil {
		t.Logf("show -json: %v", err)
		return nil
	}
	if len(shown.Raft.Peers) != 3 {
		t.Errorf("%d peers, want 3: %v", len(shown.Raft.Peers), shown.Raft.Peers)
	}
	for _, m := range d.Meta {
		if m.TCP == shown.Raft.Leader && m.Running() {
			return m
		}
	}
	return nil
}

func (d *day) create(t *testing.T) {
	d.ask(t, d.Data[0], `CREATE DATABASE plain`)
	d.everywhereKnown(t, "plain")
	// autogen, its duration, its shard groups' duration, its replicas
	if rows := d.ask(t, d.Data[1], `SHOW RETENTION POLICIES ON plain`); len(rows) != 1 ||
		fmt.Sprint(rows[0][3]) != "2" {
		t.Errorf("a policy without a factor on four data nodes is %v, want 2 replicas", rows)
	}
	ctx := t.Context()
	if _, err := d.Data[2].Client().Query(ctx, "",
		`CREATE RETENTION POLICY five ON plain DURATION 1d REPLICATION 5`); err == nil {
		t.Error("five replicas on four data nodes are accepted")
	}
	d.ask(t, d.Data[3], `CREATE DATABASE ops WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`)
	d.everywhereKnown(t, "ops")
}

// everywhereKnown waits until all data nodes know a database.
func (d *day) everywhereKnown(t *testing.T, name string) {
	t.Helper()
	for _, n := range d.running() {
		d.Await(n.Name+" sees database "+name, func() bool {
			return slices.ContainsFunc(d.ask(t, n, "SHOW DATABASES"), func(row []any) bool { return row[0] == name })
		})
	}
}

func (d *day) write(t *testing.T) {
	for i, n := range d.Data {
		for _, level := range []string{"any", "one", "quorum", "all"} {
			from := d.written.Load()
			var err error
			if !process.Poll(20*time.Second, func() bool { // a busy machine may take longer than write-timeout
				err = d.send(t.Context(), n, level, from, 100)
				return err == nil
			}) {
				t.Fatalf("write at %s through data%d: %v", level, i+1, err)
			}
			d.written.Add(100)
		}
	}
	d.complete(t)
	d.sameAnswers(t, d.answers(t, d.Data[0]))
	d.ownersAgree(t)
	for _, sh := range d.shards(t) {
		if len(sh.Owners) != 3 {
			t.Errorf("shard %d has %d owners", sh.ID, len(sh.Owners))
		}
	}
}

func (d *day) killLeader(t *testing.T) {
	stop := d.load(t)
	var old *process.Node
	d.Await("a meta node leads", func() bool { old = d.leader(t); return old != nil })
	old.Stop(syscall.SIGKILL)
	d.Await("another meta node leads", func() bool {
		now := d.leader(t)
		return now != nil && now != old
	})
	// The metadata can be changed, and the data nodes see it.
	d.ask(t, d.Data[1], `CREATE DATABASE after_the_leader`)
	d.everywhereKnown(t, "after_the_leader")
	old.Start()
	d.Await("the killed meta node is back and follows", func() bool {
		out, err := d.CtlAt(old, "show")
		return err == nil && strings.Contains(out, d.Data[0].TCP)
	})
	t.Logf("the longest write took %v", stop())
	d.complete(t)
}

func (d *day) replace(t *testing.T) {
	old := d.Data[3]
	var id uint64
	for _, sh := range d.shards(t) {
		for _, o := range sh.Owners {
			if o.TCPAddr == old.TCP {
				id = o.ID
			}
		}
	}
	// A shard whose copies were never found equal since they began looks like one
	// that all owners lost; so they are, first.
	d.Await("every copy was compared", func() bool {
		begun, err := filepath.Glob(filepath.Join(d.Dir, "data*", "meta", "entropy", "begun", "*"))
		return err == nil && len(begun) == 0
	})
	stop := d.load(t)
	old.Stop(syscall.SIGKILL)
	fresh := d.AddNode()
	out := d.Ctl("update-data", old.TCP, fresh.TCP)
	if want := fmt.Sprintf("Updated data node %d to %s\n", id, fresh.TCP); id != 0 && out != want {
		t.Errorf("update-data printed %q, want %q", out, want)
	}
	d.Await("the new address owns the shards of the old one", func() bool {
		owned := false
		for _, sh := range d.shards(t) {
			for _, o := range sh.Owners {
				if o.TCPAddr == old.TCP || o.ID == id && o.TCPAddr != fresh.TCP {
					return false
				}
				owned = owned || o.TCPAddr == fresh.TCP
			}
		}
		return owned
	})
	at := d.written.Load()
	d.Await("writes go on", func() bool { return d.written.Load() > at+400 })
	t.Logf("the longest write took %v", stop())
	d.complete(t)
	d.clean(t) // its shards come back automatically
	d.repairAll(t)
	d.ownersAgree(t)
}

// repairAll asks for the repair of all shards that differ, as an operator does.
func (d *day) repairAll(t *testing.T) {
	t.Helper()
	for _, sh := range d.shards(t) {
		d.Ctl("entropy", "repair", strconv.FormatUint(sh.ID, 10))
	}
	d.clean(t)
}

func (d *day) rollingRestart(t *testing.T) {
	stop := d.load(t)
	for _, n := range append(slices.Clone(d.Meta), d.running()...) {
		n.Stop(syscall.SIGTERM)
		n.Start()
		if slices.Contains(d.Meta, n) {
			d.Await(n.Name+" is back", func() bool {
				_, err := d.CtlAt(n, "show")
				return err == nil && d.leader(t) != nil
			})
			continue
		}
		n.AwaitUp()
		d.Await(n.Name+" has all again", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := n.Client().Query(ctx, "ops", "SELECT count(v) FROM m")
			return err == nil
		})
	}
	t.Logf("the longest write took %v", stop())
	d.complete(t)
	d.repairAll(t)
	d.ownersAgree(t)
}

func (d *day) truncate(t *testing.T) {
	n := d.running()[0]
	hot := func(at time.Time, v int) {
		t.Helper()
		var err error
		if !process.Poll(20*time.Second, func() bool { // a busy machine may take longer than write-timeout
			err = n.Client().Write(t.Context(), "ops", "all", fmt.Appendf(nil, "hot v=%di %d\n", v, at.UnixNano()))
			return err == nil
		}) {
			t.Fatal(err)
		}
	}
	hot(time.Now(), 1)
	if out := d.Ctl("truncate-shards", "-delay", "1s"); out != "Truncated shards.\n" {
		t.Errorf("truncate-shards printed %q", out)
	}
	d.Await("a shard of ops is marked as truncated", func() bool {
		return regexp.MustCompile(`ops .*Z\*`).MatchString(d.Ctl("show-shards"))
	})
	hot(time.Now().Add(time.Minute), 2)
	for _, node := range d.running() {
		if rows := d.ask(t, node, "SELECT count(v) FROM hot"); len(rows) != 1 || fmt.Sprint(rows[0][1]) != "2" {
			t.Errorf("%s counts %v around the cut, want 2", node.Name, rows)
		}
	}
	var ends []time.Time
	shards := d.shards(t)
	for i, a := range shards {
		for _, b := range shards[i+1:] {
			if a.Start.Before(b.End) && b.Start.Before(a.End) {
				t.Errorf("shards %d and %d overlap: %v-%v and %v-%v", a.ID, b.ID, a.Start, a.End, b.Start, b.End)
			}
		}
		ends = append(ends, a.End)
	}
	t.Logf("ends of shards: %v", ends)
}

func (d *day) copyShard(t *testing.T) {
	var (
		sh  wire.Shard
		dst *process.Node
	)
	for _, s := range d.shards(t) {
		for _, n := range d.running() {
			if !slices.ContainsFunc(s.Owners, func(o wire.Owner) bool {
				return o.TCPAddr == n.TCP
			}) {
				sh, dst = s, n
			}
		}
		if dst != nil {
			break
		}
	}
	if dst == nil {
		t.Fatal("every node owns every shard")
	}
	src, id := sh.Owners[0].TCPAddr, strconv.FormatUint(sh.ID, 10)
	if out, want := d.Ctl("copy-shard", src, dst.TCP, id), fmt.Sprintf("Copied shard %s from %s to %s\n",
		id, src, dst.TCP); out != want {
		t.Errorf("copy-shard printed %q, want %q", out, want)
	}
	if out := d.Ctl("copy-shard-status"); !strings.Contains(out, "Source") || !strings.Contains(out, "CurrentSize") {
		t.Errorf("copy-shard-status printed %q", out)
	}
	owners := func() (addrs []string) {
		for _, s := range d.shards(t) {
			if s.ID == sh.ID {
				for _, o := range s.Owners {
					addrs = append(addrs, o.TCPAddr)
				}
			}
		}
		return addrs
	}
	d.Await("the copy makes an owner", func() bool { return slices.Contains(owners(), dst.TCP) })
	d.Await("the new owner answers from its own copy", func() bool {
		return strings.Contains(fmt.Sprint(d.ask(t, dst, "SHOW SHARDS")), id)
	})
	d.ownersAgree(t)
	want := fmt.Sprintf("Removed shard %s from %s\n", id, dst.TCP)
	if out := d.Ctl("remove-shard", dst.TCP, id); out != want {
		t.Errorf("remove-shard printed %q, want %q", out, want)
	}
	d.Await("the removed copy has no owner", func() bool { return !slices.Contains(owners(), dst.TCP) })
	d.complete(t)
}

func (d *day) restore(t *testing.T) {
	dir := filepath.Join(d.Dir, "backup")
	want := d.answers(t, d.running()[0])
	out := d.Ctl("backup", "-strategy", "full", "-db", "ops", dir)
	t.Logf("backup:\n%s", out)
	if !strings.Contains(out, "Backing up meta data... Done.") ||
		!regexp.MustCompile(`(?m)^Backed up to .* in .*, transferred \d+ bytes$`).MatchString(out) {
		t.Errorf("backup printed:\n%s", out)
	}
	for _, pattern := range []string{"*.manifest", "*.meta", "*.s*.tar.gz"} {
		if files, _ := filepath.Glob(filepath.Join(dir, pattern)); len(files) == 0 {
			t.Errorf("the backup has no %s", pattern)
		}
	}
	d.ask(t, d.running()[1], `DROP DATABASE ops`)
	for _, n := range d.running() {
		d.Await("the database is gone on "+n.Name, func() bool {
			return !slices.ContainsFunc(d.ask(t, n, "SHOW DATABASES"), func(row []any) bool { return row[0] == "ops" })
		})
	}
	out = d.Ctl("restore", dir)
	t.Logf("restore:\n%s", out)
	if !strings.Contains(out, "Restoring meta data... Done.") ||
		!regexp.MustCompile(`(?m)^Restored from .* in .*, transferred \d+ bytes$`).MatchString(out) {
		t.Errorf("restore printed:\n%s", out)
	}
	d.complete(t)
	d.clean(t)
	d.sameAnswers(t, want)
	d.ownersAgree(t)
}
