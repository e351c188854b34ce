package fieldindex

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
)

// A delete that is over has its measurements out of the index on disk: no crash brings a type back.
func TestDeleteWritesTheIndex(t *testing.T) {
	t.Parallel()
	for name, del := range map[string]func(n *node) error{
		"DROP MEASUREMENT": func(n *node) error { return n.DeleteMeasurement(db, "m") },
		"a delete that fails in the end": func(n *node) error {
			return errors.Join(n.DeleteMeasurement(db, "m"), errors.New("a shard of its own"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, n *node) {
				n.write("m f=1 1", "a f=1 1")
				if err := AfterDelete(n.Store, db, func() error {
					return del(n)
				}); (err != nil) != strings.Contains(name, "fails") {
					t.Fatal(err)
				}
				n.write(`m f="x" 2`)
				if _, reason, err := replay(n.dir()); reason != "" || err != nil {
					t.Errorf("replay: %s, %v", reason, err)
				}
				c := n.crashed()
				c.want("m", "f", `"x"`)
				c.want("a", "f", "1")
				if len(c.start.Rebuilt) > 0 {
					t.Errorf("rebuilt: %+v", c.start.Rebuilt)
				}
			})
		})
	}
}

// A delete that drops no measurement leaves the index of fields alone.
func TestDeleteOfPointsWritesNoIndex(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m,h=a f=1 1", "m,h=b f=1 1")
		if err := AfterDelete(n.Store, db, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(n.dir(), indexName)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the index was written: %v", err)
		}
	})
}

// An index that could not be written is written by the next delete, which itself drops nothing: a delete that failed
// runs again.
func TestDeleteThatCouldNotWriteTheIndexFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1", "a f=1 1")
		torn := filepath.Join(n.dir(), tornName)
		if err := os.MkdirAll(filepath.Join(torn, "x"), 0o755); err != nil { // a file would be removed
			t.Fatal(err)
		}
		drop := func() error { return AfterDelete(n.Store, db, func() error { return n.DeleteMeasurement(db, "m") }) }
		if err := drop(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Fatalf("the delete returned %v", err)
		}
		if err := os.RemoveAll(torn); err != nil {
			t.Fatal(err)
		}
		if err := drop(); err != nil {
			t.Fatal(err)
		}
		n.write(`m f="x" 2`)
		if _, reason, err := replay(n.dir()); reason != "" || err != nil {
			t.Errorf("replay: %s, %v", reason, err)
		}
	})
}

// Fields that writes make while the index is written are in it, or in the log.
func TestFlushLosesNoFieldOfAWrite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		const fields = 200
		done := make(chan error, 1)
		go func() {
			for i := range fields {
				if err := n.tryWrite(fmt.Sprintf("m f%d=1 1", i)); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for writing := true; writing; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				writing = false
			default:
				if err := Flush(n.Shard(id)); err != nil {
					t.Fatal(err)
				}
			}
		}
		c := n.copied()
		set, err := tsdb.NewMeasurementFieldSet(filepath.Join(c.dir(), indexName), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		if got := set.FieldsByString("m").FieldN(); got != fields {
			t.Errorf("%d fields are on disk, want %d", got, fields)
		}
	})
}
