package devcluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// asked is what became of queries for one number.
type asked struct {
	writing bool // points are written meanwhile, which queries need not have yet

	mu       sync.Mutex
	answers  int
	warned   int
	failed   int
	busy     int      // answers of a node that was not sure whether it reaches the others
	lacking  []string // answers that lack something and do not say so
	warnings []string
}

// count asks a node how many points m has, and notes an answer that lacks some of want without a warning.
func (a *asked) count(ctx context.Context, c devcluster.Client, want int64) (n int64) {
	rows, warnings, err := c.Ask(ctx, "db", "SELECT count(v) FROM m")
	if err == nil && len(rows) > 0 {
		n, _ = rows[0][1].(json.Number).Int64()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers++
	// A node that reached the others for a second too late, because the machine was busy, says so, and that is right. So
	// does one that has acknowledged a write which has not arrived at its own copy for two seconds.
	busy := func(said string) bool {
		return strings.Contains(said, "its node can reach") ||
			strings.Contains(said, "data nodes have told what they keep") ||
			a.writing && strings.Contains(said, "writes that were acknowledged are still on their way to it")
	}
	switch {
	case err != nil && busy(err.Error()) || slices.ContainsFunc(warnings, busy):
		a.busy++
	case err != nil:
		a.failed++
		a.warnings = append(a.warnings, err.Error())
	case len(warnings) > 0:
		a.warned++
		a.warnings = append(a.warnings, warnings...)
	case n < want:
		a.lacking = append(a.lacking, fmt.Sprintf("%s: %d of %d points", c.Base, n, want))
	}
	return n
}

func (a *asked) check(t *testing.T, maxWarned int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lacking) > 0 {
		t.Errorf("%d of %d answers lack points and do not say so, the first: %s", len(a.lacking), a.answers,
			a.lacking[0])
	}
	if a.answers >= 20 && a.busy > a.answers*3/4 {
		t.Errorf("for %d of %d answers the node was not sure whether it reaches the others", a.busy, a.answers)
	}
	if bad := a.warned + a.failed; bad > maxWarned {
		t.Errorf("%d of %d answers are warnings or errors, the first: %s", bad, a.answers, a.warnings[0])
	}
}

// place is which data node of the cluster has an ID.
func place(c *devcluster.Cluster, id uint64) int {
	for i, n := range c.Data {
		if n.Meta.NodeID() == id {
			return i
		}
	}
	return -1
}

// points are n points of one series, from the i-th second on.
func points(at time.Time, i, n int) []byte {
	var b []byte
	for k := range n {
		b = fmt.Appendf(b, "m v=%d %d\n", i+k, at.Add(time.Duration(i+k)*time.Second).UnixNano())
	}
	return b
}

