//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/test/process"
)

// TestDroppedFieldGetsAnotherType drops a measurement, gives one of its fields another type, and kills all nodes: the
// shard opens on each owner with all that was acknowledged. So does one that earlier versions left with the log of
// both types.
func TestDroppedFieldGetsAnotherType(t *testing.T) {
	t.Parallel()
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) { dropAndKill(t, index) })
	}
}

func dropAndKill(t *testing.T, index string) {
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"data": {"index-version": index},
	}})
	one := p.Data[0].Client()
	query := func(n *process.Node, q string) [][]any {
		t.Helper()
		rows, err := n.Client().Query(ctx, "fields", q)
		if err != nil {
			t.Fatalf("%s at %s: %v", q, n.Name, err)
		}
		return rows
	}
	if _, err := one.Query(ctx, "",
		`CREATE DATABASE "fields" WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`); err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3).UnixNano()
	write := func(measurement, value string) {
		t.Helper()
		var lines []byte
		for i := range 100 {
			lines = fmt.Appendf(lines, "%s,h=h%d f=%s %d\n", measurement, i%5, value, at+int64(i))
		}
		if err := one.Write(ctx, "fields", "all", lines); err != nil {
			t.Fatal(err)
		}
	}
	killAll := func() {
		for _, n := range p.Data {
			n.Stop(syscall.SIGKILL)
		}
	}
	startAll := func() {
		for _, n := range p.Data {
			n.Start()
		}
		for _, n := range p.Data {
			n.AwaitUp()
		}
	}
	// What each node has itself: all three own the shard.
	answers := func() {
		t.Helper()
		for _, n := range p.Data {
			got := fmt.Sprint(query(n, `SELECT count(f) FROM a`), query(n, `SELECT count(f) FROM later`),
				query(n, `SELECT count(f), last(f) FROM m`), query(n, `SHOW FIELD KEYS`))
			want := `[[0 100]] [[0 100]] [[0 100 text]] [[f float] [f float] [f string]]`
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s answers otherwise:\n%s", n.Name, d)
			}
		}
	}
	clean := func() {
		t.Helper()
		p.Await("no shard is damaged or differs", func() bool {
			s, _, err := one.EntropyStatus(ctx)
			return err == nil && s.Clean()
		})
	}

	write("a", "1")
	write("m", "1")
	query(p.Data[0], `DROP MEASUREMENT m`)
	write("m", `"text"`)
	write("later", "1")
	answers()
	killAll()
	startAll()
	answers()
	clean()
	for _, n := range p.Data {
		if strings.Contains(n.Log(), "made anew from its data files") {
			t.Errorf("%s had to rebuild an index:\n%s", n.Name, n.Log())
		}
	}

	// As earlier versions left it: the log has all fields and not the drop.
	killAll()
	log := logOf(t,
		[]field{{"a", influxql.Float}, {"m", influxql.Float}, {"m", influxql.String}, {"later", influxql.Float}})
	for _, n := range p.Data {
		dirs, err := filepath.Glob(filepath.Join(n.Dir, "data", "fields", "autogen", "*"))
		if err != nil || len(dirs) != 1 {
			t.Fatalf("shards of %s: %v, %v", n.Name, dirs, err)
		}
		if err := os.RemoveAll(filepath.Join(dirs[0], "fields.idx")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dirs[0], tsdb.FieldsChangeFile), log, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	startAll()
	answers()
	clean()
	for _, n := range p.Data {
		kept, _ := filepath.Glob(filepath.Join(n.Dir, "meta", "entropy", "aside", "*", tsdb.FieldsChangeFile))
		if len(kept) != 1 {
			t.Errorf("%s keeps %v", n.Name, kept)
		} else if b, err := os.ReadFile(kept[0]); err != nil || string(b) != string(log) {
			t.Errorf("%s does not keep the log as it was: %v", n.Name, err)
		}
		if !strings.Contains(n.Log(), "made anew from its data files") {
			t.Errorf("%s does not log that an index was rebuilt", n.Name)
		}
	}
	write("m", `"text"`)
	answers()
}

// TestKillWhileMeasurementsAreDropped kills a node at random moments while measurements are dropped and made again
// with another type: all that was acknowledged is there after each start, and no type from before a drop is.
func TestKillWhileMeasurementsAreDropped(t *testing.T) {
	t.Parallel()
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) { killWhileDropping(t, index) })
	}
}

func killWhileDropping(t *testing.T, index string) {
	const kills = 20
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 1, Settings: map[string]map[string]any{
		"data": {"index-version": index},
	}})
	n := p.Data[0]
	if _, err := n.Client().Query(ctx, "",
		`CREATE DATABASE "fields" WITH DURATION INF SHARD DURATION 1d NAME "autogen"`); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	at := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3).UnixNano()
	kept := 0 // measurements whose write was acknowledged
	// step gives the field another type, and adds a measurement.
	step := func(i int) error {
		if _, err := n.Client().Query(ctx, "fields", `DROP MEASUREMENT m`); err != nil {
			return err
		}
		if err := n.Client().Write(ctx, "fields", "all",
			fmt.Appendf(nil, "m f=%s %d", []string{"1", `"x"`, "1i", "true"}[i%4], at)); err != nil {
			return err
		}
		if err := n.Client().Write(ctx, "fields", "all", fmt.Appendf(nil, "kept%d f=1 %d", kept, at)); err != nil {
			return err
		}
		kept++
		return nil
	}
	for round := range kills {
		ended := make(chan int)
		go func() {
			i := 4 * round
			for step(i) == nil {
				i++
			}
			ended <- i
		}()
		process.Poll(time.Duration(100+random.IntN(400))*time.Millisecond, func() bool { return false })
		n.Stop(syscall.SIGKILL)
		i := <-ended
		n.Start()
		n.AwaitUp()
		if err := step(i + 1); err != nil {
			t.Fatalf("after kill %d: %v\n%s", round+1, err, n.Log())
		}
		rows, err := n.Client().Query(ctx, "fields", `SELECT count(f) FROM /^kept/`)
		if err != nil || len(rows) < kept {
			t.Fatalf("after kill %d: %d of %d measurements are there, %v\n%s", round+1, len(rows), kept, err, n.Log())
		}
	}
	t.Logf("%d measurements; %d indexes were made anew", kept, strings.Count(n.Log(), "made anew from its data files"))
}

type field struct {
	measurement string
	typ         influxql.DataType
}

// logOf is the engine's log of fields f that were made one after the other.
func logOf(t *testing.T, fields []field) []byte {
	t.Helper()
	dir := t.TempDir()
	set, err := tsdb.NewMeasurementFieldSet(filepath.Join(dir, "fields.idx"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for _, f := range fields {
		err := set.Save(tsdb.FieldChanges{{
			FieldCreate: tsdb.FieldCreate{
				Measurement: []byte(f.measurement), Field: &tsdb.Field{Name: "f", Type: f.typ},
			},
			ChangeType: tsdb.AddMeasurementField,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, tsdb.FieldsChangeFile))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
