package fieldindex

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

const (
	db = "db"
	id = 7
)

// node is a store and its folders.
type node struct {
	Folders
	*tsdb.Store
	start *Start
	t     *testing.T
	index string
}

// each runs a test with both indexes.
func each(t *testing.T, test func(t *testing.T, n *node)) {
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			n := &node{t: t, index: index, Folders: foldersIn(t.TempDir())}
			n.open()
			if err := n.CreateShard(db, "rp", id, true); err != nil {
				t.Fatal(err)
			}
			test(t, n)
		})
	}
}

func foldersIn(dir string) Folders {
	return Folders{Data: filepath.Join(dir, "data"), WAL: filepath.Join(dir, "wal"), Aside: filepath.Join(dir, "aside")}
}

// open opens the store as a node does.
func (n *node) open() {
	n.t.Helper()
	var err error
	if n.start, err = BeforeOpen(n.Folders); err != nil {
		n.t.Fatal(err)
	}
	n.Store = enginetest.Open(n.t, enginetest.New(filepath.Dir(n.Data), n.index))
	n.start.AfterOpen(n.Store)
}

// crashed is the node that starts with what is on disk now, as after kill -9.
func (n *node) crashed() *node {
	n.t.Helper()
	next := n.copied()
	next.open()
	return next
}

func (n *node) copied() *node {
	n.t.Helper()
	next := &node{t: n.t, index: n.index, Folders: foldersIn(n.t.TempDir())}
	for from, to := range map[string]string{n.Data: next.Data, n.Folders.WAL: next.Folders.WAL} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			n.t.Fatal(err)
		}
	}
	return next
}

func (n *node) dir() string { return filepath.Join(n.Data, db, "rp", fmt.Sprint(id)) }

func (n *node) write(lines ...string) {
	n.t.Helper()
	if err := n.tryWrite(lines...); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) tryWrite(lines ...string) error {
	n.t.Helper()
	return n.WriteToShard(tsdb.WriteContext{}, id, enginetest.Points(n.t, lines...))
}

func (n *node) flush() {
	n.t.Helper()
	enginetest.Flush(n.t, n.Shard(id))
}

// drop drops a measurement as the engine does, with nothing of this package.
func (n *node) drop(name string) {
	n.t.Helper()
	if err := n.DeleteMeasurement(db, name); err != nil {
		n.t.Fatal(err)
	}
}

// values are what a query of a field returns, as text.
func (n *node) values(measurement, field string) []string {
	n.t.Helper()
	sh := n.Shard(id)
	if sh == nil {
		n.t.Fatalf("the shard is not open: %v", n.GetBadShardList())
	}
	mf := sh.MeasurementFields([]byte(measurement))
	if mf == nil || mf.Field(field) == nil {
		return nil
	}
	itr, err := sh.CreateIterator(context.Background(), &influxql.Measurement{Name: measurement}, query.IteratorOptions{
		Expr: &influxql.VarRef{Val: field, Type: mf.Field(field).Type}, Ascending: true,
		StartTime: influxql.MinTime, EndTime: influxql.MaxTime,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	if itr == nil {
		return nil
	}
	defer itr.Close()
	var out []string
	for {
		var text string
		var done bool
		switch itr := itr.(type) {
		case query.FloatIterator:
			p, err := itr.Next()
			if done = p == nil || err != nil; !done {
				text = fmt.Sprint(p.Value)
			}
		case query.IntegerIterator:
			p, err := itr.Next()
			if done = p == nil || err != nil; !done {
				text = fmt.Sprintf("%di", p.Value)
			}
		case query.StringIterator:
			p, err := itr.Next()
			if done = p == nil || err != nil; !done {
				text = fmt.Sprintf("%q", p.Value)
			}
		default:
			n.t.Fatalf("unknown iterator %T", itr)
		}
		if done {
			return out
		}
		out = append(out, text)
	}
}

func (n *node) want(measurement, field string, want ...string) {
	n.t.Helper()
	if got := n.values(measurement, field); !slices.Equal(got, want) {
		n.t.Errorf("%s of %s: %v, want %v", field, measurement, got, want)
	}
}

// rebuilt is the one rebuilt index of the start.
func (n *node) rebuilt() Rebuilt {
	n.t.Helper()
	if len(n.start.Rebuilt) != 1 || n.start.Rebuilt[0].Err != nil || n.start.Rebuilt[0].Shard != id {
		n.t.Fatalf("rebuilt: %+v", n.start.Rebuilt)
	}
	return n.start.Rebuilt[0]
}
