package deletes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bbolterrors "go.etcd.io/bbolt/errors"

	"concord/internal/bolt"
	"concord/internal/bolt/bolttest"
	"concord/internal/order"
	"concord/internal/rpc"
)

var hour = Keep{IDs: time.Hour, Versions: time.Hour}

// ranFile makes a log with n deletes.
func ranFile(t testing.TB, n int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deletes.db")
	l, err := OpenRanLog(path, hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.db.NoSync = true
	for i := range n {
		if err := l.Record(&rpc.Delete{Id: fmt.Sprintf("%x-%x", 1<<40, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Without the log a delete may run twice, and nobody would know. So a new log is not begun automatically, and the error
// says what to do.
func TestDamagedRanLogIsAnError(t *testing.T) {
	t.Parallel()
	whole := ranFile(t, 5)
	path := filepath.Join(t.TempDir(), "deletes.db")
	if err := os.WriteFile(path, bolttest.Damage(whole, uint32(2*os.Getpagesize()),
		make([]byte, len(whole)-2*os.Getpagesize()), uint32(len(whole)), false), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenRanLog(path, hour, nil)
	var damaged *bolt.DamagedError
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "move it away") ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := OpenRanLog(path, hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// FuzzOpenRanLog damages a log: it is refused, or remembers what runs from now on.
func FuzzOpenRanLog(f *testing.F) {
	files := [][]byte{ranFile(f, 2), ranFile(f, 300)}
	dir := f.TempDir()
	f.Add(uint8(0), uint32(0), []byte(nil), uint32(1<<31), true)
	for page := range uint32(10) {
		f.Add(uint8(1), page*4096+8, []byte{2, 0, 255}, uint32(1<<31), true)
		f.Add(uint8(1), page*4096+16, []byte{1}, uint32(1<<31), false)
	}
	f.Add(uint8(1), uint32(9), []byte{1}, uint32(3*4096), true)
	f.Fuzz(func(t *testing.T, which uint8, at uint32, patch []byte, end uint32, seal bool) {
		path := filepath.Join(dir, "deletes.db")
		if err := os.WriteFile(path, bolttest.Damage(files[int(which)%len(files)], at, patch, end, seal), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenRanLog(path, hour, nil)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("the error names no file: %v", err)
			}
			return
		}
		l.db.NoSync = true
		if err := l.Record(&rpc.Delete{Id: "new"}); err != nil && !errors.Is(err, bbolterrors.ErrIncompatibleValue) {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if l, err = OpenRanLog(path, hour, nil); err != nil {
			t.Fatalf("the second time: %v", err)
		}
		defer l.Close()
		if !l.Ran("new") {
			t.Fatal("the record is lost")
		}
	})
}

func TestRanLogOutlivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deletes.db")
	l, err := OpenRanLog(path, hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Ran("a") {
		t.Error("ran before it was recorded")
	}
	if err := errors.Join(l.Record(&rpc.Delete{Id: "a"}), l.Close()); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenRanLog(path, hour, nil); err != nil {
		t.Fatal(err)
	}
	if !l.Ran("a") || l.Ran("b") {
		t.Error("the record is lost, or there is one too many")
	}
	if err := l.purge(time.Now().Add(2 * time.Hour)); err != nil || l.Ran("a") {
		t.Errorf("kept for longer than asked: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// versionsIn are the IDs of the deletes that a log has with their versions.
func versionsIn(t *testing.T, l *RanLog) (ids []string) {
	t.Helper()
	if err := l.Each(func(r *rpc.Delete) { ids = append(ids, r.Id) }); err != nil {
		t.Fatal(err)
	}
	return ids
}

// Of a delete that nothing older can follow any more, only the ID stays on disk.
func TestVersionsOfDeletesAreForgotten(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newNode(t, 1)
	path := filepath.Join(t.TempDir(), "deletes.db")
	l, err := OpenRanLog(path, Keep{IDs: 10 * time.Hour, Versions: time.Hour}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.deletes.deps.Ran = l
	mustOpen(t, w)
	drop := func(id string) *rpc.Delete {
		t.Helper()
		r := &rpc.Delete{
			Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: id, Version: uint64(w.Order.Clock.Next()),
		}
		if err := w.deletes.runDelete(r, false); err != nil {
			t.Fatal(err)
		}
		return r
	}
	drop("a")
	drop("b")
	if got := versionsIn(t, l); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("the log has the versions of %q", got)
	}
	w.Memory.Forget(w.Order.Clock.Now())
	drop("c")
	if got := versionsIn(t, l); !slices.Equal(got, []string{"c"}) {
		t.Errorf("the log has the versions of %q after a and b were forgotten", got)
	}
	if !l.Ran("a") {
		t.Error("the log does not know any more that a delete ran")
	}
	if got := rememberedBy(t, l); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("other nodes are told of %q", got)
	}
	if err := l.purge(time.Now().Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := versionsIn(t, l); len(got) != 0 || !l.Ran("c") {
		t.Errorf("after max-age the log has the versions of %q, and c ran: %v", got, l.Ran("c"))
	}
	if got := rememberedBy(t, l); len(got) != 0 {
		t.Errorf("after max-age other nodes are told of %q", got)
	}
	if err := errors.Join(w.Close(), l.Close()); err != nil {
		t.Error(err)
	}
}

// rememberedBy are the IDs of the deletes that a log tells other nodes of, each once.
func rememberedBy(t *testing.T, l *RanLog) (ids []string) {
	t.Helper()
	if err := l.remembered(0, func(r *rpc.Delete) error { ids = append(ids, r.Id); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// More deletes than one page are told of.
func TestManyDeletesAreRemembered(t *testing.T) {
	t.Parallel()
	l, err := OpenRanLog(filepath.Join(t.TempDir(), "deletes.db"), hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.db.NoSync = true
	const n = pageLength*2 + 1
	var past []string
	for i := range n {
		id := fmt.Sprint("d", i)
		err := l.Record(&rpc.Delete{
			Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: id,
			Version: uint64(order.AtTime(time.Now())) + uint64(i),
		}, past...)
		if err != nil {
			t.Fatal(err)
		}
		if past = nil; i%2 == 0 {
			past = []string{id}
		}
	}
	if got := len(rememberedBy(t, l)); got != n {
		t.Errorf("%d of %d deletes are remembered", got, n)
	}
}

// BenchmarkLoad reads deletes of one measurement that ran before.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("deletes=%d", n), func(b *testing.B) {
			for b.Loop() {
				var m Memory
				for i := range n {
					m.Add(&rpc.Delete{
						Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: fmt.Sprint(i), Version: uint64(i + 1),
					})
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delete")
		})
	}
}
