package devcluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/rpc"
)

const countAll = "SELECT count(f) FROM m"

// startWritten returns three data nodes with a database whose points all of them have.
func startWritten(t *testing.T) (context.Context, *devcluster.Cluster, cluster.Shard) {
	t.Helper()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), 1e9))
	return ctx, c, c.Shards("db")[0]
}

func mustExtra(t *testing.T, c *devcluster.Cluster, dir string) *datanode.Node {
	t.Helper()
	n, err := c.Extra(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// files are the sizes and times of all files below the shards' folders of a data node.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, sub := range []string{"data", "wal", "hh"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			out[path] = fmt.Sprint(info.Size(), info.ModTime())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// mustServeNothing checks each way in.
func mustServeNothing(ctx context.Context, t *testing.T, n *datanode.Node, shard cluster.Shard, why string) {
	t.Helper()
	got := n.Refusal()
	for began := time.Now(); got != "" && !strings.Contains(got, why) && time.Since(began) < 30*time.Second; {
		time.Sleep(20 * time.Millisecond) // other members may answer late on a busy machine
		got = n.Refusal()
	}
	if !strings.Contains(got, why) {
		t.Fatalf("the node serves, or says %q and not %q", got, why)
	}
	// The node looks again each second, and says something else while no other member answers.
	refused := func(what string, ask func() error) {
		t.Helper()
		err := ask()
		for began := time.Now(); err != nil && !strings.Contains(err.Error(), why) && time.Since(began) < 30*time.Second; {
			time.Sleep(20 * time.Millisecond)
			err = ask()
		}
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s is answered with %v", what, err)
		}
	}
	client := devcluster.Client{Base: "http://" + n.HTTPAddr()}
	refused("a query", func() error { _, err := client.Query(ctx, "db", countAll); return err })
	refused("a write", func() error { return client.Write(ctx, "db", "any", lines(1, yesterday(), 1)) })
	resp, err := http.Get(client.Base + "/ping")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("ping: %s", resp.Status)
	}
	conn, err := grpc.NewClient(n.TCPAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refused("a write of another node", func() error {
		_, err := rpc.NewReplicationClient(conn).WriteShard(ctx, &rpc.WriteShardRequest{ShardId: shard.ID, Database: "db"})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the code of a write of another node is %v", status.Code(err))
		}
		return err
	})
}

// awaitWritten waits until all owners have 200 points: the others connect to an owner that is back, or is another one
// now, a moment later.
func awaitWritten(ctx context.Context, t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	var err error
	if c.Wait(ctx, func() bool {
		err = c.Client(0).Write(ctx, "db", "all", lines(200, yesterday(), 1e9))
		return err == nil
	}) != nil {
		t.Fatal(err)
	}
}

// awaitCount waits until a node alone has all points in its own copy.
func awaitCount(ctx context.Context, t *testing.T, c *devcluster.Cluster, n *datanode.Node, want string) {
	t.Helper()
	got := ""
	if err := c.Wait(ctx, func() bool {
		rows, err := devcluster.Client{Base: "http://" + n.HTTPAddr()}.Query(ctx, "db", countAll)
		got = fmt.Sprint(rows, err)
		return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) == want
	}); err != nil {
		t.Fatalf("the answer is %s, want %s points", got, want)
	}
}

// TestReplacedNodeServesNothing: the place of a node that was away was given to another one. It comes back on its old
// folders.
func TestReplacedNodeServesNothing(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	old := addr(t, c, 2)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	before := files(t, c.DataDir(2))
	fresh := mustExtra(t, c, t.TempDir())
	if _, err := c.Meta.UpdateData(ctx, old, fresh.TCPAddr()); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	mustServeNothing(ctx, t, c.Data[2], shard, "whose place another one at "+fresh.TCPAddr()+" has now")
	if d := cmp.Diff(before, files(t, c.DataDir(2))); d != "" {
		t.Errorf("its files changed:\n%s", d)
	}
	_, err := c.Meta.UpdateData(ctx, fresh.TCPAddr(), old)
	if err == nil || !strings.Contains(err.Error(), "empty folders") {
		t.Errorf("the place was given back to old folders: %v", err)
	}
	awaitWritten(ctx, t, c)
	awaitCount(ctx, t, c, fresh, "200")
}

