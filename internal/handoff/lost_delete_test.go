package handoff

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A delete takes its points out of the writes before it in its queue, while the node gets it another way. So when it
// is lost, these writes must not be sent: they would bring the points back. All else must be.
func TestWritesBeforeALostDeleteAreGivenUp(t *testing.T) {
	t.Parallel()
	flip := func(entry string) func([]byte) []byte {
		return func(b []byte) []byte { b[bytes.Index(b, []byte(entry))] ^= 1; return b }
	}
	cut := func(entry string, more int) func([]byte) []byte {
		return func(b []byte) []byte { return b[:bytes.Index(b, []byte(entry))-recordHeader+more] }
	}
	gone := func([]byte) []byte { return nil }
	for name, tc := range map[string]struct {
		queue []string // entries, "|" for a restart: what follows is in another segment
		file  string
		harm  func([]byte) []byte
		got   []string
		kept  int // files aside
	}{
		"behind a damaged write":          {[]string{"w1", "w2", "d1", "|", "w3"}, "1", flip("w2"), []string{"w3"}, 1},
		"itself damaged":                  {[]string{"w1", "d1", "w2", "|", "w3"}, "1", flip("d1"), []string{"w3"}, 1},
		"in the newest segment":           {[]string{"w1", "w2", "d1"}, "1", flip("w2"), nil, 1},
		"the last of the newest segment":  {[]string{"w1", "d1"}, "1", flip("d1"), nil, 1},
		"of writes in a segment before":   {[]string{"w1", "|", "w2", "d1", "|", "w3"}, "2", flip("w2"), []string{"w3"}, 2},
		"of writes before, in the newest": {[]string{"w1", "|", "d1"}, "2", flip("d1"), nil, 2},
		"in a segment without a header":   {[]string{"w1", "|", "d1"}, "2", flip(magic), nil, 2},
		"in a newest one that is gone":    {[]string{"w1", "|", "d1"}, "2", gone, nil, 1},
		"in one between that is gone":     {[]string{"w1", "|", "d1", "|", "w2"}, "2", gone, []string{"w2"}, 1},
		"cut off, whole":                  {[]string{"w1", "d1"}, "1", cut("d1", 0), nil, 1},
		"cut off, in part":                {[]string{"w1", "d1"}, "1", cut("d1", 3), nil, 1},
		"cut off an older segment":        {[]string{"w1", "d1", "|", "w2"}, "1", cut("d1", 0), []string{"w2"}, 1},

		"not lost: before the damage":        {[]string{"w1", "d1", "w2", "|", "w3"}, "1", flip("w2"), []string{"w1", "d1", "w3"}, 1},
		"not lost: before a torn tail":       {[]string{"w1", "d1", "w2"}, "1", cut("w2", 9), []string{"w1", "d1"}, 0},
		"not lost: there was none":           {[]string{"w1", "w2", "|", "w3"}, "1", flip("w2"), []string{"w1", "w3"}, 1},
		"not lost: there was none in a tail": {[]string{"w1", "w2"}, "1", flip("w2"), []string{"w1"}, 0},
	} {
		dir := t.TempDir()
		r := newAway()
		s := mustOpen(t, testConfig(dir), r)
		for _, e := range tc.queue {
			switch {
			case e == "|":
				s.Close()
				s = mustOpen(t, testConfig(dir), r)
			case e[0] == 'd':
				mustDelete(t, s, 2, 7, e)
			default:
				mustAppend(t, s, 2, 7, e)
			}
		}
		s.Close()
		path := segmentPath(dir, "2", "7", tc.file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b = tc.harm(b); b == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.back()
		s = mustOpen(t, testConfig(dir), r)
		r.await(t, name+": the queue is empty, and its shard checked", func() bool { return !s.Pending(2, 7) && len(r.dropped) > 0 })
		s.Close()
		if diff := cmp.Diff(tc.got, r.got["2/7"]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if kept, _ := os.ReadDir(filepath.Join(dir, asideDir)); len(kept) != tc.kept {
			t.Errorf("%s: kept %v", name, kept)
		}
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
	r.await(t, "the queue is empty, and all shards checked", func() bool { return !s.Pending(2, 7) && len(r.dropped) > 0 })
	s.Close()
	if diff := cmp.Diff([]string{"d1"}, r.got["2/0"]); diff != "" {
		t.Error(diff)
	}
}

// When the place of the last delete is damaged, it may be behind any damage; whole segments hold what they held.
func TestDamagedPlaceOfTheLastDelete(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		torn bool
		got  []string
	}{
		"alone":            {false, []string{"w1", "d1", "w2"}},
		"with a torn tail": {true, nil},
	} {
		dir := t.TempDir()
		r := newAway()
		s := mustOpen(t, testConfig(dir), r)
		mustAppend(t, s, 2, 7, "w1")
		mustDelete(t, s, 2, 7, "d1")
		mustAppend(t, s, 2, 7, "w2")
		s.Close()
		mustChange(t, filepath.Join(dir, "2", "7", "deletes"), func(b []byte) { b[9] ^= 1 })
		if tc.torn {
			mustChange(t, segmentPath(dir, "2", "7", "1"), func(b []byte) { b[len(b)-1] ^= 1 })
		}
		r.back()
		s = mustOpen(t, testConfig(dir), r)
		r.await(t, name+": the queue is empty", func() bool { return !s.Pending(2, 7) })
		s.Close()
		if diff := cmp.Diff(tc.got, r.got["2/7"]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A delete is not acknowledged before its place is on disk: without it, damage would not be known to take it along.
func TestDeleteWhosePlaceCannotBeStoredIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, testConfig(dir), newAway())
	mustAppend(t, s, 2, 7, "w1")
	if err := os.MkdirAll(filepath.Join(dir, "2", "7", "deletes", "x"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(2, 7, Entry{Kind: Delete, Data: []byte("d1")}); err == nil {
		t.Error("it was acknowledged")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "2", "7", "deletes.*")); left != nil {
		t.Errorf("files are left: %v", left)
	}
}

// The segment that a delete was in may be gone. Another one with its number would seem to lack it.
func TestNewSegmentsAreBehindALostDelete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, "w1")
	s.Close()
	s = mustOpen(t, testConfig(dir), r)
	mustDelete(t, s, 2, 7, "a delete that is long")
	s.Close()
	if err := os.Remove(segmentPath(dir, "2", "7", "2")); err != nil {
		t.Fatal(err)
	}
	for _, e := range []string{"w2", "w3"} {
		s = mustOpen(t, testConfig(dir), r)
		mustAppend(t, s, 2, 7, e)
		s.Close()
	}
	r.back()
	s = mustOpen(t, testConfig(dir), r)
	r.await(t, "the queue is empty", func() bool { return !s.Pending(2, 7) })
	s.Close()
	if diff := cmp.Diff([]string{"w2", "w3"}, r.got["2/7"]); diff != "" {
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

// A queue that could not be removed goes on with new segments: a delete there is behind all that were before.
func TestPlaceOfALaterDeleteIsStored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newReceiver()
	var f faulty
	f.remove.Store(true)
	s := mustOpenOn(t, &f, dir, r)
	mustDelete(t, s, 2, 7, "d1")
	r.await(t, "the queue cannot be removed", func() bool { return setbacks(s, 2, 7) > 1 })
	r.set(func() { r.away = errAway })
	mustAppend(t, s, 2, 7, "w1")
	mustDelete(t, s, 2, 7, "d2")
	if got := loadLast(filepath.Join(dir, "2", "7", "deletes")); !got.behind(1, segmentSize) {
		t.Errorf("the last delete is at %v", got)
	}
	f.remove.Store(false)
	r.back()
	r.await(t, "all came", func() bool { return len(r.got["2/7"]) == 3 && !s.Pending(2, 7) })
}
