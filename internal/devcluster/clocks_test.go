package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/devcluster"
)

// A node whose clock is wrong is named in the log of the others, in their statistics and by influxd-ctl show.
func TestWrongClocksAreNamed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	core, logged := observer.New(zap.WarnLevel)
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3, Logger: zap.New(core),
		Now: func(node int) time.Time {
			if node == 1 {
				return time.Now().Add(-5 * time.Minute)
			}
			return time.Now()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	wrong := c.Meta.State().DataNodes[1]

	// A node that answers late on a busy machine has no clock in that answer.
	within, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	var out string
	want := regexp.MustCompile(fmt.Sprintf(
		`\nThe clock of data node %d, %s, is (5m|4m5)[0-9.]+s behind those of the other nodes: set it, with NTP for example.\n$`,
		wrong.ID, wrong.TCPAddr,
	))
	if c.Wait(within, func() bool {
		out, err = runCtl(within, c, "show")
		return err == nil && want.MatchString(out)
	}) != nil || strings.Count(out, "The clock of") != 1 {
		t.Errorf("want %s:\n%s %v", want, out, err)
	}
	type member struct {
		ClockSkewMs *int64
		ClockOff    bool
	}
	var all []member
	if c.Wait(within, func() bool {
		if out, err = runCtl(within, c, "show", "-json"); err != nil {
			return false
		}
		var members struct{ Data, Meta []member }
		if err = json.Unmarshal([]byte(out), &members); err != nil {
			return false
		}
		all = slices.Concat(members.Data, members.Meta)
		return len(all) == 4 && !slices.ContainsFunc(all, func(m member) bool { return m.ClockSkewMs == nil })
	}) != nil {
		t.Fatalf("not all nodes tell their clocks:\n%s %v", out, err)
	}
	for i, n := range all {
		if n.ClockOff != (i == 1) || (*n.ClockSkewMs < -200_000) != (i == 1) {
			t.Errorf("node %d: off %t, by %d ms", i, n.ClockOff, *n.ClockSkewMs)
		}
	}

	for i := range 3 {
		if err := c.Wait(ctx, func() bool {
			rows := mustQuery(ctx, t, c, i, "", "SHOW STATS FOR 'clock'")
			off := 0
			for _, row := range rows {
				if fmt.Sprint(row[0]) == "1" {
					off++
				}
			}
			return len(rows) == 2 && off == map[bool]int{true: 2, false: 1}[i == 1]
		}); err != nil {
			t.Errorf("node %d: %v", i+1, mustQuery(ctx, t, c, i, "", "SHOW STATS FOR 'clock'"))
		}
	}
	seen := map[string]int{}
	for _, e := range logged.FilterMessageSnippet("The clock of another node differs").All() {
		fields := e.ContextMap()
		seen[fmt.Sprint(fields["data_node"], " says ", fields["node"] == wrong.TCPAddr)]++
	}
	// One line each: the first and the third of the second, the second of both others.
	if seen["1 says true"] != 1 || seen["3 says true"] != 1 || seen["2 says false"] != 2 || len(seen) != 4 {
		t.Errorf("logged: %v", seen) // the meta node's has no data_node
	}
}