// An owner that was away answers nothing out of its own copy before it has what it missed.
func TestReturningOwnerIsNotReadBeforeItHasWhatItMissed(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 4, func(cfg *datanode.Config) {
		cfg.HintedHandoff.RetryRateLimit = itoml.Size(150_000) // so that it takes some seconds
		cfg.HintedHandoff.BatchSize = 50_000
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday()
	write := func(i, n int) {
		t.Helper()
		if err := c.Client(0).Write(ctx, "db", "quorum", points(at, i, n)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 100)
	owners := c.Shards("db")[0].Owners
	away := place(c, owners[1])
	if away == 0 {
		away = place(c, owners[2])
	}
	if err := c.StopData(away); err != nil {
		t.Fatal(err)
	}
	const total = 40_000
	for i := 100; i < total; i += 4_990 {
		write(i, min(4_990, total-i))
	}
	if err := c.StartData(away); err != nil {
		t.Fatal(err)
	}
	var a asked
	pending := false
	for {
		still := false
		for i, n := range c.Data {
			still = still || i != away && n.HintsPending(c.Shards("db")[0].ID)
		}
		for i := range c.Data {
			a.count(ctx, c.Client(i), total)
		}
		pending = pending || still
		if !still {
			break
		}
	}
	if !pending {
		t.Error("nothing was pending: the test shows nothing")
	}
	a.check(t, 0)
}

// An owner whose disk is new is not read, and gets everything back, while its shard is written to all the time.
func TestWipedOwnerIsNotReadAndIsRepairedWhileItsShardIsWritten(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		// as if all were hot
		cfg.AntiEntropy.Settle, cfg.AntiEntropy.CheckInterval = itoml.Duration(time.Hour), itoml.Duration(time.Hour)
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	at := yesterday()
	const old = 20_000
	for i := 0; i < old; i += 5_000 {
		if err := c.Client(0).Write(ctx, "db", "all", points(at, i, 5_000)); err != nil {
			t.Fatal(err)
		}
	}
	sh := c.Shards("db")[0]
	wiped := place(c, sh.Owners[1])
	mustCtl(ctx, t, c, "entropy", "pause") // also over a restart: the test looks at the copy before it is repaired
	if err := c.StopData(wiped); err != nil {
		t.Fatal(err)
	}
	if err := c.Wipe(wiped); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(wiped); err != nil {
		t.Fatal(err)
	}
	writing := place(c, sh.Owners[0])
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		pause := time.Nanosecond
		if testing.Short() {
			pause = 5 * time.Millisecond // a repair under the race detector ends in seconds then, and not in minutes
		}
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := old; ; i++ { // in the window that holds the old points
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := c.Client(writing).Write(ctx, "db", "one", points(at, i, 1)); err != nil && ctx.Err() == nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	})
	defer func() { close(stop); writer.Wait() }()
	a := asked{writing: true}
	whole := func() bool { return len(c.Data[wiped].Unfit(ctx, sh.ID)) == 0 }
	if whole() {
		t.Error("the wiped copy counts as whole")
	}
	if err := c.Wait(ctx, func() bool { // the first call may meet a connection to the former process
		_, err := runCtl(ctx, c, "entropy", "resume")
		return err == nil
	}); err != nil {
		t.Fatal("repairs do not go on")
	}
	if err := c.Wait(ctx, func() bool {
		for i := range c.Data {
			a.count(ctx, c.Client(i), old)
		}
		return whole()
	}); err != nil {
		t.Fatalf("the wiped copy never became whole: %s", c.Data[wiped].Unfit(ctx, sh.ID))
	}
	a.check(t, 0)
	c.Cut(wiped) // asked alone
	if n := new(asked).count(ctx, c.Client(wiped), 0); n < old {
		t.Errorf("the repaired copy has %d of %d points", n, old)
	}
}

// alone waits until a node whose links are cut has noticed.
func alone(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, shard uint64) {
	t.Helper()
	if err := c.Wait(ctx, func() bool { return c.Data[node].Unfit(ctx, shard) != "" }); err != nil {
		t.Fatalf("node %d does not notice that it is alone", node+1)
	}
}

// A node that cannot hear of the others says that its answer may be incomplete.
func TestIsolatedOwnerWarns(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		if strings.HasSuffix(cfg.Meta.Dir, filepath.Join("data3", "meta")) {
			cfg.Cluster.IncompleteReads = "error"
		}
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "all", points(yesterday(), 0, 10)); err != nil {
		t.Fatal(err)
	}
	id := c.Shards("db")[0].ID
	for node, want := range map[int]string{1: "warning", 2: "error"} {
		c.Cut(node)
		alone(ctx, t, c, node, id)
		var rows [][]any
		var err error
		var said string
		_ = c.Wait(ctx, func() bool { // for a moment it waits for what others keep for it
			var warnings []string
			rows, warnings, err = c.Client(node).Ask(ctx, "db", "SELECT count(v) FROM m")
			if said = strings.Join(warnings, "; "); err != nil {
				said = err.Error()
			}
			return strings.Contains(said, "can reach 1 of 3 data nodes")
		})
		if (err != nil) != (want == "error") ||
			!strings.Contains(said, fmt.Sprintf("no whole copy can be read of shard %d of db.autogen", id)) ||
			!strings.Contains(said, "can reach 1 of 3 data nodes") {
			t.Errorf("node %d: %v, %q", node+1, rows, said)
		}
		if want == "warning" && fmt.Sprint(rows) != "[[0 10]]" {
			t.Errorf("node %d has %v", node+1, rows)
		}
		c.Heal(node)
		if err := c.Wait(ctx, func() bool {
			rows, warnings, err := c.Client(node).Ask(ctx, "db", "SELECT count(v) FROM m")
			return err == nil && len(warnings) == 0 && fmt.Sprint(rows) == "[[0 10]]"
		}); err != nil {
			t.Errorf("node %d does not answer as before", node+1)
		}
	}
}

