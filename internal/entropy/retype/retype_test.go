package retype

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

const shardID = 7

// node is a store with one shard.
type node struct {
	t     *testing.T
	index string
	dir   string
	store *tsdb.Store
}

func (n *node) open() {
	n.t.Helper()
	n.store = enginetest.Open(n.t, enginetest.New(n.dir, n.index))
	if len(n.store.GetBadShardList()) > 0 {
		n.t.Fatal(n.store.GetBadShardList())
	}
}

// crash opens a store over what is on disk at this moment.
func (n *node) crash() {
	n.t.Helper()
	before := n.dir
	n.dir = n.t.TempDir()
	for _, part := range []string{"data", "wal"} {
		if err := os.CopyFS(filepath.Join(n.dir, part), os.DirFS(filepath.Join(before, part))); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := n.store.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.open()
}

func (n *node) write(lines ...string) error {
	return n.store.WriteToShard(tsdb.WriteContext{}, shardID, enginetest.Points(n.t, lines...))
}

func (n *node) mustWrite(lines ...string) {
	n.t.Helper()
	if err := n.write(lines...); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) flush() {
	n.t.Helper()
	enginetest.Flush(n.t, n.store.Shard(shardID))
}

// all is what the shard holds, as digests see it.
func (n *node) all() (out []string) {
	n.t.Helper()
	err := digest.Compute(n.t.Context(), n.store.Shard(shardID), 1, digest.Range{Start: 0, End: 1e6}, 1<<63-1, func(f *digest.SeriesField) error {
		region := patch.Region{
			Series: f.Series, Field: f.Field, Type: f.Type, Min: models.MinNanoTime, Max: models.MaxNanoTime,
		}
		return patch.Read(n.t.Context(), n.store.Shard(shardID), []patch.Region{region}, patch.Limits{}, func(b patch.Block) error {
			vs, err := b.Decode()
			for _, v := range vs {
				out = append(out, fmt.Sprintf("%s %s=%v(%s) %d", f.Series, f.Field, v.Value(), f.Type, v.UnixNano()))
			}
			return err
		})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// aside is what all files in a folder hold, each line once.
func aside(t *testing.T, dir string) (out []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "7-*", FileName))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			if !strings.HasPrefix(line, "#") {
				out = append(out, line)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func alone(_ context.Context, run func() error) error { return run() }

// A crash before each step loses nothing, and the next run finishes.
func TestValuesOfOtherTypesAreSetAside(t *testing.T) {
	t.Parallel()
	crashed := errors.New("crashed")
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		for _, step := range []string{"", "set aside", "remove", "index", "write index"} {
			t.Run(index+"/"+step, func(t *testing.T) {
				t.Parallel()
				n := &node{t: t, index: index, dir: t.TempDir()}
				n.open()
				if err := n.store.CreateShard("db", "rp", shardID, true); err != nil {
					t.Fatal(err)
				}
				n.mustWrite(`m,host=a f=1i,g=1 10`, `m,host=b f=2i 20`, `mm,host=a f=7i 10`, `m\ x f=8i 10`)
				n.flush()
				// an overwritten value, and some in the write cache
				n.mustWrite(`m,host=a f=11i 10`, `m,host=c f=3i,g=5 30`, `m s="x" 5`)
				dir := filepath.Join(t.TempDir(), "aside")
				run := func(at string) (Kept, error) {
					c := Copy{Shard: n.store.Shard(shardID), Dir: dir, Alone: alone, step: func(name string) error {
						if name == at {
							return crashed
						}
						return nil
					}}
					return c.Run(t.Context(), Field{"m", "f", digest.Float})
				}
				if step != "" {
					if _, err := run(step); !errors.Is(err, crashed) {
						t.Fatal(err)
					}
					n.crash()
				}
				if _, err := run(""); err != nil {
					t.Fatal(err)
				}
				want := []string{"m,host=a f=11i 10", "m,host=b f=2i 20", "m,host=c f=3i 30"}
				if d := cmp.Diff(want, aside(t, dir)); d != "" {
					t.Error(d)
				}
				n.mustWrite(`m,host=a f=1.5 10`)
				for _, again := range []string{"at once", "after a crash", "after a restart"} {
					want := []string{
						`m s=x(string) 5`, `m,host=a f=1.5(float) 10`, `m,host=a g=1(float) 10`,
						`m,host=c g=5(float) 30`,
						`m\ x f=8(integer) 10`, `mm,host=a f=7(integer) 10`,
					}
					if d := cmp.Diff(want, n.all()); d != "" {
						t.Errorf("%s: %s", again, d)
					}
					if err := n.write(`m,host=z f=1i 10`); err == nil ||
						!strings.Contains(err.Error(), "is type integer, already exists as type float") {
						t.Errorf("%s: an integer: %v", again, err)
					}
					switch again {
					case "at once":
						n.crash()
					case "after a crash":
						if err := n.store.Close(); err != nil {
							t.Fatal(err)
						}
						n.open()
					}
				}
				// There is nothing left to do.
				if kept, err := run(""); err != nil || kept != (Kept{}) {
					t.Errorf("%+v, %v", kept, err)
				}
			})
		}
	}
}

// Every type of value is written so that it is read back as it was.
func TestSetAsideValuesAreLineProtocol(t *testing.T) {
	t.Parallel()
	models.EnableUintSupport()
	for _, tt := range []struct {
		line string
		typ  digest.Type
	}{
		{`m\,\ x,a\ b=c\=d f\ =0.1 10`, digest.Integer},
		{`m\,\ x,a\ b=c\=d f\ =9007199254740993i 10`, digest.Float},
		{`m\,\ x,a\ b=c\=d f\ =18446744073709551615u 10`, digest.Float},
		{`m\,\ x,a\ b=c\=d f\ =true 10`, digest.Float},
		{`m\,\ x,a\ b=c\=d f\ ="a \"b\", \\ c" 10`, digest.Float},
	} {
		n := &node{t: t, index: tsdb.TSI1IndexName, dir: t.TempDir()}
		n.open()
		if err := n.store.CreateShard("db", "rp", shardID, true); err != nil {
			t.Fatal(err)
		}
		n.mustWrite(tt.line)
		c := Copy{Shard: n.store.Shard(shardID), Dir: filepath.Join(t.TempDir(), "aside"), Alone: alone}
		kept, err := c.Run(t.Context(), Field{"m, x", "f ", tt.typ})
		if err != nil || kept.Points != 1 {
			t.Fatal(kept, err)
		}
		if got := aside(t, c.Dir); !slices.Equal(got, []string{tt.line}) {
			t.Errorf("got %q, want %q", got, tt.line)
		}
	}
}
