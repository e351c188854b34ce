package fieldindex

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
)

// The log has both types of a field and not the drop between them: the shard opens with all that it holds.
func TestCrashAfterDropAndAnotherType(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("a f=1 1", "m,h=a f=1 1", "m,h=b f=2 2")
		n.flush()
		n.drop("m")
		n.write(`m,h=a f="x" 3`, "later f=4 4")
		c := n.crashed()
		c.want("a", "f", "1")
		c.want("m", "f", `"x"`)
		c.want("later", "f", "4")
		r := c.rebuilt()
		if !strings.Contains(r.Reason, "field type conflict") || len(r.Conflicts) > 0 {
			t.Errorf("rebuilt: %+v", r)
		}
		for _, name := range []string{indexName, logName} {
			was, err := os.ReadFile(filepath.Join(n.dir(), name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			kept, err := os.ReadFile(filepath.Join(r.Kept, name))
			if err != nil || string(was) != string(kept) {
				t.Errorf("%s is not kept as it was: %v", name, err)
			}
		}
		c.write(`m,h=a f="y" 5`, "later f=5 5")
		next := c.crashed()
		next.want("m", "f", `"x"`, `"y"`)
		if len(next.start.Rebuilt) > 0 {
			t.Errorf("rebuilt again: %+v", next.start.Rebuilt)
		}
	})
}

// A crash while the index is rebuilt: the new index is there, and the log still is.
func TestCrashDuringRebuild(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1")
		n.drop("m")
		n.write(`m f="x" 3`, "later f=4 4")
		c := n.copied()
		log, err := os.ReadFile(filepath.Join(c.dir(), logName))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Folders.rebuild(id, c.dir()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir(), logName), log, 0o644); err != nil {
			t.Fatal(err)
		}
		c.open()
		c.want("m", "f", `"x"`)
		c.want("later", "f", "4")
	})
}

// An index that a crash left half written keeps the engine from writing it, and with inmem from opening the shard.
func TestTornIndexIsRemoved(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1")
		c := n.copied()
		if err := os.WriteFile(filepath.Join(c.dir(), tornName), []byte("torn"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.open()
		c.want("m", "f", "1")
		c.write("n f=1 1")
		if err := Flush(c.Shard(id)); err != nil {
			t.Error(err)
		}
	})
}

// Files that the engine would not read, or would end the process on, are rebuilt.
func TestUnreadableIndexIsRebuilt(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(dir string) error{
		"index of another format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexName), []byte("????abc"), 0o644)
		},
		"empty index": func(dir string) error { return os.WriteFile(filepath.Join(dir, indexName), nil, 0o644) },
		"log with a huge record": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, logName), binary.LittleEndian.AppendUint64(nil, 1<<62), 0o644)
		},
		"log with a change of nothing": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, logName), append(binary.LittleEndian.AppendUint64(nil, 2), 0x0a, 0),
				0o644)
		},
		"log that ends within a record": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, logName), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte{40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3})
			return errors.Join(err, f.Close())
		},
		"log of noise": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, logName),
				append(binary.LittleEndian.AppendUint64(nil, 4), 0xff, 0xff, 0xff, 0xff), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, n *node) {
				n.write("m f=1 1", "n f=2i 1")
				n.flush()
				n.write("o f=3 1")
				c := n.copied()
				if err := harm(c.dir()); err != nil {
					t.Fatal(err)
				}
				c.open()
				c.want("m", "f", "1")
				c.want("n", "f", "2i")
				c.want("o", "f", "3")
				if r := c.rebuilt(); r.Reason == "" || strings.Contains(r.Reason, "\n") {
					t.Errorf("rebuilt: %+v", r)
				}
			})
		})
	}
}

// otherType puts values of another type of a field into a series of their own, as the engine never does.
func (n *node) otherType(lines ...string) {
	n.t.Helper()
	set := n.Shard(id)
	fields, err := set.Engine()
	if err != nil {
		n.t.Fatal(err)
	}
	fields.MeasurementFieldSet().Delete("m") // the engine forgets which type the field has
	n.write(lines...)
}

// The files hold two types of a field: the shard opens, the newest value decides, and nothing is lost.
func TestTwoTypesInTheFiles(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"files", "log of writes"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, n *node) {
				n.write("a f=1 1", "m,h=a f=1 1", "m,h=c g=1 1")
				if where == "files" {
					n.flush()
				}
				n.otherType(`m,h=b f="x" 3`)
				if where == "files" {
					n.flush()
				}
				c := n.crashed()
				c.want("a", "f", "1")
				c.want("m", "g", "1")
				r := c.rebuilt()
				if want := `field "f" of "m" has values of the types float and string, and is now string`; len(r.Conflicts) != 1 ||
					r.Conflicts[0] != want {
					t.Errorf("conflicts: %q", r.Conflicts)
				}
				if typ := c.Shard(id).MeasurementFields([]byte("m")).Field("f").Type; typ != influxql.String {
					t.Errorf("the field is %v", typ)
				}
				c.want("m", "f", `"x"`)
				// The float is in the files that are kept.
				old := closedShard{dir: r.Kept, walDir: r.Kept}
				have, err := old.types()
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := have["m"]["f"][influxql.Float]; !ok {
					t.Errorf("kept: %v", have)
				}
				if next := c.crashed(); len(next.start.Rebuilt) > 0 {
					t.Errorf("rebuilt again: %+v", next.start.Rebuilt)
				} else {
					next.want("m", "f", `"x"`)
				}
			})
		})
	}
}

