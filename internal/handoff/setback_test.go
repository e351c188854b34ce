package handoff

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func segmentPath(dir, node, shard string, n string) string {
	return filepath.Join(dir, node, shard, "0000000"+n+".hh")
}

// mustBlock puts a folder that is not empty in the place of a segment: it can be neither read nor unlinked, but
// renamed.
func mustBlock(t testing.TB, path string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o750)); err != nil {
		t.Fatal(err)
	}
}

// queueOf is a queue with entries, nil when there is none.
func queueOf(s *Service, node, shard uint64) *queue {
	n := s.known(node)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.queues[shard]
}

// harm does something to the files of a queue, but not between reading and sending.
func harm(s *Service, node, shard uint64, do func()) {
	q := queueOf(s, node, shard)
	q.draining.Lock()
	defer q.draining.Unlock()
	do()
}

// setbacks is how often a queue did not get on.
func setbacks(s *Service, node, shard uint64) int {
	q := queueOf(s, node, shard)
	if q == nil {
		return 0
	}
	q.rest.mu.Lock()
	defer q.rest.mu.Unlock()
	return q.rest.setbacks
}

func TestSegmentThatCannotBeUnlinkedIsTriedAfterPauses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newReceiver()
	d := r.deps()
	stuck := segmentPath(dir, "2", "7", "1")
	var once sync.Once
	deliver := func(ctx context.Context, node, shard uint64, entries, behind []Entry) (int, error) {
		if shard == 7 {
			once.Do(func() { mustBlock(t, stuck) })
		}
		return r.deliver(ctx, node, shard, entries, behind)
	}
	core, logs := observer.New(zap.ErrorLevel)
	d.Log = zap.New(core)
	s := New(testConfig(dir), d)
	if err := s.Open(deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	mustAppend(t, s, 2, 7, "x")
	r.await(t, "it was tried again", func() bool { return setbacks(s, 2, 7) >= 4 })
	if got := logs.All(); len(got) != 1 {
		t.Errorf("%d lines are logged: %v", len(got), got)
	}
	mustAppend(t, s, 2, 8, "y")
	r.await(t, "the other queue's came", func() bool { return len(r.got["2/8"]) == 1 })
	if !s.Pending(2, 7) {
		t.Error("later writes would overtake what is sent again after a restart")
	}
	if err := os.RemoveAll(stuck); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the queue is gone", func() bool { return !s.Pending(2, 7) })
	r.set(func() {
		if !slices.Equal(r.got["2/7"], []string{"x"}) || r.dropped != nil {
			t.Errorf("came: %v, dropped %v", r.got["2/7"], r.dropped)
		}
	})
}

// A segment that cannot be read is tried for a while, then given up: its file is kept, its shard checked. The other
// queues do not wait for it, whichever segment it is, and whether it is met at the start or later.
func TestSegmentThatCannotBeReadIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		segment string
		harm    func(path string)
		running bool // it is met later
		left    []string
		kept    int
	}{
		"the first is removed":    {"1", func(p string) { os.Remove(p) }, true, []string{"b"}, 0},
		"the newest is removed":   {"2", func(p string) { os.Remove(p) }, true, []string{"a"}, 0},
		"the first is unreadable": {"1", func(p string) { mustBlock(t, p) }, false, []string{"b", "c"}, 1},
		"the newest one is":       {"2", func(p string) { mustBlock(t, p) }, false, []string{"a", "c"}, 1},
		"the first is, later":     {"1", func(p string) { mustBlock(t, p) }, true, []string{"b"}, 1},
		"the first is cut short":  {"1", func(p string) { os.Truncate(p, headerSize+3) }, true, []string{"b"}, 1},
	} {
		dir := t.TempDir()
		r := newAway()
		s := mustOpen(t, testConfig(dir), r)
		mustAppend(t, s, 2, 7, "a")
		s.Close()
		s = mustOpen(t, testConfig(dir), r) // appends go to a second segment
		mustAppend(t, s, 2, 7, "b")
		mustAppend(t, s, 2, 8, "y")
		path := segmentPath(dir, "2", "7", tc.segment)
		if tc.running {
			harm(s, 2, 7, func() { tc.harm(path) })
		} else {
			s.Close()
			tc.harm(path)
			s = New(testConfig(dir), r.deps())
			if err := s.Open(r.deliver); err != nil {
				t.Errorf("%s: the node does not start: %v", name, err)
				continue
			}
			mustAppend(t, s, 2, 7, "c")
		}
		r.back()
		r.await(t, name+": the other shard's came", func() bool { return len(r.got["2/8"]) == 1 })
		r.await(
			t,
			name+": the queue is empty, and its shard checked",
			func() bool { return !s.Pending(2, 7) && len(r.dropped) > 0 },
		)
		r.set(func() {
			if !slices.Equal(r.got["2/7"], tc.left) || !slices.Equal(r.dropped, []uint64{7}) {
				t.Errorf("%s: %v came, %v dropped", name, r.got["2/7"], r.dropped)
			}
		})
		if kept, _ := os.ReadDir(filepath.Join(dir, asideDir)); len(kept) != tc.kept {
			t.Errorf("%s: kept %v", name, kept)
		}
		s.Close()
	}
}

// A node may be away for longer than max-age: what is behind a damaged segment ages all the same.
func TestMaxAgePassesSegmentsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	cfg := testConfig(dir)
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(time.Hour), itoml.Duration(time.Hour) // nothing is sent
	s := mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, "a")
	s.Close()
	s = mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, "b")
	harm(s, 2, 7, func() { mustBlock(t, segmentPath(dir, "2", "7", "1")) })
	r.set(func() { r.now = r.now.AddDate(1, 0, 0) })
	for range readTries {
		s.Purge()
	}
	if s.Pending(2, 7) || len(r.dropped) != 2 {
		t.Errorf("pending %v, dropped %v", s.Pending(2, 7), r.dropped)
	}
}

// The copy of one shard may refuse what comes while the node takes all else.
func TestShardThatFailsDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, "x")
	mustAppend(t, s, 2, 8, "y")
	s.Close()
	r.back()
	cfg := testConfig(dir)
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(time.Hour), itoml.Duration(time.Hour)
	var both sync.WaitGroup
	both.Add(2)
	var once [2]sync.Once
	deliver := func(ctx context.Context, node, shard uint64, entries, behind []Entry) (int, error) {
		once[shard-7].Do(both.Done)
		both.Wait()
		if shard == 7 {
			return 0, errAway
		}
		return r.deliver(ctx, node, shard, entries, behind)
	}
	s = New(cfg, r.deps())
	if err := s.Open(deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.await(t, "the other shard's came", func() bool { return len(r.got["2/8"]) == 1 })
	r.await(t, "the shard rests", func() bool { return setbacks(s, 2, 7) == 1 })
	mustAppend(t, s, 2, 8, "z")
	r.await(t, "the next one came", func() bool { return len(r.got["2/8"]) == 2 })
}

// A node that is back does not make the faults of a queue's own files count sooner: those take two minutes.
func TestPausesOfAQueueWhoseFilesCannotBeRead(t *testing.T) {
	t.Parallel()
	var r rest
	r.retry() // the node is back
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if got := r.setback(time.Second, time.Minute, true); got != want {
			t.Errorf("pause %d is %v, want %v", i+1, got, want)
		}
	}
	var other rest
	other.retry()
	if got := other.setback(time.Second, time.Minute, false); got != backPause {
		t.Errorf("the first pause of a node that is back is %v", got)
	}
}
