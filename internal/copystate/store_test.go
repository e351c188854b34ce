package copystate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"concord/internal/bolt"
	"concord/internal/bolt/bolttest"
	"concord/internal/rpc"
)

func mustStore(t testing.TB, path string, c change) {
	t.Helper()
	s, _, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.save(c), s.close()); err != nil {
		t.Fatal(err)
	}
}

// full is a change with something of everything.
func full() change {
	r, m := record{Had: true, Lacks: Lost, Why: "the disk is new", Gen: 7}, uint64(9)
	t := table{version{"folder", 3, 4}, []string{"former"}, map[uint64]shardSet{2: newShardSet([]uint64{5, allShards})}}
	lost := newShardSet([]uint64{6})
	return change{
		self:   &self{Folder: "folder", Start: 3, Mark: 8, Newest: 6, Reviewed: true},
		shards: map[uint64]*record{5: &r}, tables: map[uint64]*table{1: &t},
		lost: map[uint64]*shardSet{2: &lost}, marks: map[uint64]*uint64{2: &m},
	}
}

func TestStoreKeepsWhatIsSaved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "copies.db")
	c := full()
	mustStore(t, path, c)
	s, st, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	want := &state{
		*c.self,
		map[uint64]record{5: *c.shards[5]},
		map[uint64]table{1: *c.tables[1]},
		map[uint64]shardSet{2: *c.lost[2]},
		map[uint64]uint64{2: 9},
	}
	if d := cmp.Diff(want, st, cmp.AllowUnexported(state{}, self{}, record{}, table{}, version{})); d != "" {
		t.Error(d)
	}
	if err := s.save(change{shards: map[uint64]*record{5: nil}}); err != nil {
		t.Fatal(err)
	}
}

// A damaged file is an error of one line, whatever is wrong with it.
func FuzzOpenStore(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "copies.db")
	mustStore(f, path, full())
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte(nil), uint32(1<<31), true)
	for page := range uint32(8) {
		f.Add(page*4096+8, []byte{2, 0, 255}, uint32(1<<31), true)
		f.Add(page*4096+60, []byte(`{"lacks":"all"}`), uint32(1<<31), false)
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, end uint32, seal bool) {
		if err := os.WriteFile(path, bolttest.Damage(file, at, patch, end, seal), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := openStore(path)
		var damaged *bolt.DamagedError
		switch {
		case err == nil:
			s.close()
		case errors.As(err, &damaged), errors.Is(err, bbolterrors.ErrVersionMismatch):
		case len(err.Error()) > 1000:
			t.Fatal("an error of many lines")
		}
	})
}

func FuzzDecodeTable(f *testing.F) {
	b, err := proto.Marshal(full().tables[1].encode(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(rpc.OwedTable)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		table, err := decodeTable(m)
		if err != nil {
			return
		}
		again, err := decodeTable(table.encode(m.GetVersion().GetHolder()))
		if err != nil || again.version != table.version || !again.equal(table.owed) {
			t.Fatalf("%v became %v: %v", table, again, err)
		}
	})
}