// TestNodeThatLostAllFoldersServesNoOtherNodeBeforeItJoins: it is up at the address that the others know. Nothing may
// be written there before update-data gives it its place back, and no answer comes from there.
func TestNodeThatLostAllFoldersServesNoOtherNodeBeforeItJoins(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	place := addr(t, c, 2)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.DataDir(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	fresh := c.Data[2]
	conn, err := grpc.NewClient(fresh.TCPAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const why = "it is in no cluster"
	refused := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), why) {
			t.Errorf("%s of another node is answered with %v", what, err)
		}
	}
	point, err := models.MustNewPoint("m", nil, models.Fields{"f": 1.0}, yesterday()).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	_, err = rpc.NewReplicationClient(conn).WriteShard(ctx, &rpc.WriteShardRequest{
		ShardId: shard.ID, Database: "db", RetentionPolicy: "autogen", Points: [][]byte{point},
	})
	refused("a write", err)
	answer, err := rpc.NewQueryClient(conn).CreateIterator(ctx, &rpc.IteratorRequest{ShardIds: []uint64{shard.ID}})
	if err == nil {
		_, err = answer.Recv()
	}
	refused("a query", err)
	if found, err := filepath.Glob(filepath.Join(c.DataDir(2), "data", "*", "*", "*")); err != nil || len(found) != 0 {
		t.Errorf("it has %v, %v", found, err)
	}
	if _, err := c.Meta.UpdateData(ctx, place, fresh.TCPAddr()); err != nil {
		t.Fatal(err)
	}
	awaitWritten(ctx, t, c)
	awaitCount(ctx, t, c, fresh, "200")
}

// TestNodeThatIsReplacedWhileItRunsStops: it is not told, and sees it in the metadata.
func TestNodeThatIsReplacedWhileItRunsStops(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	fresh := mustExtra(t, c, t.TempDir())
	if _, err := c.Meta.UpdateData(ctx, addr(t, c, 2), fresh.TCPAddr()); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return c.Data[2].Refusal() != "" }); err != nil {
		t.Fatal("the node that was replaced goes on")
	}
	// The HTTP API opens again a moment later.
	if err := c.Wait(ctx, func() bool {
		_, err := http.Get("http://" + c.Data[2].HTTPAddr() + "/ping")
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	mustServeNothing(ctx, t, c.Data[2], shard, "whose place another one at "+fresh.TCPAddr()+" has now")
	awaitCount(ctx, t, c, fresh, "100")
}

// TestCopyOfFoldersServesNothing: two processes have the folders of one node. The address leads to one of them.
func TestCopyOfFoldersServesNothing(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(c.DataDir(2))); err != nil {
		t.Fatal(err)
	}
	early := mustExtra(t, c, dir) // before the node itself is back
	const unreached = "where no other member reaches it"
	if err := c.Wait(ctx, func() bool { return strings.Contains(early.Refusal(), unreached) }); err != nil {
		t.Fatal("the copy says", early.Refusal())
	}
	mustServeNothing(ctx, t, early, shard, unreached)
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return c.Data[2].Refusal() == "" }); err != nil {
		t.Fatalf("the node itself serves nothing: %s", c.Data[2].Refusal())
	}
	if err := c.Wait(ctx, func() bool { return strings.Contains(early.Refusal(), "two processes") }); err != nil {
		t.Fatal("the copy says", early.Refusal())
	}
	mustServeNothing(ctx, t, early, shard, "another process answers at "+addr(t, c, 2))
	awaitWritten(ctx, t, c)
	awaitCount(ctx, t, c, c.Data[2], "200")
}

// TestDataNodesConfirmEachOther: after a power cut the meta nodes come last.
func TestDataNodesConfirmEachOther(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	for i := range c.Data {
		if err := c.StopData(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Meta.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(0); err != nil {
		t.Fatal(err)
	}
	mustServeNothing(ctx, t, c.Data[0], shard, "waits until another member")
	if err := c.StartData(1); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := c.Wait(ctx, func() bool { return c.Data[i].Refusal() == "" }); err != nil {
			t.Fatalf("node %d: %s", i+1, c.Data[i].Refusal())
		}
		awaitCount(ctx, t, c, c.Data[i], "100")
	}
}

// TestOnlyDataNodeServesWithoutTheMetaNodes: there is nobody else to ask.
func TestOnlyDataNodeServesWithoutTheMetaNodes(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 1, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), 1e9))
	if err := c.StopData(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Meta.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(0); err != nil {
		t.Fatal(err)
	}
	awaitCount(ctx, t, c, c.Data[0], "100")
}

