package devcluster_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"concord/internal/datanode"
)

// TestDropDuringACopyLeavesNoFiles drops a database while a node fetches the files of a copy that it lacks.
func TestDropDuringACopyLeavesNoFiles(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) {
		cfg.AntiEntropy.MaxRate = 32 << 10 // the copy takes longer than the test waits for the drop
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	random := make([]byte, 40<<10)
	source := rand.NewChaCha8([32]byte{1})
	for i := range 100 {
		source.Read(random)
		mustWriteAll(ctx, t, c, "db", fmt.Appendf(nil, "m,host=a s=%q %d\n",
			base64.StdEncoding.EncodeToString(random), yesterday().Add(time.Duration(i)*time.Second).UnixNano()))
	}
	mustCtl(ctx, t, c, "rebalance", "-dry-run") // writes it to files
	for _, sh := range c.Shards("db") {
		if err := c.Data[1].Store.DeleteShard(sh.ID); err != nil {
			t.Fatal(err)
		}
	}
	incoming := filepath.Join(c.DataDir(1), "meta", "entropy", "incoming")
	files := func() []string {
		found, _ := filepath.Glob(filepath.Join(incoming, "*", "*"))
		return found
	}
	mustWait(ctx, t, c, "the copy does not begin", func() bool { return len(files()) > 0 })
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Wait(within, func() bool {
		left, err := os.ReadDir(incoming)
		return err == nil && len(left) == 0
	}); err != nil {
		t.Errorf("the drop left %v", files())
	}
	for _, n := range c.Data {
		for _, id := range n.Store.ShardIDs() {
			if sh := n.Store.Shard(id); sh.Database() == "db" {
				t.Errorf("shard %s is there", strconv.FormatUint(id, 10))
			}
		}
	}
}
