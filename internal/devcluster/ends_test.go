package devcluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
)

// TestTimesAtBothEndsAreWrittenAndFound writes the first and the last times that the engine takes, and those beyond.
func TestTimesAtBothEndsAreWrittenAndFound(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	var batch, found []string
	for _, at := range []int64{models.MinNanoTime, models.MinNanoTime + 1, 0, models.MaxNanoTime - 1, models.MaxNanoTime} {
		batch = append(batch, fmt.Sprintf("m v=1 %d", at))
		found = append(found, fmt.Sprint(at))
	}
	write := func(node int, batch []string) error {
		return c.Client(node).Write(ctx, "db", "all", []byte(strings.Join(batch, "\n")))
	}
	if err := write(0, batch); err != nil {
		t.Fatal(err)
	}
	beyond := []string{fmt.Sprintf("m v=2 %d", models.MinNanoTime-1), fmt.Sprintf("m v=2 %d", models.MaxNanoTime+1)}
	for node := range c.Data {
		err := write(node, append(beyond, batch...))
		if err == nil || !strings.Contains(err.Error(), "partial write") ||
			!strings.Contains(err.Error(), "time outside range") {
			t.Errorf("node %d: times out of range: %v, want a partial write", node+1, err)
		}
		var got []string
		for _, row := range mustQuery(ctx, t, c, node, "db", "SELECT v FROM m") {
			got = append(got, fmt.Sprint(row[0]))
		}
		if d := cmp.Diff(found, got); d != "" {
			t.Errorf("node %d: times found (-want +got):\n%s", node+1, d)
		}
	}
	shards := 0
	for _, row := range mustQuery(ctx, t, c, 0, "", "SHOW SHARDS") {
		if row[1] == "db" {
			shards++
		}
	}
	if shards != 3 {
		t.Errorf("%d shards, want one at each end and one in between", shards)
	}
}
