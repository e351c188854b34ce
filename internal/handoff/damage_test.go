package handoff

import (
	"path/filepath"
	"slices"
	"testing"
)

// Damage in the newest segment is more than a torn tail when the node opens: what is
// cut off may have been acknowledged, and the node starts.
func TestDamagedNewestSegmentDoesNotKeepTheNodeFromStarting(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte){
		"a header of zeros, after the power failed": func(b []byte) { clear(b) },
		"no magic":       func(b []byte) { b[0] ^= 1 },
		"a first record": func(b []byte) { b[headerSize+recordHeader] ^= 1 },
	} {
		dir := t.TempDir()
		r := newAway()
		s := mustOpen(t, testConfig(dir), r)
		mustAppend(t, s, 2, 7, numbers(0, 3)...)
		mustAppend(t, s, 2, 8, numbers(3, 5)...)
		s.Close()
		mustChange(t, filepath.Join(dir, "2", "7", "00000001.hh"), damage)
		r.back()
		s = New(testConfig(dir), r.deps())
		if err := s.Open(r.deliver); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r.await(t, name+": the other shard's came", func() bool { return len(r.got["2/8"]) == 2 })
		r.await(t, name+": the shard is checked", func() bool { return slices.Contains(r.dropped, 7) })
		mustAppend(t, s, 2, 7, "next")
		r.await(t, name+": the next one came", func() bool { return slices.Contains(r.got["2/7"], "next") })
		s.Close()
	}
}

// Another version's queue is not damage: it must not be given up.
func TestQueueOfAnotherVersionIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, numbers(0, 3)...)
	s.Close()
	s = mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, numbers(3, 5)...) // in a second segment
	s.Close()
	for _, segment := range []string{"00000001.hh", "00000002.hh"} {
		path := filepath.Join(dir, "2", "7", segment)
		mustChange(t, path, func(b []byte) { b[5]++ })
		if err := New(testConfig(dir), r.deps()).Open(r.deliver); err == nil {
			t.Errorf("%s was opened", segment)
		}
		mustChange(t, path, func(b []byte) { b[5]-- })
	}
}
