package fieldindex

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// healAll checks a shard, heals what is hidden, and returns that.
func healAll(t *testing.T, n *node) []Hidden {
	t.Helper()
	var c Checker
	found, err := c.Check(context.Background(), n.Shard(id), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	healed, _, err := Heal(context.Background(), n.Shard(id), found)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Check(context.Background(), n.Shard(id), 0, nil); err != nil || len(again) > 0 {
		t.Errorf("after healing: %v, %v", again, err)
	}
	return healed
}

func (n *node) fields() *tsdb.MeasurementFieldSet {
	n.t.Helper()
	set := fieldSet(n.Shard(id))
	if set == nil {
		n.t.Fatal("the shard is not open")
	}
	return set
}

// What the files and the cache hold and the index of fields lacks is found, and healed while the shard is open.
func TestCheckFindsHiddenFields(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]struct {
		hide func(n *node)
		want string
	}{
		"nothing": {func(n *node) {}, "[]"},
		"a measurement": {
			func(n *node) { n.fields().Delete("m") },
			`[measurement "m": the index of fields does not have its field "f"]`,
		},
		"a field": {func(n *node) {
			n.fields().Delete("m")
			if _, _, err := n.fields().CreateFieldsIfNotExists([]byte("m")).CreateFieldIfNotExists("g", 2); err != nil {
				n.t.Fatal(err)
			}
		}, `[measurement "m": the index of fields does not have its field "f"]`},
		"another type": {func(n *node) {
			n.fields().Delete("m")
			for _, f := range []string{"f", "g"} {
				if _, _, err := n.fields().CreateFieldsIfNotExists([]byte("m")).CreateFieldIfNotExists(f, 3); err != nil {
					n.t.Fatal(err)
				}
			}
		}, "in the index of fields and"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, n *node) {
				n.write(`m,h=a f=1 1`, `m\,x,h=a f=7 1`, `mm f=8 1`)
				n.flush()
				n.write(`m,h=b g=2i 2`)
				hide.hide(n)
				if got := fmt.Sprint(healAll(t, n)); got != hide.want &&
					(name != "another type" || !strings.Contains(got, hide.want)) {
					t.Errorf("healed %s, want %s", got, hide.want)
				}
				for _, n := range []*node{n, n.crashed()} {
					n.want("m", "f", "1")
					n.want("m", "g", "2i")
					n.want("m,x", "f", "7")
					n.want("mm", "f", "8")
				}
			})
		})
	}
}

// A measurement that the index of series lost is found, too.
func TestCheckFindsHiddenSeries(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write(`m,h=a f=1 1`, `m,h=b f=2 2`, "a f=1 1")
		n.flush()
		sh := n.Shard(id)
		index, err := sh.Index()
		if err != nil {
			t.Fatal(err)
		}
		sfile, err := sh.SeriesFile()
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []string{"a", "b"} {
			tags := models.NewTags(map[string]string{"h": h})
			key := models.MakeKey([]byte("m"), tags)
			series := sfile.SeriesID([]byte("m"), tags, nil)
			if err := index.DropSeries(series, key, true); err != nil {
				t.Fatal(err)
			}
			if err := index.DropSeriesGlobal(key); err != nil {
				t.Fatal(err)
			}
		}
		if exists, err := sh.MeasurementExists([]byte("m")); err != nil || exists {
			t.Skipf("the index still has the measurement: %v", err)
		}
		if got, want := fmt.Sprint(healAll(t, n)), `[measurement "m": the index of series does not have it]`; got != want {
			t.Errorf("healed %s, want %s", got, want)
		}
		n.want("m", "f", "1", "2")
	})
}

// Values of two types in two series are a conflict, and nothing hidden: a check is quiet, and does not look again.
func TestCheckIsQuietAboutConflicts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m,h=a f=1 1")
		n.otherType(`m,h=b f="x" 3`)
		n.flush()
		if got := healAll(t, n); len(got) > 0 {
			t.Errorf("healed %v", got)
		}
	})
}

// A check that finds everything in order reads nothing the next time, and reads again after a write and after a delete.
func TestCheckReadsWhatChanged(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1", "n f=1 1")
		n.flush()
		var c Checker
		check := func(deletes uint64, want int) {
			t.Helper()
			if got, err := c.Check(context.Background(), n.Shard(id), deletes, nil); err != nil || len(got) != want {
				t.Errorf("check: %v, %v; want %d", got, err, want)
			}
		}
		check(1, 0)
		n.fields().Delete("m")
		check(1, 0) // not looked at
		for _, ok := range []bool{false, true} {
			held := 0
			hold := func() (func(), bool) { held++; return func() { held-- }, ok }
			found, err := c.Check(context.Background(), n.Shard(id), 2, hold)
			if err != nil || len(found) > 0 != ok {
				t.Errorf("deletes are held: %v; found %v, %v", ok, found, err)
			}
			if want := map[bool]int{false: 1, true: 0}[ok]; held != want {
				t.Errorf("deletes are held: %v; %d are not released, want %d", ok, held, want)
			}
		}
	})
}

// Checks and heals beside writes, deletes and snapshots find nothing: what is being written or deleted is not hidden.
func TestCheckBesideWritesAndDeletes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := n.tryWrite(fmt.Sprintf("m%d,h=a f%d=1 %d", i%7, i%13, i)); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		engine := enginetest.Engine(t, n.Shard(id))
		var c Checker
		for range 30 {
			if found, err := c.Check(context.Background(), n.Shard(id), 0, nil); err != nil || len(found) > 0 {
				t.Errorf("found %v, %v", found, err)
			}
			if err := engine.WriteSnapshot(); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
	})
}