// TestRemovedNodeJoinsAgainOnItsFolders: it was removed while it was away.
func TestRemovedNodeJoinsAgainOnItsFolders(t *testing.T) {
	t.Parallel()
	ctx, c, shard := startWritten(t)
	gone := addr(t, c, 2)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Meta.RemoveData(ctx, gone, true); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	mustServeNothing(ctx, t, c.Data[2], shard, "was removed from the cluster")
	var err error
	if c.Wait(ctx, func() bool { // it was down a moment ago
		_, err = c.Meta.AddData(ctx, gone)
		return err == nil
	}) != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return c.Data[2].Refusal() == "" }); err != nil {
		t.Fatal("it joined again, and says", c.Data[2].Refusal())
	}
	awaitCount(ctx, t, c, c.Data[2], "100")
	if c.Data[2].Store.Shard(shard.ID) == nil {
		t.Error("its files of the shard are gone")
	}
}

// TestNodeThatJoinsAgainDoesNotSendItsOldHints: it was removed while it kept writes for another node. From then on the
// others do not wait for it, and forget which writes and deletes are newer.
func TestNodeThatJoinsAgainDoesNotSendItsOldHints(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]bool{"removed while it is down": true, "removed while it runs": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			joinAgainWithHints(t, down)
		})
	}
}

