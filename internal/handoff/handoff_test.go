package handoff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	itoml "github.com/influxdata/influxdb/toml"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is the nodes that get entries; it can be away.
type receiver struct {
	mu      sync.Mutex
	away    error
	got     map[string][]string // by "node/shard"
	gone    map[uint64]bool     // shards
	lost    bool                // the metadata
	asked   int                 // what is due
	dropped []uint64            // shards
	behind  int                 // deletes behind the last write
	refuse  string              // an entry that can never succeed
	now     time.Time
	apart   time.Duration // how far another clock is ahead of now
	changed chan struct{}
}

func newReceiver() *receiver {
	return &receiver{
		got:     map[string][]string{},
		gone:    map[uint64]bool{},
		now:     time.Unix(1e9, 0),
		changed: make(chan struct{}, 1),
	}
}

var errAway = errors.New("away")

// newAway is a receiver that gets nothing until it is back.
func newAway() *receiver {
	r := newReceiver()
	r.away = errAway
	return r
}

func (r *receiver) back() { r.set(func() { r.away = nil }) }

func (r *receiver) deliver(_ context.Context, node, shard uint64, entries, behind []Entry) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.notify()
	if r.away != nil {
		return 0, r.away
	}
	for i, e := range entries {
		if r.refuse != "" && string(e.Data) == r.refuse {
			return i, &PermanentError{errors.New("refused")}
		}
		if e.Kind == Write {
			r.behind = len(behind)
		}
		key := fmt.Sprintf("%d/%d", node, shard)
		r.got[key] = append(r.got[key], string(e.Data))
	}
	return len(entries), nil
}

func (r *receiver) notify() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *receiver) set(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

func (r *receiver) deps() Deps {
	return Deps{
		Due: func(_, shard uint64) (bool, bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.asked++
			return !r.lost && !r.gone[shard], !r.lost
		},
		Database: func(shard uint64) string {
			if shard == 9 {
				return "other"
			}
			return "db"
		},
		Dropped: func(_, shard uint64) {
			r.set(func() { r.dropped = append(r.dropped, shard) })
			r.notify()
		},
		Now: func() (earliest, latest time.Time) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.now, r.now.Add(r.apart)
		},
	}
}

func testConfig(dir string) Config {
	c := NewConfig()
	c.Dir = dir
	c.RetryInterval, c.RetryMaxInterval = itoml.Duration(time.Millisecond), itoml.Duration(10*time.Millisecond)
	c.PurgeInterval = itoml.Duration(time.Hour)
	return c
}

func mustOpen(t testing.TB, cfg Config, r *receiver) *Service {
	t.Helper()
	s := New(cfg, r.deps())
	if err := s.Open(r.deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Service, node, shard uint64, data ...string) {
	t.Helper()
	for _, d := range data {
		if err := s.Append(node, shard, Entry{Kind: Write, Points: 1, Data: []byte(d)}); err != nil {
			t.Fatal(err)
		}
	}
}

func mustDelete(t testing.TB, s *Service, node, shard uint64, data ...string) {
	t.Helper()
	for _, d := range data {
		if err := s.Append(node, shard, Entry{Kind: Delete, Data: []byte(d)}); err != nil {
			t.Fatal(err)
		}
	}
}

// mustChange changes the bytes of a file.
func mustChange(t testing.TB, path string, change func([]byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// await waits for the receiver until ok, at most a minute.
func (r *receiver) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		r.mu.Lock()
		done := ok()
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.changed:
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("entry-%06d", i))
	}
	return out
}

func TestEntriesComeInOrderWhenTheNodeIsBack(t *testing.T) {
	t.Parallel()
	r := newAway()
	s := mustOpen(t, testConfig(t.TempDir()), r)
	want := map[string][]string{"2/7": numbers(0, 200), "2/8": numbers(200, 300), "3/7": numbers(300, 310)}
	mustAppend(t, s, 2, 7, want["2/7"]...)
	mustAppend(t, s, 2, 8, want["2/8"]...)
	mustAppend(t, s, 3, 7, want["3/7"]...)
	if !s.Pending(2, 7) || s.Pending(2, 9) || s.Pending(4, 7) {
		t.Error("pending is wrong")
	}
	if got := s.Nodes(7); len(got) != 2 {
		t.Errorf("nodes that wait for shard 7: %v", got)
	}
	r.back()
	r.await(t, "all came", func() bool { return len(r.got["2/7"])+len(r.got["2/8"])+len(r.got["3/7"]) == 310 })
	if diff := cmp.Diff(want, r.got); diff != "" {
		t.Error(diff)
	}
	r.await(t, "queues are gone", func() bool { return len(s.Waiting()) == 0 })
	if names, _ := os.ReadDir(filepath.Join(s.cfg.Dir, "2")); len(names) != 0 {
		t.Errorf("files are left: %v", names)
	}
}

func TestQueuesOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, numbers(0, 50)...)
	s.Close()
	if err := s.Append(2, 7, Entry{Kind: Write}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	r.back()
	s = mustOpen(t, testConfig(dir), r)
	r.await(t, "all came", func() bool { return len(r.got["2/7"]) == 50 })
	if diff := cmp.Diff(numbers(0, 50), r.got["2/7"]); diff != "" {
		t.Error(diff)
	}
	s.Close()
}

func TestWhatIsNotAcknowledgedIsNotOwed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, _, err := openQueue(dir, 7, realDisk)
	if err != nil {
		t.Fatal(err)
	}
	a, b := Entry{Kind: Write, Data: []byte("a")}, Entry{Kind: Write, Data: []byte("b")}
	write := func(e Entry) {
		t.Helper()
		at, err := q.write(e)
		if err == nil {
			err = q.sync(at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(want bool, what string) {
		t.Helper()
		if got := q.owes(); got != want {
			t.Errorf("%s: the queue owes something: %v", what, got)
		}
	}
	want(false, "empty")
	write(a)
	want(false, "a is not acknowledged")
	q.owe()
	write(b)
	want(true, "a is acknowledged, b is not")
	if err := q.advance([]Entry{a}); err != nil {
		t.Fatal(err)
	}
	want(false, "a is delivered")
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
	if q, _, err = openQueue(dir, 7, realDisk); err != nil {
		t.Fatal(err)
	}
	want(true, "after a start nobody knows")
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
}

// A crash may leave any part of the last append: all before it must come, and nothing else.
func TestTornTailLosesNothingBeforeIt(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	q, _, err := openQueue(filepath.Join(base, "2"), 7, realDisk)
	if err != nil {
		t.Fatal(err)
	}
	entries := func(names []string) (out []Entry) {
		for _, n := range names {
			out = append(out, Entry{Kind: Write, Points: 1, Data: []byte(n)})
		}
		return out
	}
	if _, err := q.write(entries(numbers(0, 3))...); err != nil {
		t.Fatal(err)
	}
	whole := q.files.bytes
	q.close()
	path := q.files.path(1)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := entries(numbers(2, 3))[0].size()
	for cut := whole - last; cut < whole; cut++ {
		for _, garbage := range [][]byte{nil, make([]byte, whole-cut), []byte("xyz")} {
			dir := filepath.Join(t.TempDir(), "2", "7")
			os.MkdirAll(dir, 0o755)
			torn := append(slices.Clone(full[:cut]), garbage...)
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			q, _, err := openQueue(filepath.Dir(dir), 7, realDisk)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			got, err := q.peek(1 << 20)
			if err != nil || len(got) != 2 || string(got[1].Data) != "entry-000001" {
				t.Fatalf("cut at %d with %d bytes behind: %d entries, %v", cut, len(garbage), len(got), err)
			}
			// What comes next follows at once.
			if _, err := q.write(Entry{Kind: Delete, Data: []byte("next")}); err != nil {
				t.Fatal(err)
			}
			if err := q.advance(got); err != nil {
				t.Fatal(err)
			}
			if got, err = q.peek(1 << 20); err != nil || len(got) != 1 || string(got[0].Data) != "next" ||
				got[0].Kind != Delete {
				t.Fatalf("cut at %d: then %v, %v", cut, got, err)
			}
			q.close()
		}
	}
}

func TestDamagedSegmentIsSkippedAndItsShardChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustAppend(t, s, 2, 7, numbers(0, 3)...)
	s.Close()
	s = mustOpen(t, testConfig(dir), r) // appends go to a second segment
	mustAppend(t, s, 2, 7, numbers(3, 5)...)
	s.Close()
	mustChange(t, filepath.Join(dir, "2", "7", "00000001.hh"), func(b []byte) { b[len(b)-1] ^= 1 }) // the third entry
	r.back()
	mustOpen(t, testConfig(dir), r)
	want := append(numbers(0, 2), numbers(3, 5)...)
	r.await(t, "the rest came", func() bool { return len(r.got["2/7"]) == 4 })
	if diff := cmp.Diff(want, r.got["2/7"]); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(r.dropped, []uint64{7}) {
		t.Errorf("dropped: %v", r.dropped)
	}
}

func TestMaxSizeIsExact(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	one := Entry{Data: []byte("entry-000000")}.size()
	cfg.MaxSize = itoml.Size(2*headerSize + 5*one)
	s := mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, numbers(0, 4)...)
	mustAppend(t, s, 2, 8, numbers(4, 5)...)
	for shard := uint64(7); shard <= 9; shard++ {
		if err := s.Append(2, shard, Entry{Kind: Write, Data: []byte("x")}); !errors.Is(err, ErrQueueFull) {
			t.Errorf("shard %d: %v, want a full queue", shard, err)
		}
	}
	if err := s.Append(3, 7, Entry{Kind: Write, Data: []byte("x")}); err != nil {
		t.Errorf("another node has its own limit: %v", err)
	}
	if !slices.Equal(r.dropped, []uint64{7, 8, 9}) || s.Pending(2, 9) {
		t.Errorf("dropped %v, want shards 7, 8 and 9 checked", r.dropped)
	}
	r.back()
	r.await(t, "all came", func() bool { return len(r.got["2/7"])+len(r.got["2/8"]) == 5 })
	r.await(t, "room again", func() bool { return !s.Pending(2, 7) })
	if err := s.Append(2, 7, Entry{Kind: Write, Data: []byte("x")}); err != nil {
		t.Error(err)
	}
}

