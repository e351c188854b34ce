//go:build upgrade

package upgrade

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"concord/test/process"
)

// next is this build as one that works with nodes of its own version alone.
var next = sync.OnceValues(func() (b process.Build, err error) {
	dir, err := os.MkdirTemp("", "concord-next-")
	if err != nil {
		return b, err
	}
	defer os.RemoveAll(dir)
	versions, err := filepath.Abs("../../internal/protocol/versions.go")
	if err != nil {
		return b, err
	}
	instead, overlay := filepath.Join(dir, "versions.go"), filepath.Join(dir, "overlay.json")
	err = os.WriteFile(instead, []byte("package protocol\n\nconst current, oldest = 9, 9\n"), 0o600)
	if err != nil {
		return b, err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {versions: instead}})
	if err == nil {
		err = os.WriteFile(overlay, replace, 0o600)
	}
	if err != nil {
		return b, err
	}
	return process.BuildFrom("", "-overlay", overlay)
})

// Nodes whose versions may not be mixed refuse each other as they refuse nodes that are away: the others go on, nothing
// is lost, and the node takes part again when it is taken back to its version.
func TestNodesThatMayNotBeMixedRefuseEachOther(t *testing.T) {
	t.Parallel()
	strict, err := next()
	if err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Options{Meta: 3, Data: 3})
	c := &cluster{Cluster: p, t: t, new: process.ThisBuild(t), want: make(map[string]string)}
	c.run(0, `CREATE DATABASE "db" WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`)
	c.write(0, "all", "base", 0, allPoints, 1)
	restart := func(n *process.Node, b process.Build) {
		n.Stop(syscall.SIGTERM)
		n.Use(b)
		n.Start()
	}
	refuses := func(n *process.Node) {
		t.Helper()
		c.Await(n.Name+" logs why", func() bool { return strings.Contains(n.Log(), "may not be mixed") })
		if lines := strings.Count(n.Log(), "A node is refused"); lines > 1 {
			t.Errorf("%s logs %d lines for one host", n.Name, lines)
		}
	}

	newer := c.Data[2]
	restart(newer, strict)
	refuses(newer)
	c.write(0, "quorum", "base", 20, 60, 2)
	c.write(1, "quorum", "other", 0, allPoints, 3)
	c.right("a data node is too new", 0, 1)
	if _, err := newer.Client().Query(t.Context(), "db", "SELECT s, v FROM m"); err == nil {
		t.Error("a data node that all others refuse answers as if it had everything")
	}
	restart(newer, c.new)
	newer.AwaitUp()
	c.same("the data node has its version again")

	meta := c.Meta[2]
	restart(meta, strict)
	refuses(meta)
	c.run(0, `CREATE DATABASE "during"`)
	c.write(0, "all", "during", 0, allPoints, 4)
	restart(meta, c.new)
	c.Meta[0].Stop(syscall.SIGKILL)
	c.Await("it counts for the majority again", func() bool {
		_, err := c.Data[0].Client().Query(t.Context(), "", `CREATE DATABASE "after"`)
		return err == nil
	})
	c.right("the meta node has its version again", 0, 1, 2)
}
