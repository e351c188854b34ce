package devcluster_test

import (
	"fmt"
	"testing"
	"time"
)

// TestMissedWritesAndDeletesArrive cuts a node off, writes, deletes and writes
// again through both others, and asks the node alone after hinted handoff.
func TestMissedWritesAndDeletesArrive(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday()
	write := func(node int, line string, n int) {
		t.Helper()
		var b []byte
		for i := range n {
			b = fmt.Appendf(b, "%s %d\n", line, at.Add(time.Duration(i)*time.Second).UnixNano())
		}
		if err := c.Client(node).Write(ctx, "db", "quorum", b); err != nil {
			t.Fatal(err)
		}
	}
	write(0, "m,host=a v=1", 100)
	write(0, "gone v=1", 10)
	c.Cut(2)
	write(0, "m,host=a v=2", 50)
	write(1, "m,host=b v=1", 20)
	mustQuery(ctx, t, c, 0, "db", fmt.Sprintf("DELETE FROM m WHERE time >= %d", at.Add(90*time.Second).UnixNano()))
	mustQuery(ctx, t, c, 1, "db", "DROP MEASUREMENT gone")
	write(1, "gone v=2", 3)
	c.Heal(2)

	ask := func() string {
		m := map[string]string{}
		for _, name := range []string{"m", "gone"} {
			rows, err := c.Client(2).Query(ctx, "db", "SELECT count(v), sum(v) FROM "+name)
			if err != nil {
				return err.Error()
			}
			m[name] = fmt.Sprint(rows)
		}
		return fmt.Sprint(m)
	}
	want := fmt.Sprint(map[string]string{
		"m": fmt.Sprintf("[[0 %d %d]]", 90+20, 50*2+40+20), "gone": "[[0 3 6]]",
	})
	if err := c.Wait(ctx, func() bool {
		for _, sh := range c.Shards("db") {
			for _, n := range c.Data {
				if n.HintsPending(sh.ID) {
					return false
				}
			}
		}
		return true
	}); err != nil {
		t.Fatal("hinted handoff never ended: ", err)
	}
	got := ""
	if c.Wait(ctx, func() bool {
		c.Cut(2) // asked alone
		if got = ask(); got != want {
			c.Heal(2) // a write at quorum may still be on its way to it
		}
		return got == want
	}) != nil {
		t.Errorf("node 3 alone has %s, want %s", got, want)
	}
}

// TestDroppedWhileAway drops a database while a node is away, and makes it anew.
func TestDroppedWhileAway(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, at, time.Second)); err != nil {
		t.Fatal(err)
	}
	old := c.Shards("db")[0].ID
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "quorum", []byte("fresh v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return c.Data[2].Store.Shard(old) == nil }); err != nil {
		t.Fatal("the dropped shard is still there")
	}
	if err := c.Wait(ctx, func() bool {
		rows, err := c.Client(2).Query(ctx, "db", "SHOW MEASUREMENTS")
		return err == nil && fmt.Sprint(rows) == "[[fresh]]"
	}); err != nil {
		t.Fatal("the new database is not as it should be: ", mustQuery(ctx, t, c, 2, "db", "SHOW MEASUREMENTS"))
	}
}