// What a node acknowledged is in its next answer, at every level.
func TestNodeShowsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2 SHARD DURATION 1h`)
	at := yesterday()
	for i := range 60 {
		node, level := i%3, []string{"one", "any"}[i%2]
		when := at.Add(-time.Duration(i) * time.Hour) // a new shard
		line := fmt.Appendf(nil, "m v=%d %d", i, when.UnixNano())
		if err := c.Client(node).Write(ctx, "db", level, line); err != nil {
			t.Fatal(err)
		}
		rows, err := c.Client(node).Query(ctx, "db", fmt.Sprintf("SELECT v FROM m WHERE time = %d", when.UnixNano()))
		if err != nil || len(rows) != 1 {
			t.Errorf("write %d at %s through node %d: the next query has %v, %v", i, level, node+1, rows, err)
		}
	}
}

// What a node keeps for owners that it could not tell is in its next answer, or the answer says that it is not.
func TestNodeKnowsWhatItKeepsForOthers(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2 SHARD DURATION 1h`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", points(at, 0, 1)); err != nil {
		t.Fatal(err)
	}
	owners := c.Shards("db")[0].Owners
	node := slices.IndexFunc([]int{0, 1, 2}, func(i int) bool {
		return !slices.ContainsFunc(owners, func(id uint64) bool { return place(c, id) == i })
	})
	for i := range 20 {
		when := at.Add(time.Second * time.Duration(i+1)).UnixNano()
		c.Cut(node)
		err := c.Client(node).Write(ctx, "db", "any", fmt.Appendf(nil, "m v=%d %d", i, when))
		c.Heal(node)
		if err != nil {
			t.Fatal(err)
		}
		rows, warnings, err := c.Client(node).Ask(ctx, "db", fmt.Sprintf("SELECT v FROM m WHERE time = %d", when))
		if err != nil || len(rows) != 1 && len(warnings) == 0 {
			t.Errorf("write %d: the next query has %v, without a warning, %v", i, rows, err)
		}
	}
}

// A shard that no owner can open is not one that was never written to.
func TestShardThatCannotBeOpenedIsNotEmpty(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.Data.Index = "tsi1" })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	if err := c.Client(0).Write(ctx, "db", "all", points(yesterday(), 0, 10)); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("db")[0]
	owner := place(c, sh.Owners[0])
	if err := c.StopData(owner); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.DataDir(owner), "data", "db", "autogen", fmt.Sprint(sh.ID))
	// The engine has the shard's index as a folder.
	if err := os.RemoveAll(filepath.Join(path, "index")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "index"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(owner); err != nil {
		t.Fatal(err)
	}
	for i := range c.Data {
		if rows, err := c.Client(i).Query(ctx, "db", "SELECT count(v) FROM m"); err == nil {
			t.Errorf("node %d answers %v", i+1, rows)
		}
	}
}

// SELECT INTO stores nothing while a copy it needs is not whole, and goes on when one is.
func TestSelectIntoWaitsForWholeCopies(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "all", points(yesterday(), 0, 10)); err != nil {
		t.Fatal(err)
	}
	c.Cut(1)
	alone(ctx, t, c, 1, c.Shards("db")[0].ID)
	done := make(chan error, 1)
	go func() {
		_, err := c.Client(1).Query(ctx, "db", "SELECT mean(v) INTO copied FROM m")
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatal("it did not wait: ", err)
	case <-time.After(500 * time.Millisecond):
	}
	c.Heal(1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if rows := mustQuery(ctx, t, c, 1, "db", "SELECT * FROM copied"); fmt.Sprint(rows) != "[[0 4.5]]" {
		t.Errorf("stored: %v", rows)
	}
}

