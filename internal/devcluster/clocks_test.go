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

	out := mustCtl(ctx, t, c, "show")
	want := fmt.Sprintf(
		`\nThe clock of data node %d, %s, is (5m|4m5)[0-9.]+s behind those of the other nodes: set it, with NTP for example.\n$`,
		wrong.ID, wrong.TCPAddr,
	)
	if !regexp.MustCompile(want).MatchString(out) || strings.Count(out, "The clock of") != 1 {
		t.Errorf("want %s:\n%s", want, out)
	}
	var members struct {
		Data, Meta []struct {
			ClockSkewMs *int64
			ClockOff    bool
		}
	}
	if err := json.Unmarshal([]byte(mustCtl(ctx, t, c, "show", "-json")), &members); err != nil {
		t.Fatal(err)
	}
	for i, n := range slices.Concat(members.Data, members.Meta) {
		if n.ClockSkewMs == nil || n.ClockOff != (i == 1) || (*n.ClockSkewMs < -200_000) != (i == 1) {
			t.Errorf("node %d: %+v", i, n)
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
