package scrub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/enginetest"
	"concord/internal/entropy/tsmfile"
)

// reopened closes a store, changes its files, and opens it as a node does.
func reopened(t *testing.T, s *tsdb.Store, change func()) (*tsdb.Store, map[uint64][]*tsmfile.Damage) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	change()
	found, err := BeforeOpen(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	return enginetest.Open(t, enginetest.New(filepath.Dir(s.Path()), tsdb.InmemIndexName)), found
}

// A file that the engine cannot open costs what is in it, and not the whole shard, the process, or the start of the
// node.
func TestUnopenableFileCostsNoMoreThanItself(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, path string)
		reason string
	}{
		{"none", func(*testing.T, string) {}, ""},
		{"cut in the middle", func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, info.Size()/2); err != nil {
				t.Fatal(err)
			}
		}, "there is no index where the end of the file says"},
		{"empty", func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, "the file ends in its header"},
		{"the first page is zero", func(t *testing.T, path string) {
			change(t, path, 0, make([]byte, 4096))
		}, "it does not begin as a file of version 1 does"},
		{"the index begins with zeroes", func(t *testing.T, path string) {
			change(t, path, indexOf(t, path), make([]byte, 64))
		}, "the index is not in order"},
		{"damaged tombstones", func(t *testing.T, path string) {
			change(t, strings.TrimSuffix(path, ".tsm")+".tombstone", 12, []byte{1, 2, 3, 4, 5, 6})
		}, "gzip"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, sh := newShard(t)
			first := file(t, sh, ".tsm")
			more(t, s, 8) // files with points of their own: more than the engine opens at the same time
			s, found := reopened(t, s, func() { tt.damage(t, first) })
			if s.Shard(1) == nil {
				t.Fatalf("the engine gave the shard up: %v", s.GetBadShardList())
			}
			got := count(t, s.Shard(1))
			if tt.reason == "" {
				if len(found) > 0 || got["a"] != 4008 || got["b"] != 5008 {
					t.Errorf("%v, %v", found, got)
				}
				return
			}
			if got["a"] != 8 || got["b"] != 8 {
				t.Errorf("%v are left of the other files", got)
			}
			bad := filepath.Base(first) + ".bad"
			var messages []string
			for _, d := range found[1] {
				messages = append(messages, d.Error())
			}
			all := strings.Join(messages, "; ")
			if !strings.Contains(all, bad+" is damaged: the engine could not open it: ") ||
				!strings.Contains(all, tt.reason) {
				t.Errorf("found %s", all)
			}
			// the tombstones go with their file
			if found, err := Verify(t.Context(), s.Shard(1).Path(), noWait); err != nil || len(found) != 2 {
				t.Errorf("verified: %v, %v", found, err)
			}
			// It is seen again at each start, until it is set aside.
			s, found = reopened(t, s, func() {})
			if len(found[1]) != 2 {
				t.Errorf("found %v at the next start", found)
			}
			kept, _, err := setAside(t, s.Shard(1), t.TempDir())
			if err != nil || len(names(t, kept)) != 2 {
				t.Fatalf("%v is kept, %v", names(t, kept), err)
			}
			if _, found = reopened(t, s, func() {}); len(found) > 0 {
				t.Errorf("still found: %v", found)
			}
		})
	}
}

// The tombstones of a file that the engine renamed would delete from a new file with its name.
func TestTombstonesOfABadFileAreTakenAway(t *testing.T) {
	t.Parallel()
	s, sh := newShard(t)
	path, tombstones := file(t, sh, ".tsm"), file(t, sh, ".tombstone")
	_, found := reopened(t, s, func() {
		if err := os.Rename(path, path+".bad"); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(tombstones); !errors.Is(err, os.ErrNotExist) || len(found[1]) == 0 {
		t.Errorf("%v, found %v", err, found)
	}
}

// A folder for damaged files that cannot have links to them gets copies, no faster than it may.
func TestSetAsideToAnotherFileSystem(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		t.Run(fmt.Sprint("renamed by the engine: ", bad), func(t *testing.T) {
			t.Parallel()
			s, sh := newShard(t)
			path := file(t, sh, ".tsm")
			if bad {
				s, _ = reopened(t, s, func() {
					if err := os.Truncate(path, 20_000); err != nil {
						t.Fatal(err)
					}
				})
				sh, path = s.Shard(1), path+".bad"
			} else {
				change(t, path, 200, []byte{0xff, 0, 0xff, 0})
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			waited := 0
			a := Aside{Shard: sh, Dir: t.TempDir(), Hold: noDelete,
				Wait: func(_ context.Context, n int) error { waited += n; return nil },
				link: func(from, to string) error {
					return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EXDEV}
				},
			}
			kept, _, err := a.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(filepath.Join(kept, filepath.Base(path)))
			if err != nil || string(after) != string(before) {
				t.Errorf("the kept file is not what the damaged one was: %v", err)
			}
			if waited < len(before) {
				t.Errorf("waited for %d bytes of %d", waited, len(before))
			}
			if found, err := Verify(t.Context(), sh.Path(), noWait); err != nil || len(found) > 0 {
				t.Errorf("after setting aside: %v, %v", found, err)
			}
		})
	}
}

// A copy that cannot be finished leaves the shard as it is, and nothing beside it.
func TestSetAsideThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	_, sh := newShard(t)
	change(t, file(t, sh, ".tsm"), 200, []byte{0xff, 0, 0xff, 0})
	before := names(t, sh.Path())
	dir, stop := t.TempDir(), errors.New("stop")
	copying := false
	a := Aside{Shard: sh, Dir: dir, Hold: noDelete,
		Wait: func(context.Context, int) error {
			if copying {
				return stop
			}
			return nil
		},
		link: func(string, string) error { copying = true; return syscall.EXDEV },
	}
	if _, _, err := a.Run(t.Context()); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if after := names(t, sh.Path()); fmt.Sprint(after) != fmt.Sprint(before) || len(names(t, dir)) > 0 {
		t.Errorf("%v and aside %v, want %v", after, names(t, dir), before)
	}
}