// Points that were deleted do not come back from a node whose folders are an old copy.
func TestRolledBackNodeBringsNothingBack(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", points(at, 0, 100)); err != nil {
		t.Fatal(err)
	}
	if err := c.StopData(1); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(c.DataDir(1))); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return len(c.Data[1].Unfit(ctx, c.Shards("db")[0].ID)) == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { // node 3 may find its connection to the former node 2 reset
		return c.Client(2).Write(ctx, "db", "all", points(at, 100, 20)) == nil
	}); err != nil {
		t.Fatal(err)
	}
	id := c.Shards("db")[0].ID
	for _, left := range []int{70, 60} { // the second time to the same image
		before := at.Add(time.Duration(120-left) * time.Second)
		mustQuery(ctx, t, c, 0, "db", fmt.Sprintf("DELETE FROM m WHERE time < %d", before.UnixNano()))
		if err := c.Wait(ctx, func() bool {
			return c.Data[0].Heard(c.Data[1].Meta.NodeID(), c.Data[1].Marked())
		}); err != nil {
			t.Fatal("node 1 does not hear of node 2's delete")
		}
		rollBack(t, c, 1, old)
		if err := c.Wait(ctx, func() bool {
			for i := range c.Data {
				rows, warnings, err := c.Client(i).Ask(ctx, "db", "SELECT count(v) FROM m")
				if err == nil && len(warnings) == 0 && fmt.Sprint(rows) != fmt.Sprintf("[[0 %d]]", left) {
					t.Fatalf("node %d: %v", i+1, rows)
				}
			}
			return len(c.Data[1].Unfit(ctx, id)) == 0
		}); err != nil {
			t.Fatal("node 2 never became whole: ", c.Data[1].Unfit(ctx, id))
		}
	}
	for i := range c.Data {
		c.Cut(i) // asked alone
		if rows, _ := c.Client(i).Query(ctx, "db", "SELECT count(v) FROM m"); fmt.Sprint(rows) != "[[0 60]]" {
			t.Errorf("node %d alone has %v", i+1, rows)
		}
		c.Heal(i)
	}
}

// The same with two copies, of which the other one lacks what the node kept for it: there is no whole copy, and what
// was deleted stays deleted all the same.
func TestRolledBackNodeBringsNothingBackToACopyThatLacksWrites(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", points(at, 0, 100)); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("db")[0]
	away, rolled := place(c, sh.Owners[0]), place(c, sh.Owners[1])
	if err := c.StopData(away); err != nil {
		t.Fatal(err)
	}
	if err := c.Client(rolled).Write(ctx, "db", "one", points(at, 100, 20)); err != nil {
		t.Fatal(err)
	}
	if err := c.StopData(rolled); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir() // with writes that wait for the other owner
	if err := os.CopyFS(old, os.DirFS(c.DataDir(rolled))); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{rolled, away} {
		if err := c.StartData(i); err != nil {
			t.Fatal(err)
		}
	}
	whole := func() bool { return c.Data[away].Unfit(ctx, sh.ID)+c.Data[rolled].Unfit(ctx, sh.ID) == "" }
	if err := c.Wait(ctx, whole); err != nil {
		t.Fatal("the owners never became whole")
	}
	// What was written over is why the older copy is made anew: the deletes that it missed have run on it by then.
	if err := c.Client(away).Write(ctx, "db", "all", fmt.Appendf(nil, "m v=-1 %d", at.Add(110*time.Second).UnixNano())); err != nil {
		t.Fatal(err)
	}
	mustQuery(ctx, t, c, away, "db", fmt.Sprintf("DELETE FROM m WHERE time < %d", at.Add(50*time.Second).UnixNano()))
	if err := c.Wait(ctx, func() bool {
		return c.Data[away].Heard(c.Data[rolled].Meta.NodeID(), c.Data[rolled].Marked())
	}); err != nil {
		t.Fatal("the other owner does not hear of the delete")
	}
	rollBack(t, c, rolled, old)
	awaitNewName(ctx, t, c, rolled, old)
	if err := c.Wait(ctx, whole); err != nil {
		t.Fatalf("the owners never became whole: %q, %q", c.Data[away].Unfit(ctx, sh.ID),
			c.Data[rolled].Unfit(ctx, sh.ID))
	}
	for _, i := range []int{away, rolled} {
		c.Cut(i) // asked alone
		if rows, _ := c.Client(i).Query(ctx, "db", "SELECT count(v) FROM m"); fmt.Sprint(rows) != "[[0 70]]" {
			t.Errorf("node %d alone has %v", i+1, rows)
		}
		if rows, _ := c.Client(i).Query(ctx, "db", "SELECT min(v) FROM m"); len(rows) != 1 || fmt.Sprint(rows[0][1]) != "-1" {
			t.Errorf("node %d alone has an old value: %v", i+1, rows)
		}
		c.Heal(i)
	}
	if kept, err := filepath.Glob(filepath.Join(c.DataDir(rolled), "meta", "entropy", "aside",
		fmt.Sprint(sh.ID)+"-*")); err != nil || len(kept) == 0 {
		t.Error("the files of the copy that was made anew are not kept:", err)
	}
}

