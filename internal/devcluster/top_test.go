package devcluster_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTopShowsNodesAndShards(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(100, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	last := ""
	await := func(what string, parts ...string) {
		t.Helper()
		if c.Wait(ctx, func() bool {
			for _, n := range c.Data {
				if n != nil {
					n.Entropy.CheckNow(ctx)
				}
			}
			last = mustCtl(ctx, t, c, "top", "-once")
			for _, p := range parts {
				if !regexp.MustCompile(p).MatchString(last) {
					return false
				}
			}
			return true
		}) != nil {
			t.Fatalf("top never says %s:\n%s", what, last)
		}
	}
	await("that all agree", `^.* agree\n100\.0 % agree, the last check of all ended`, `1 of 1 meta nodes answer`,
		regexp.QuoteMeta(c.Data[0].TCPAddr())+` +up .* % .*B`)
	away := c.Data[2].TCPAddr()
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	await("that a node is away", `^.* away\n0\.0 % agree`, `(?m)^! Data node `+regexp.QuoteMeta(away),
		regexp.QuoteMeta(away)+` +away +\d+`)
	if strings.Contains(last, "\x1b") {
		t.Errorf("it draws where there is no terminal: %q", last)
	}
}
