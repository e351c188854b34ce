package devcluster_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/services/meta"
	"google.golang.org/protobuf/encoding/protowire"

	"concord/internal/cluster"
	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare/plain"
)

// A plain server becomes another owner of a shard with points of its own. From the change of the metadata on, answers
// of the owner that was there carry a warning, although the new one has not said a word.
func TestAnswersSayThatAShardIsMergingBeforeTheNewOwnerSpeaks(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 1)
	mustQuery(ctx, t, c, 0, "", "CREATE DATABASE db")
	n := c.Client(0)
	if err := n.Write(ctx, "db", "all", []byte("m v=1 1700000000000000000")); err != nil {
		t.Fatal(err)
	}
	warned := func(ctx context.Context) bool {
		rows, warnings, err := n.Ask(ctx, "db", "SELECT v FROM m")
		if err != nil || len(rows) != 1 {
			t.Fatalf("%v, %v", rows, err)
		}
		return strings.Contains(strings.Join(warnings, "; "), "adopted data node")
	}
	if warned(ctx) {
		t.Fatal("there is a warning before the adoption")
	}

	known := c.Data[0].Meta.State()
	server := &meta.Data{MaxShardID: 9, MaxShardGroupID: 9, Databases: known.Data.Clone().Databases}
	group := &server.Database("db").RetentionPolicies[0].ShardGroups[0]
	group.ID, group.Shards = 9, []meta.ShardInfo{{ID: 9}}
	plan, err := known.PlanAdoption(server, true)
	if err != nil {
		t.Fatal(err)
	}
	b, err := server.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	away := cluster.CreateDataNode{TCPAddr: "127.0.0.1:1", HTTPAddr: "127.0.0.1:1", Identity: "away"}
	adopt := cluster.AdoptServer{Node: away, Server: b, Merge: true, Moves: plan.Moves}
	if err := c.Data[0].Meta.Execute(adopt); err != nil {
		t.Fatal(err)
	}
	if !warned(ctx) {
		t.Error("the answer lacks the points of the new owner, and does not say so")
	}
	if why := c.Data[0].Unfit(ctx, plan.Merged[0]); why == "" {
		t.Error("the copy counts as whole: a backup would read it")
	}

	added, ok := c.Data[0].Meta.State().DataNodeByAddr(away.TCPAddr)
	if !ok {
		t.Fatal("the node was not added")
	}
	if err := c.Data[0].Meta.Execute(cluster.EndMerges{Node: added.ID}); err != nil {
		t.Fatal(err)
	}
	mustWait(ctx, t, c, "the merge has ended", func() bool { return !warned(ctx) })
}

// oldFolders are the folders of a data node of influxdb-cluster with one shard of points. It returns the metadata of a
// plain node with the same shard.
func oldFolders(ctx context.Context, t *testing.T, points []byte) (dir string, metadata *meta.Data) {
	t.Helper()
	dir = t.TempDir()
	n, err := plain.Start(plain.Options{Dir: dir, Index: "tsi1"})
	if err != nil {
		t.Fatal(err)
	}
	client := devcluster.Client{Base: "http://" + n.HTTPAddr()}
	if _, err := client.Query(ctx, "", "CREATE DATABASE db"); err != nil {
		t.Fatal(err)
	}
	if err := client.Write(ctx, "db", "one", points); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "meta", "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	metadata = &meta.Data{}
	if err := metadata.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	clientFile := []byte(`{"MetaServers":["old:8091"]}`)
	if err := os.WriteFile(filepath.Join(dir, "meta", "client.json"), clientFile, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, metadata
}

// oldMeta answers as a meta node of influxdb-cluster with data nodes of which each owns every shard. It returns its
// address.
func oldMeta(t *testing.T, metadata *meta.Data, leads bool, nodes map[uint64]*datanode.Node) string {
	t.Helper()
	d := metadata.Clone()
	group := &d.Database("db").RetentionPolicies[0].ShardGroups[0]
	group.Shards[0].Owners = nil
	var members []byte
	for id, n := range nodes {
		group.Shards[0].Owners = append(group.Shards[0].Owners, meta.ShardOwner{NodeID: id})
		b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), id)
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), n.HTTPAddr())
		b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), n.TCPAddr())
		members = protowire.AppendBytes(protowire.AppendTag(members, 10, protowire.BytesType), b)
	}
	b, err := d.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	leader := "other:8089"
	if leads {
		leader = "old:8089"
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.String() {
		case "/status":
			fmt.Fprintf(w, `{"nodeType":"meta","leader":%q,"httpAddr":"old:8091","raftAddr":"old:8089"}`, leader)
		case "/?index=0":
			w.Write(append(b, members...))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Two data nodes of an old cluster, each of which lacks a point, are adopted with its metadata. Answers carry a warning
// until both are there and were compared.
func TestInfluxDBClusterIsAdoptedAndItsCopiesAreCompared(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 0)
	const both, one, two = "m v=1 1700000000000000000\n", "m v=2 1700000001000000000\n", "m v=3 1700000002000000000\n"
	nodes := make(map[uint64]*datanode.Node)
	var metadata *meta.Data
	for id, points := range map[uint64]string{11: both + one, 12: both + two} {
		dir, d := oldFolders(ctx, t, []byte(points))
		nodes[id], metadata = mustExtra(t, c, dir), d
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if _, err := runCtl(ctx, c, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
	refused("adopt -influxdb-cluster <meta-http> first", "adopt", nodes[11].TCPAddr())
	refused("does not lead", "adopt", "-influxdb-cluster", oldMeta(t, metadata, false, nodes))
	refused("404", "adopt", "-influxdb-cluster", c.Meta.HTTPAddr())
	mustCtl(ctx, t, c, "adopt", "-influxdb-cluster", oldMeta(t, metadata, true, nodes))

	client := func(id uint64) devcluster.Client { return devcluster.Client{Base: "http://" + nodes[id].HTTPAddr()} }
	mustCtl(ctx, t, c, "adopt", nodes[11].TCPAddr())
	mustWait(ctx, t, c, "the first node says that its copy is not compared", func() bool {
		rows, warnings, err := client(11).Ask(ctx, "db", "SELECT v FROM m")
		return err == nil && len(rows) == 2 && len(warnings) > 0
	})
	if st := nodes[11].Meta.State(); !st.Merging(st.Shards()[0].ID) {
		t.Error("the merge has ended before the other owner knows of it")
	}
	refused("member already", "adopt", "-influxdb-cluster", oldMeta(t, metadata, true, nodes))
	mustCtl(ctx, t, c, "adopt", nodes[12].TCPAddr())
	for id := range nodes {
		mustWait(ctx, t, c, "both nodes have all points", func() bool {
			rows, warnings, err := client(id).Ask(ctx, "db", "SELECT v FROM m")
			return err == nil && len(rows) == 3 && len(warnings) == 0
		})
	}
	mustWait(ctx, t, c, "the merges have ended", func() bool { return len(nodes[11].Meta.State().Merges) == 0 })
	if st := nodes[11].Meta.State(); st.DataNodes[0].ID != 11 || st.DataNodes[1].ID != 12 {
		t.Errorf("the nodes are %+v", st.DataNodes)
	}
	if out := mustCtl(ctx, t, c, "adopt", nodes[12].TCPAddr()); !strings.Contains(out, "already") {
		t.Errorf("adopting it again prints %s", out)
	}
}