// rollBack gives a node the folders that it had before.
func rollBack(t *testing.T, c *devcluster.Cluster, node int, old string) {
	t.Helper()
	if err := errors.Join(c.StopData(node), os.RemoveAll(c.DataDir(node))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.CopyFS(c.DataDir(node), os.DirFS(old)), c.StartData(node)); err != nil {
		t.Fatal(err)
	}
}

// awaitNewName waits until a node has found out that its folders are those that it had before. It gives its data
// folder another name then, which stays. That its copies are not whole may end before a test looks.
func awaitNewName(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, old string) {
	t.Helper()
	name := func(dir string) string {
		b, err := os.ReadFile(filepath.Join(dir, "data", "concord-folder"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := name(old)
	if err := c.Wait(ctx, func() bool { return name(c.DataDir(node)) != before }); err != nil {
		t.Fatalf("node %d does not find out that its folders are older than they were", node+1)
	}
}

// The other owner loses its disk at the same time: the copy that was rolled back is all that is left. What was deleted
// since stays deleted, because all nodes remember deletes.
func TestRolledBackNodeThatIsAllThatIsLeftBringsNothingBack(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", points(at, 0, 100)); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("db")[0]
	wiped, rolled := place(c, sh.Owners[0]), place(c, sh.Owners[1])
	third := 3 - wiped - rolled
	if err := c.StopData(rolled); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	if err := errors.Join(os.CopyFS(old, os.DirFS(c.DataDir(rolled))), c.StartData(rolled)); err != nil {
		t.Fatal(err)
	}
	whole := func() bool { return c.Data[wiped].Unfit(ctx, sh.ID)+c.Data[rolled].Unfit(ctx, sh.ID) == "" }
	if err := c.Wait(ctx, whole); err != nil {
		t.Fatal("the owners never became whole")
	}
	mustQuery(ctx, t, c, third, "db", fmt.Sprintf("DELETE FROM m WHERE time < %d", at.Add(50*time.Second).UnixNano()))
	if err := c.Wait(ctx, func() bool {
		return c.Data[third].Heard(c.Data[rolled].Meta.NodeID(), c.Data[rolled].Marked()) &&
			c.Data[third].DeletesRemembered() == 0 // nothing older can arrive any more
	}); err != nil {
		t.Fatal("the deletes are not forgotten")
	}
	if err := errors.Join(c.StopData(wiped), c.Wipe(wiped)); err != nil {
		t.Fatal(err)
	}
	rollBack(t, c, rolled, old)
	if err := c.StartData(wiped); err != nil {
		t.Fatal(err)
	}
	awaitNewName(ctx, t, c, rolled, old)
	if err := c.Wait(ctx, whole); err != nil {
		t.Fatalf("the owners never became whole: %q, %q", c.Data[wiped].Unfit(ctx, sh.ID), c.Data[rolled].Unfit(ctx, sh.ID))
	}
	for _, i := range []int{wiped, rolled} {
		c.Cut(i) // asked alone
		if rows, _ := c.Client(i).Query(ctx, "db", "SELECT count(v) FROM m"); fmt.Sprint(rows) != "[[0 50]]" {
			t.Errorf("node %d alone has %v", i+1, rows)
		}
		c.Heal(i)
	}
}

// An owner that reaches a limit takes a part of a write. Queries through it read the other owner, which has all.
func TestOwnerThatTookAPartOfAWriteIsNotRead(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) {
		if strings.Contains(cfg.Data.Dir, "data2") {
			cfg.Data.MaxValuesPerTag = 3
		}
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	write := func(n int) {
		t.Helper()
		var b []byte
		for i := range n {
			b = fmt.Appendf(b, "m,s=%d v=1 %d\n", i, yesterday().UnixNano())
		}
		err := c.Client(0).Write(ctx, "db", "all", b)
		if err != nil && !strings.Contains(err.Error(), "max-values-per-tag") {
			t.Fatal(err)
		}
	}
	write(4) // the engine does not count within one write
	const total = 6
	write(total)
	var a asked
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		for i := range c.Data {
			a.count(ctx, c.Client(i), total)
		}
	}
	a.check(t, 0)
}
