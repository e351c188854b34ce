package devcluster_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"concord/internal/datanode"
	"concord/internal/meta/wire"
)

// The documented kinds of inconsistent shards: in the metadata and not on disk, and on disk and not in the metadata.
func TestShowShardsNamesWhatIsOnDiskAlone(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	none := mustCtl(ctx, t, c, "show-shards", "-m")
	if strings.Count(none, "\n") != 3 {
		t.Fatalf("shards are inconsistent from the start:\n%s", none)
	}
	sh := c.Shards("db")[0]
	owner, other := c.Data[0], c.Data[1]
	if sh.Owned(other.Meta.NodeID()) {
		owner, other = other, owner
	}
	// A node that is no owner has a copy of the shard, and the owner has a shard that nobody knows.
	if err := other.Store.CreateShard("db", "autogen", sh.ID, true); err != nil {
		t.Fatal(err)
	}
	lost := filepath.Join(owner.Store.Path(), "gone", "autogen", "4711")
	if err := os.MkdirAll(lost, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lost, "000000001-000000001.tsm"), make([]byte, 2048), 0o644); err != nil {
		t.Fatal(err)
	}
	out := mustCtl(ctx, t, c, "show-shards", "-m", "-v")
	for _, want := range []string{
		fmt.Sprintf("Shard 4711 of gone.autogen is on the disk of %s, with 2.0 KiB, and not in the metadata\n",
			owner.TCPAddr()),
		fmt.Sprintf("Shard %d of db.autogen is on the disk of %s, ", sh.ID, other.TCPAddr()),
		fmt.Sprintf("[{ID:%d TCPAddr:%s State:not open LastModified:", owner.Meta.NodeID(), owner.TCPAddr()),
		"Err:not in the metadata}]",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("show-shards -m -v does not say %q:\n%s", want, out)
		}
	}
	if out := mustCtl(ctx, t, c, "show-shards"); strings.Contains(out, "4711") {
		t.Errorf("show-shards without -m:\n%s", out)
	}
	var got []struct {
		wire.Shard
		Copies []wire.Copy `json:"copies"`
	}
	if err := json.Unmarshal([]byte(mustCtl(ctx, t, c, "show-shards", "-m", "-json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[0].Copies) != 2 || !got[0].Copies[1].Unlisted || len(got[1].Copies) != 1 ||
		got[1].ID != 4711 || !got[1].Copies[0].Unlisted {
		t.Errorf("show-shards -m -json: %+v", got)
	}
}