// An index with the type from before a drop, which no log contradicts: with inmem the engine does not open the shard.
// With tsi1 a start finds this where the values are in the cache, and a check where they are in files.
func TestOldTypeInTheIndex(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"files", "log of writes"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, n *node) {
				n.write("m f=1 1", "a f=1 1")
				if err := Flush(n.Shard(id)); err != nil {
					t.Fatal(err)
				}
				old, err := os.ReadFile(filepath.Join(n.dir(), indexName))
				if err != nil {
					t.Fatal(err)
				}
				n.drop("m")
				n.write(`m f="x" 2`)
				if where == "files" {
					n.flush()
				}
				c := n.copied()
				if err := errors.Join(os.WriteFile(filepath.Join(c.dir(), indexName), old, 0o644),
					os.Remove(filepath.Join(c.dir(), logName))); err != nil {
					t.Fatal(err)
				}
				c.open()
				if c.index == tsdb.TSI1IndexName && where == "files" {
					healAll(t, c)
				} else {
					c.rebuilt()
				}
				c.want("m", "f", `"x"`)
				c.want("a", "f", "1")
			})
		})
	}
}

// A write that ran beside the drop of its measurement came behind it in the log of writes, and another type followed:
// the engine does not read such a log. The later value stays, and the log is kept.
func TestTwoTypesInTheLogOfWrites(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1", "a f=1 1")
		if err := AfterDelete(n.Store, db, func() error { return n.DeleteMeasurement(db, "m") }); err != nil {
			t.Fatal(err)
		}
		c := n.copied()
		wal := tsm1.NewWAL(c.shard(c.dir()).walDir)
		if err := wal.Open(); err != nil {
			t.Fatal(err)
		}
		for _, v := range []any{1.5, "x"} {
			values := map[string][]tsm1.Value{"m#!~#f": {tsm1.NewValue(2, v)}, "b#!~#f": {tsm1.NewValue(2, 1.0)}}
			if _, err := wal.WriteMulti(values); err != nil {
				t.Fatal(err)
			}
		}
		if err := wal.Close(); err != nil {
			t.Fatal(err)
		}
		c.open()
		c.want("a", "f", "1")
		for _, r := range c.start.Rebuilt {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		old := closedShard{walDir: c.start.Rebuilt[0].Kept}
		if other, err := old.otherWrites(); err != nil || len(other) != 1 {
			t.Errorf("the log is not kept: %v, %v", other, err)
		}
		healAll(t, c) // the log above has a series that no index was told of
		c.want("m", "f", `"x"`)
		c.want("b", "f", "1")
		if next := c.crashed(); len(next.start.Rebuilt) > 0 {
			t.Errorf("rebuilt again: %+v", next.start.Rebuilt)
		}
	})
}

// Other shards that cannot be opened stay known as such when one is opened again.
func TestOtherBadShardsStayKnown(t *testing.T) {
	t.Parallel()
	n := &node{t: t, index: tsdb.InmemIndexName, Folders: foldersIn(t.TempDir())}
	n.open()
	if err := n.CreateShard(db, "rp", id, true); err != nil {
		t.Fatal(err)
	}
	n.write("m,h=a f=1 1")
	n.otherType(`m,h=b f="x" 3`)
	c := n.copied()
	if err := os.Remove(filepath.Join(c.dir(), logName)); err != nil {
		t.Fatal(err)
	}
	c.Store = enginetest.Open(t, enginetest.New(filepath.Dir(c.Data), c.index))
	c.SetShardOpenErrorForTest(99, errors.New("its disk is away"))
	want := c.GetBadShardList()[99].Error()
	(&Start{Folders: c.Folders}).AfterOpen(c.Store)
	c.want("m", "f", `"x"`)
	if bad := c.GetBadShardList(); len(bad) != 1 || bad[99].Error() != want {
		t.Errorf("bad shards: %v", bad)
	}
}

// A shard of an earlier version, whose log is gone with the measurements that it had: those without any field are
// healed at the start.
func TestHiddenMeasurementIsHealedAtOpen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("a f=1 1")
		if err := Flush(n.Shard(id)); err != nil {
			t.Fatal(err)
		}
		n.write("b,h=x f=2 2")
		n.flush()
		n.write("b,h=y g=3 3")
		c := n.copied()
		if err := os.Remove(filepath.Join(c.dir(), logName)); err != nil {
			t.Fatal(err)
		}
		c.open()
		c.want("b", "f", "2")
		c.want("b", "g", "3")
		next := c.crashed()
		next.want("b", "f", "2")
		next.want("b", "g", "3")
	})
}

// A crash between a delete and the write of the index leaves a measurement that has nothing, and must not refuse
// another type.
func TestDroppedMeasurementDoesNotComeBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node) {
		n.write("m f=1 1", "a f=1 1")
		n.flush()
		n.drop("m")
		c := n.crashed()
		c.write(`m f="x" 2`)
		c.want("m", "f", `"x"`)
		c.want("a", "f", "1")
	})
}