// A queue full of writes refuses no delete; but deletes do not fill the disk either.
func TestDeletesHaveRoomOfTheirOwn(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.MaxSize = 1 << 10
	s := mustOpen(t, cfg, newAway())
	mustAppend(t, s, 2, 7, string(make([]byte, 1000-recordHeader)))
	big := Entry{Kind: Delete, Data: make([]byte, deleteRoom/2-100)}
	for i := range 3 {
		if err := s.Append(2, WholeDatabase, big); errors.Is(err, ErrQueueFull) != (i == 2) {
			t.Errorf("delete %d: %v", i, err)
		}
	}
}

func TestMaxAgeDropsWhatIsOlderAlone(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	cfg.MaxAge = itoml.Duration(time.Hour)
	s := mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, "old")
	r.set(func() { r.now = r.now.Add(30 * time.Minute) })
	mustAppend(t, s, 2, 7, "due")
	r.set(func() { r.now = r.now.Add(30 * time.Minute) })
	s.Purge()
	if r.dropped != nil {
		t.Fatalf("an entry of exactly max-age was dropped: %v", r.dropped)
	}
	r.set(func() { r.now = r.now.Add(time.Nanosecond) })
	s.Purge()
	if !slices.Equal(r.dropped, []uint64{7}) {
		t.Errorf("dropped: %v, want shard 7 once", r.dropped)
	}
	r.back()
	r.await(t, "the other came", func() bool { return slices.Equal(r.got["2/7"], []string{"due"}) })
}

// A clock that is wrong drops nothing: neither one that is ahead now, nor one that was behind when an entry came.
func TestClocksThatDisagreeDropNothing(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	cfg.MaxAge = itoml.Duration(time.Hour)
	s := mustOpen(t, cfg, r)
	r.set(func() { r.apart = 100 * time.Hour })
	mustAppend(t, s, 2, 7, "a")
	r.set(func() { r.now, r.apart = r.now.Add(100*time.Hour+time.Minute), 0 })
	s.Purge()
	r.set(func() { r.apart = 100 * time.Hour })
	s.Purge()
	if r.dropped != nil {
		t.Errorf("dropped: %v", r.dropped)
	}
	r.set(func() { r.now = r.now.Add(time.Hour) })
	s.Purge()
	r.await(t, "shard 7 is dropped, which is too old by all clocks", func() bool {
		return slices.Equal(r.dropped, []uint64{7})
	})
}

// Deletes wait for a node however long it is away.
func TestDeletesDoNotAge(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	cfg.MaxAge = itoml.Duration(time.Hour)
	s := mustOpen(t, cfg, r)
	mustDelete(t, s, 2, WholeDatabase, "all")
	mustAppend(t, s, 2, 7, "old")
	r.set(func() { r.now = r.now.AddDate(1, 0, 0) })
	s.Purge()
	if !slices.Equal(r.dropped, []uint64{7}) {
		t.Errorf("dropped: %v, want the write of shard 7", r.dropped)
	}
	r.back()
	r.await(t, "the delete came", func() bool { return slices.Equal(r.got["2/0"], []string{"all"}) })
}

