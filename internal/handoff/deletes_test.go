package handoff

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mustAge makes a queue that has deletes among its writes one from before writes had versions.
func mustAge(t testing.TB, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "2", "7", "deletes"), place{1, 100}.encode(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Who sends a write out of an old queue must know of the deletes behind it.
func TestDeletesBehindAWriteAreTold(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), newAway()
	cfg := testConfig(dir)
	cfg.BatchSize = 1 // one entry each time
	s := mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, "w1")
	mustDelete(t, s, 2, 7, "d1", "d2")
	s.Close()
	mustAge(t, dir)
	s = mustOpen(t, cfg, r)
	r.back()
	r.await(t, "all came", func() bool { return len(r.got["2/7"]) == 3 })
	r.set(func() {
		if r.behind != 2 {
			t.Errorf("%d deletes behind the write, want 2", r.behind)
		}
		r.away = errAway
	})
	mustAppend(t, s, 2, 7, "w2")
	r.back()
	r.await(t, "the last came", func() bool { return len(r.got["2/7"]) == 4 })
	if r.behind != 0 {
		t.Errorf("%d deletes behind the last write", r.behind)
	}
}

// A delete takes its points out of the writes before it. Where one may be lost, these must not be sent: they would
// bring the points back.
func TestWritesBeforeALostDeleteAreGivenUp(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, "w1")
	mustDelete(t, s, 2, 7, "d1")
	mustAppend(t, s, 2, 7, "w2")
	s.Close()
	s = mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, "w3") // in another segment
	s.Close()
	mustAge(t, dir)
	mustChange(t, segmentPath(dir, "2", "7", "1"), func(b []byte) { b[bytes.Index(b, []byte("d1"))] ^= 1 })
	r.back()
	s = mustOpen(t, testConfig(dir), r)
	r.await(t, "the queue is empty, and its shard checked", func() bool {
		return !s.Pending(2, 7) && len(r.dropped) > 0
	})
	s.Close()
	if diff := cmp.Diff([]string{"w3"}, r.got["2/7"]); diff != "" {
		t.Error(diff)
	}
	if kept, _ := os.ReadDir(filepath.Join(dir, asideDir)); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}

// Deletes of the queue that goes before all others concern no writes in it: damage takes none along that can be read.
func TestDeletesBeforeDamageAreSent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustDelete(t, s, 2, WholeDatabase, "d1", "d2", "d3")
	s.Close()
	mustChange(t, segmentPath(dir, "2", "0", "1"), func(b []byte) { b[bytes.Index(b, []byte("d2"))] ^= 1 })
	r.back()
	s = mustOpen(t, testConfig(dir), r)
	r.await(t, "the queue is empty, and all shards checked", func() bool {
		return !s.Pending(2, 7) && len(r.dropped) > 0
	})
	s.Close()
	if diff := cmp.Diff([]string{"d1"}, r.got["2/0"]); diff != "" {
		t.Error(diff)
	}
}

func TestPlaceOnDisk(t *testing.T) {
	t.Parallel()
	p := place{3, 0x1234}
	want := []byte{0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0xb4, 0x26, 0x89, 0x02}
	if diff := cmp.Diff(want, p.encode()); diff != "" {
		t.Error(diff)
	}
	if got, err := decodePlace(p.encode()); err != nil || got != p {
		t.Error(got, err)
	}
	for i := range placeSize {
		b := p.encode()
		b[i] ^= 1
		if got, err := decodePlace(b); err == nil {
			t.Errorf("byte %d is damaged: %v", i, got)
		}
		if got, err := decodePlace(b[:i]); err == nil {
			t.Errorf("cut at %d: %v", i, got)
		}
	}
}

func TestDeletesThatWaitAreListed(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, testConfig(t.TempDir()), newAway())
	if list, more := s.Deletes(10); len(list) > 0 || more {
		t.Errorf("without deletes: %v, more %v", list, more)
	}
	mustAppend(t, s, 2, 7, "a write")
	mustDelete(t, s, 3, WholeDatabase, "c")
	mustDelete(t, s, 2, WholeDatabase, "a", "b")
	list := func(most int) (all []string, more bool) {
		deletes, more := s.Deletes(most)
		for _, d := range deletes {
			if d.Kind != Delete || d.Time == 0 {
				t.Errorf("it lists %+v", d)
			}
			all = append(all, fmt.Sprint(d.Node, string(d.Data)))
		}
		return all, more
	}
	if got, more := list(10); !slices.Equal(got, []string{"2a", "2b", "3c"}) || more {
		t.Errorf("all: %q, more %v", got, more)
	}
	if got, more := list(1); !slices.Equal(got, []string{"2a", "3c"}) || !more {
		t.Errorf("the first of each node: %q, more %v", got, more)
	}
}