func joinAgainWithHints(t *testing.T, down bool) {
	core, logged := observer.New(zapcore.WarnLevel)
	ctx, c := mustStartOptions(t, devcluster.Options{
		DataNodes: 3, Logger: zap.New(core),
		DataConfig: func(cfg *datanode.Config) {
			cfg.Cluster.WriteTimeout = itoml.Duration(3 * time.Second) // for as long, a node that is gone is remembered
		},
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	line := func(tags string, value int) []byte {
		return fmt.Appendf(nil, "m,%s v=%d %d\n", tags, value, yesterday().UnixNano())
	}
	write := func(node int, line []byte) {
		t.Helper()
		var err error
		if c.Wait(ctx, func() bool {
			err = c.Client(node).Write(ctx, "db", "quorum", line)
			return err == nil
		}) != nil {
			t.Fatal(err)
		}
	}
	c.CutLink(2, 0)
	write(2, line("is=newer", 9))
	write(2, line("is=deleted", 9))
	shard := c.Shards("db")[0]
	mustWait(ctx, t, c, "node 3 keeps writes for node 1", func() bool { return c.Data[2].HintsPending(shard.ID) })
	write(0, line("is=newer", 2))
	mustQuery(ctx, t, c, 0, "db", `DELETE FROM m WHERE "is" = 'deleted'`)

	former, gone := c.Data[2].Meta.NodeID(), addr(t, c, 2)
	if down {
		if err := c.StopData(2); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Meta.RemoveData(ctx, gone, true); err != nil {
			t.Fatal(err)
		}
	} else { // as if it could not be told
		if err := c.Data[0].Meta.Execute(cluster.DeleteDataNode{ID: former, Time: time.Now(), Adopt: true}); err != nil {
			t.Fatal(err)
		}
	}
	mustWait(ctx, t, c, "the others have forgotten what is newer", func() bool {
		for i := range 2 {
			rows := mustQuery(ctx, t, c, i, "", `SHOW STATS FOR 'order'`)
			if len(rows) != 1 || fmt.Sprint(rows[0][1]) != "0" || c.Data[i].DeletesRemembered() != 0 {
				return false
			}
		}
		return true
	})
	c.HealLink(2, 0)
	if down {
		if err := c.StartData(2); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if c.Wait(ctx, func() bool {
		_, err = c.Meta.AddData(ctx, gone)
		return err == nil
	}) != nil {
		t.Fatal(err)
	}
	mustWait(ctx, t, c, "it serves as another node, and keeps nothing for others", func() bool {
		n := c.Data[2]
		return n.Meta.NodeID() != former && n.Refusal() == "" && !n.HintsPending(shard.ID)
	})
	write(2, line("is=later", 3)) // it takes part again
	for i := range 2 {
		got := ""
		whole := func() bool { return c.Data[i].Unfit(ctx, shard.ID) == "" }
		mustWait(ctx, t, c, fmt.Sprintf("node %d answers from its own copy", i+1), func() bool {
			before := whole()
			got = fmt.Sprint(mustQuery(ctx, t, c, i, "db", `SELECT v FROM m GROUP BY "is"`))
			return before && whole()
		})
		at := yesterday().UnixNano()
		if want := fmt.Sprintf("[[%d 3] [%d 2]]", at, at); got != want { // the values of later and newer
			t.Errorf("node %d answers %s, want %s", i+1, got, want)
		}
	}
	aside := filepath.Join(c.DataDir(2), "hh", fmt.Sprintf("former-node%d-1", former))
	kept, err := filepath.Glob(filepath.Join(aside, fmt.Sprint(c.Data[0].Meta.NodeID()), fmt.Sprint(shard.ID), "*.hh"))
	if err != nil || len(kept) != 1 {
		t.Errorf("the hints are not kept: %v, %v", kept, err)
	}
	said := logged.FilterMessageSnippet("Set aside what hinted handoff kept for other nodes").All()
	if len(said) != 1 || said[0].ContextMap()["kept"] != aside {
		t.Errorf("the log says %v, want one line with %s", said, aside)
	}
}

// TestShardsOfAnotherServerAreRefused: their IDs mean something else in this cluster.
func TestShardsOfAnotherServerAreRefused(t *testing.T) {
	t.Parallel()
	ctx, c, _ := startWritten(t)
	dir := t.TempDir()
	for _, sub := range []string{"data", "wal"} {
		if err := os.MkdirAll(filepath.Join(dir, sub, "telegraf", "autogen", "1"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const want = "no cluster of Concord created (databases: telegraf)"
	if _, err := c.Extra(dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a node starts on them: %v", err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "data", "*")); err != nil || len(found) != 1 {
		t.Errorf("the start touched the folder: %v, %v", found, err)
	}

	// A node that left its own cluster has a mark of that.
	_, other, _ := startWritten(t)
	if _, err := other.Meta.RemoveData(ctx, addr(t, other, 2), true); err != nil {
		t.Fatal(err)
	}
	stranger := other.Data[2]
	answer := func(call func() error) (err error) { // it begins anew when it has left
		if c.Wait(ctx, func() bool {
			err = call()
			return err == nil || !strings.Contains(err.Error(), "is unreachable")
		}) != nil {
			t.Fatal(err)
		}
		return err
	}
	const wantStranger = "hold shards of another cluster"
	err := answer(func() error { _, err := c.Meta.AddData(ctx, stranger.TCPAddr()); return err })
	if err == nil || !strings.Contains(err.Error(), wantStranger) {
		t.Errorf("it joins another cluster: %v", err)
	}
	err = answer(func() error { _, err := c.Meta.UpdateData(ctx, addr(t, c, 2), stranger.TCPAddr()); return err })
	if err == nil || !strings.Contains(err.Error(), wantStranger) {
		t.Errorf("it takes a place in another cluster: %v", err)
	}
	if got := len(c.Meta.State().DataNodes); got != 3 {
		t.Errorf("the cluster has %d data nodes, want 3", got)
	}
	if err := answer(func() error { _, err := other.Meta.AddData(ctx, stranger.TCPAddr()); return err }); err != nil {
		t.Errorf("it cannot join its own cluster again: %v", err)
	}
}

// TestNodeOfAnEarlierVersionClaimsItsPlace: neither its folders nor the cluster's state have an identity.
func TestNodeOfAnEarlierVersionClaimsItsPlace(t *testing.T) {
	t.Parallel()
	ctx, c, _ := startWritten(t)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.DataDir(2), "meta", "node.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var who map[string]json.RawMessage
	if err := json.Unmarshal(b, &who); err != nil {
		t.Fatal(err)
	}
	delete(who, "identity")
	if b, err = json.Marshal(who); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(c.DataDir(2), "data", "concord-cluster")
	if err := errors.Join(os.WriteFile(path, b, 0o600), os.Remove(mark)); err != nil {
		t.Fatal(err)
	}
	n := c.Meta.State().DataNodes[2]
	if _, err := c.Meta.Execute(cluster.UpdateDataNode{ID: n.ID, TCPAddr: n.TCPAddr, HTTPAddr: n.HTTPAddr}); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return c.Meta.State().DataNodes[2].Identity != "" }); err != nil {
		t.Fatal("the node does not claim its place")
	}
	if got, want := c.Data[2].Meta.Identity(), c.Meta.State().DataNodes[2].Identity; got != want || n.Identity == want {
		t.Errorf("the place is %q's, the node is %q, and was %q", want, got, n.Identity)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
	awaitCount(ctx, t, c, c.Data[2], "100")
}