func TestHopelessEntryDoesNotBlock(t *testing.T) {
	t.Parallel()
	r := newAway()
	r.refuse = "entry-000002"
	s := mustOpen(t, testConfig(t.TempDir()), r)
	mustAppend(t, s, 2, 7, numbers(0, 5)...)
	r.back()
	r.await(t, "the others came", func() bool { return len(r.got["2/7"]) == 4 })
	if !slices.Equal(r.dropped, []uint64{7}) {
		t.Errorf("dropped: %v", r.dropped)
	}
}

func TestDeletesOfADatabaseGoFirst(t *testing.T) {
	t.Parallel()
	var order []string
	r := newAway()
	deliver := func(ctx context.Context, node, shard uint64, entries, behind []Entry) (int, error) {
		n, err := r.deliver(ctx, node, shard, entries, behind)
		r.set(func() {
			for _, e := range entries[:n] {
				order = append(order, string(e.Data))
			}
		})
		return n, err
	}
	s := New(testConfig(t.TempDir()), r.deps())
	if err := s.Open(deliver); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	mustDelete(t, s, 2, WholeDatabase, "delete")
	if !s.Pending(2, 7) {
		t.Error("a write may overtake the delete")
	}
	mustAppend(t, s, 2, 7, "write")
	r.back()
	r.await(t, "both came", func() bool { return len(order) == 2 })
	if !slices.Equal(order, []string{"delete", "write"}) {
		t.Error(order)
	}
}

func TestQueuesOfGoneShardsAreForgotten(t *testing.T) {
	t.Parallel()
	r := newAway()
	s := mustOpen(t, testConfig(t.TempDir()), r)
	mustAppend(t, s, 2, 7, "x")
	mustAppend(t, s, 2, 8, "y")
	r.set(func() { r.gone[7] = true })
	s.Purge()
	if s.Pending(2, 7) || !s.Pending(2, 8) || r.dropped != nil {
		t.Errorf("pending %v %v, dropped %v", s.Pending(2, 7), s.Pending(2, 8), r.dropped)
	}
}

// An empty copy of the metadata, as after damage to it, knows of no node and of no shard. That is not knowledge.
func TestNothingIsForgottenOrSentWithoutMetadata(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newAway()
	s := mustOpen(t, testConfig(dir), r)
	mustDelete(t, s, 2, WholeDatabase, "d")
	mustAppend(t, s, 2, 7, "x")
	s.Close()
	r.back()
	r.set(func() { r.lost, r.asked = true, 0 })
	s = mustOpen(t, testConfig(dir), r)
	r.await(t, "the loop looked three times", func() bool { return r.asked >= 3 })
	r.set(func() { r.now = r.now.AddDate(1, 0, 0) }) // and older than max-age
	s.Purge()
	if !s.Pending(2, 7) || len(s.Waiting()) != 1 || !s.Pending(2, 8) || len(r.got) > 0 || r.dropped != nil {
		t.Fatalf("waiting %v, sent %v, dropped %v", s.Waiting(), r.got, r.dropped)
	}
	r.set(func() { r.lost, r.now = false, time.Unix(1e9, 0) })
	r.await(t, "both came", func() bool { return len(r.got["2/0"]) == 1 && len(r.got["2/7"]) == 1 })
}

func TestForgetRemovesAllQueues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, testConfig(dir), newAway())
	mustDelete(t, s, 2, WholeDatabase, "d")
	mustAppend(t, s, 3, 7, "x")
	kept, err := Kept(dir)
	if diff := cmp.Diff([]Waiting{{2, WholeDatabase}, {3, 7}}, kept); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if err := s.Forget(); err != nil {
		t.Fatal(err)
	}
	if kept, err := Kept(dir); err != nil || kept != nil || s.Pending(2, 7) || s.Pending(3, 7) {
		t.Errorf("left: %v, %v", kept, err)
	}
}

// They are of the node that this one was. Nothing of them is sent, and nothing is lost.
func TestFormerQueuesAreKeptAndNotSent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if aside, queues, err := SetFormerAside(dir, 4); err != nil || aside != "" || queues != 0 {
		t.Errorf("of an empty folder it keeps %d queues in %q: %v", queues, aside, err)
	}
	for n := 1; n <= 2; n++ { // the node may be removed and added more than once
		s := mustOpen(t, testConfig(dir), newAway())
		mustDelete(t, s, 2, WholeDatabase, "d")
		mustAppend(t, s, 3, 7, "x")
		s.Close()
		aside, queues, err := SetFormerAside(dir, 4)
		if want := filepath.Join(dir, fmt.Sprintf("former-node4-%d", n)); err != nil || aside != want || queues != 2 {
			t.Fatalf("%d queues are in %q, want 2 in %q: %v", queues, aside, want, err)
		}
		kept, err := Kept(aside)
		if diff := cmp.Diff([]Waiting{{2, WholeDatabase}, {3, 7}}, kept); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
	r := newReceiver()
	s := mustOpen(t, testConfig(dir), r)
	if got := s.Waiting(); len(got) != 0 {
		t.Errorf("it sends %v", got)
	}
}

