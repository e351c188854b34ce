package handoff

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// faulty is a disk that fails in what is set.
type faulty struct{ write, sync, remove atomic.Bool }

func (f *faulty) disk() disk {
	return disk{
		writeAt: func(file *os.File, b []byte, at int64) (int, error) {
			if f.write.Load() {
				return 0, syscall.ENOSPC
			}
			return file.WriteAt(b, at)
		},
		sync: func(file *os.File) error {
			if f.sync.Load() {
				return syscall.EIO
			}
			return file.Sync()
		},
		removeAll: func(dir string) error {
			if f.remove.Load() {
				return syscall.EIO
			}
			return os.RemoveAll(dir)
		},
	}
}

func mustOpenOn(t testing.TB, f *faulty, dir string, r *receiver) *Service {
	t.Helper()
	s := New(testConfig(dir), r.deps())
	s.disk = f.disk()
	if err := s.Open(r.deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// An append may be past the service's own check when it closes.
func TestAppendAfterCloseWritesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, testConfig(dir), newAway())
	mustAppend(t, s, 2, 7, "x")
	n := s.known(2)
	s.Close()
	for shard := uint64(7); shard <= 8; shard++ {
		if err := n.append(shard, []Entry{{Kind: Write, Data: []byte("late")}}); !errors.Is(err, ErrClosed) {
			t.Errorf("shard %d: %v", shard, err)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "2", "*", "*.hh")); len(files) != 1 {
		t.Errorf("segments: %v", files)
	}
}

// The disk may be full for an entry, and not for the header of its segment.
func TestFirstWriteThatFailsLeavesNoQueue(t *testing.T) {
	t.Parallel()
	var f faulty
	dir := t.TempDir()
	s := mustOpenOn(t, &f, dir, newAway())
	for _, stuck := range []bool{false, true} {
		f.write.Store(true)
		f.remove.Store(stuck)
		if err := s.Append(2, 7, Entry{Kind: Write, Data: []byte("x")}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		f.write.Store(false)
		f.remove.Store(false)
		if stuck {
			s.Purge() // tries again
		}
		if names, _ := os.ReadDir(filepath.Join(dir, "2")); s.Pending(2, 7) || len(names) != 0 ||
			s.known(2).bytes.Load() != 0 {
			t.Errorf("stuck %v: pending %v, files %v, %d bytes", stuck, s.Pending(2, 7), names, s.known(2).bytes.Load())
		}
	}
	if open := mustOpenFiles(t, dir); open != 0 {
		t.Errorf("%d files are open", open)
	}
	mustAppend(t, s, 2, 7, "y")
}

// mustOpenFiles counts this process's open files below dir.
func mustOpenFiles(t testing.TB, dir string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("open files cannot be listed here")
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// Other nodes may keep a delete that this one cannot keep.
func TestDeleteThatCannotBeQueuedIsNotDropped(t *testing.T) {
	t.Parallel()
	var f faulty
	var dropped []uint64
	s := New(testConfig(t.TempDir()), Deps{
		Due:     func(uint64, uint64) (bool, bool) { return true, true },
		Dropped: func(_, shard uint64) { dropped = append(dropped, shard) },
	})
	s.disk = f.disk()
	if err := s.Open(newAway().deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f.write.Store(true)
	for shard, kind := range map[uint64]Kind{WholeDatabase: Delete, 7: Write} {
		if err := s.Append(2, shard, Entry{Kind: kind, Data: []byte("x")}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("shard %d: %v", shard, err)
		}
	}
	if len(dropped) != 1 || dropped[0] != 7 {
		t.Errorf("shards %v are dropped, want the write alone", dropped)
	}
}

// What is left on disk would be sent after a restart, over all that went past the queue meanwhile.
func TestQueueThatCannotBeRemovedIsNotForgotten(t *testing.T) {
	t.Parallel()
	var f faulty
	f.remove.Store(true)
	dir := t.TempDir()
	r := newAway()
	s := mustOpenOn(t, &f, dir, r)
	mustAppend(t, s, 2, 7, "x")
	r.set(func() { r.gone[7] = true })
	s.Purge()
	if !s.Pending(2, 7) {
		t.Error("later writes go past it")
	}
	f.remove.Store(false)
	s.Purge()
	if kept, err := Kept(dir); err != nil || s.Pending(2, 7) || len(kept) > 0 || s.known(2).bytes.Load() != 0 {
		t.Errorf("pending %v, kept %v, %d bytes, %v", s.Pending(2, 7), kept, s.known(2).bytes.Load(), err)
	}
}

func TestSegmentThatCannotBeSyncedTakesNoMoreAppends(t *testing.T) {
	t.Parallel()
	var f faulty
	r := newAway()
	s := mustOpenOn(t, &f, t.TempDir(), r)
	mustAppend(t, s, 2, 7, strings.Repeat("x", segmentSize))
	f.sync.Store(true)
	if err := s.Append(2, 7, Entry{Kind: Write, Data: []byte("lost")}); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	f.sync.Store(false)
	mustAppend(t, s, 2, 7, "next")
	r.back()
	r.await(t, "both came", func() bool { return len(r.got["2/7"]) == 2 && r.got["2/7"][1] == "next" })
}