func TestConcurrentAppendsAllCome(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := mustOpen(t, testConfig(t.TempDir()), r)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				if err := s.Append(2, 7, Entry{Kind: Write, Points: 1,
					Data: fmt.Appendf(nil, "%d-%03d", w, i)}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	r.await(t, "all came", func() bool { return len(r.got["2/7"]) == 400 })
	next := map[byte]int{}
	for _, e := range r.got["2/7"] {
		if want := fmt.Sprintf("%c-%03d", e[0], next[e[0]]); e != want {
			t.Fatalf("%s came, want %s", e, want)
		}
		next[e[0]]++
	}
}

func FuzzOpenQueue(f *testing.F) {
	good := append([]byte(magic), 0, formatVersion, 0, 0)
	good = appendRecord(good, Entry{Time: 1, Kind: Write, Points: 2, Data: []byte("abc")})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "2", "7")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "00000001.hh"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		q, _, err := openQueue(filepath.Dir(dir), 7, realDisk)
		if err != nil {
			return
		}
		for q.pending() {
			entries, err := q.peek(1 << 20)
			if err != nil {
				if _, _, err := q.setAside(1); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := q.advance(entries); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNodeThatIsHeardOfIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(time.Hour), itoml.Duration(time.Hour)
	s := mustOpen(t, cfg, r)
	mustAppend(t, s, 2, 7, "x")
	<-r.changed // the first attempt failed
	r.back()
	r.await(t, "it came", func() bool {
		go s.Heard(2)
		return len(r.got["2/7"]) == 1
	})
}

// A node may refuse what is kept for it, and send many writes itself.
func TestPauseEndsWhenTheNodeIsBackOrHeardOf(t *testing.T) {
	t.Parallel()
	back, heard := func(n *node) { notify(n.back) }, func(n *node) { notify(n.heard) }
	for name, tc := range map[string]struct {
		after  time.Duration // since the pause began
		signal func(*node)
		want   time.Duration // of the pause
	}{
		"nothing is heard":         {0, func(*node) {}, time.Hour},
		"it is back at once":       {0, back, 0},
		"it is back":               {time.Minute, back, time.Minute},
		"it is heard of at once":   {0, heard, backPause},
		"it is heard of":           {time.Minute, heard, time.Minute},
		"heard of, then back":      {0, func(n *node) { heard(n); time.AfterFunc(1, func() { back(n) }) }, 1},
		"it is heard of and again": {0, func(n *node) { heard(n); time.AfterFunc(1, func() { heard(n) }) }, backPause},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, began := newNode(2, &Service{}), time.Now()
				time.AfterFunc(tc.after, func() { tc.signal(n) })
				if !n.pause(t.Context(), new(rest), time.Hour) || time.Since(began) != tc.want {
					t.Errorf("it pauses for %v, want %v", time.Since(began), tc.want)
				}
			})
		})
	}
}

// A node that has just been heard may refuse for a moment what it takes later: all of it, or what is for one shard.
func TestNodeThatIsBackIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	for name, others := range map[string][]string{"all": nil, "one shard": {"y"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newAway()
			refuses := 1 // attempts of shard 7, once the node is back
			deliver := func(ctx context.Context, node, shard uint64, entries, behind []Entry) (int, error) {
				r.mu.Lock()
				refused := r.away == nil && shard == 7 && refuses > 0
				if refused {
					refuses--
				}
				r.mu.Unlock()
				if refused {
					return 0, errors.New("not yet")
				}
				return r.deliver(ctx, node, shard, entries, behind)
			}
			cfg := testConfig(t.TempDir())
			cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(time.Hour), itoml.Duration(time.Hour)
			s := New(cfg, r.deps())
			if err := s.Open(deliver); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			mustAppend(t, s, 2, 7, "x")
			mustAppend(t, s, 2, 8, others...)
			<-r.changed // the first attempt failed
			r.back()
			s.Back(2)
			r.await(t, "all came", func() bool { return len(r.got["2/7"]) == 1 && len(r.got["2/8"]) == len(others) })
		})
	}
}
