package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/bolt/bolttest"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
)

// queueFile makes an entropy.db with n shards.
func queueFile(t testing.TB, n int) []byte {
	t.Helper()
	dir := t.TempDir()
	q, _, err := openQueue(dir)
	if err != nil {
		t.Fatal(err)
	}
	q.db.NoSync = true
	for i := range n {
		if err := q.put(uint64(i), time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := q.fail(uint64(i), time.Unix(int64(i), 0), errors.New("an owner is away")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(q.setPaused(true), q.close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "entropy.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The operator finds a queue file that was kept aside by the log.
func TestLogNamesADamagedQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "entropy.db"), []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	core, logged := observer.New(zap.ErrorLevel)
	mustOpen(t, entropytest.NewCluster(), func(_ *entropy.Config, d *Deps) { d.Dir, d.Log = dir, zap.New(core) })
	kept := filepath.Join(dir, "entropy.db.damaged-1")
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if logged.FilterField(zap.String("damaged_file", kept)).Len() != 1 {
		t.Errorf("the log does not name %s: %v", kept, logged.All())
	}
}

// A damaged queue file is kept aside, and an empty queue begins that works and lasts.
func TestDamagedQueueIsSetAside(t *testing.T) {
	t.Parallel()
	whole := queueFile(t, 5)
	for name, b := range map[string][]byte{
		"foreign":      []byte("something else\n"),
		"zeros":        make([]byte, len(whole)),
		"cut short":    whole[:2*os.Getpagesize()],
		"bad pointers": bolttest.Damage(whole, uint32(2*os.Getpagesize()), make([]byte, len(whole)-2*os.Getpagesize()), uint32(len(whole)), false),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "entropy.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		q, aside, err := openQueue(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n := q.len(); n != 0 || aside == "" {
			t.Errorf("%s: %d shards are queued, aside is %q", name, n, aside)
		}
		if kept, err := os.ReadFile(aside); err != nil || len(kept) != len(b) {
			t.Errorf("%s: %d bytes are kept, %v", name, len(kept), err)
		}
		if err := errors.Join(q.put(7, time.Unix(1, 0)), q.close()); err != nil {
			t.Fatal(err)
		}
		if q, aside, err = openQueue(dir); err != nil || aside != "" || !q.has(7) {
			t.Errorf("%s: afterwards: %q, %v", name, aside, err)
		} else {
			q.close()
		}
	}
}

// FuzzOpenQueue damages a queue file: whatever it holds, there is a queue that works and lasts.
func FuzzOpenQueue(f *testing.F) {
	files := [][]byte{queueFile(f, 2), queueFile(f, 200)}
	dir := f.TempDir()
	f.Add(uint8(0), uint32(0), []byte(nil), uint32(1<<31), true)
	for page := range uint32(10) {
		f.Add(uint8(1), page*4096+8, []byte{2, 0, 255}, uint32(1<<31), true)
		f.Add(uint8(1), page*4096+40, []byte(`"attempts":-1`), uint32(1<<31), false)
	}
	f.Add(uint8(1), uint32(9), []byte{1}, uint32(3*4096), true)
	f.Fuzz(func(t *testing.T, which uint8, at uint32, patch []byte, end uint32, seal bool) {
		path := filepath.Join(dir, "entropy.db")
		if err := os.WriteFile(path, bolttest.Damage(files[int(which)%len(files)], at, patch, end, seal), 0o600); err != nil {
			t.Fatal(err)
		}
		q, aside, err := openQueue(dir)
		if errors.Is(err, bbolterrors.ErrVersionMismatch) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if aside != "" {
			defer os.Remove(aside)
		}
		q.db.NoSync = true
		now := time.Unix(1_700_000_000, 0)
		if err := q.put(1<<63, now); err != nil {
			t.Fatal(err)
		}
		for _, it := range q.list() {
			if err := q.fail(it.ID, now, fmt.Errorf("attempt %d", it.Attempts)); err != nil {
				t.Fatal(err)
			}
			if it.ID%2 == 1 {
				if err := q.remove(it.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := q.list()
		if err := errors.Join(q.setPaused(true), q.close()); err != nil {
			t.Fatal(err)
		}
		q, again, err := openQueue(dir)
		if err != nil || again != "" {
			t.Fatalf("the second time: %q, %v", again, err)
		}
		defer q.close()
		if d := cmp.Diff(want, q.list()); d != "" {
			t.Fatal(d)
		}
		if paused, err := q.paused(); err != nil || !paused {
			t.Fatal(paused, err)
		}
	})
}

func FuzzDecodeQueued(f *testing.F) {
	b, err := encodeQueued(queued{ID: 7, Added: time.Unix(1, 2), Attempts: 3, Next: time.Unix(4, 5), Error: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(7), b[4:])
	f.Add(uint64(7), []byte(`{"id":7,"added":"9999-12-31T23:59:59-23:59","attempts":-9223372036854775808}`))
	f.Add(uint64(7), []byte{})
	f.Fuzz(func(t *testing.T, id uint64, b []byte) {
		if got := decodeQueued(id, b); got.ID != id {
			t.Fatalf("shard %d became %d", id, got.ID)
		}
		// With the checksum that it should have.
		it := decodeQueued(id, append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...))
		if it.ID != id {
			t.Fatalf("shard %d became %d", id, it.ID)
		}
		c, err := encodeQueued(it)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(it, decodeQueued(id, c)); d != "" {
			t.Fatal(d)
		}
		if w := backoff(it.Attempts + 1); w < minBackoff || w > maxBackoff {
			t.Fatal(w)
		}
	})
}

func TestBackoffDoublesUpToFiveMinutes(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second,
		10: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		if got := backoff(attempts); got != want {
			t.Errorf("backoff(%d) = %s, want %s", attempts, got, want)
		}
	}
}

// An owner that came back while its shard was being repaired, too late for that attempt, has the next one soon.
func TestBackoffBeginsAnewDuringAnAttempt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, _, err := openQueue(dir)
	if err != nil {
		t.Fatal(err)
	}
	now, away := time.Unix(1_700_000_000, 0), errors.New("an owner is away")
	for id := range uint64(3) {
		if err := q.put(id, now); err != nil {
			t.Fatal(err)
		}
	}
	for range 12 {
		if err := errors.Join(q.fail(1, now, away), q.fail(2, now, away)); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(maxBackoff)
	if err := errors.Join(q.anew(func(id uint64) bool { return id < 2 }, now), q.fail(1, now, away)); err != nil {
		t.Fatal(err)
	}
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
	if q, _, err = openQueue(dir); err != nil {
		t.Fatal(err)
	}
	defer q.close()
	for id, want := range map[uint64]queued{
		0: {}, 1: {Attempts: 13, Since: 1, Next: now.Add(minBackoff)}, 2: {Attempts: 12, Since: 12, Next: now},
	} {
		if got := q.items[id]; got.Attempts != want.Attempts || got.Since != want.Since ||
			id != 0 && !got.Next.Equal(want.Next) {
			t.Errorf("shard %d is %+v, want %+v", id, got, want)
		}
	}
}

// A queue that cannot be written makes no repair run again and again without a pause.
func TestAttemptsCountWhenTheQueueCannotBeWritten(t *testing.T) {
	t.Parallel()
	q, _, err := openQueue(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	for id := range uint64(3) {
		if err := q.put(id, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.close(); err != nil { // nothing is written any more
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"fail": q.fail(0, now, errors.New("a reason")), "postpone": q.postpone(1, now, errors.New("a reason")),
		"remove": q.remove(2),
	} {
		if err == nil {
			t.Errorf("%s says that it was written", what)
		}
	}
	left := q.list()
	if len(left) != 2 || !left[0].Next.After(now) || !left[1].Next.After(now) {
		t.Errorf("queued are %+v, want two, to be tried later", left)
	}
}

func TestQueueRecordWithBadChecksumKeepsItsPlace(t *testing.T) {
	t.Parallel()
	v, err := encodeQueued(queued{ID: 7, Attempts: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got := decodeQueued(7, v); got.Attempts != 3 {
		t.Errorf("decoded %+v", got)
	}
	v[len(v)-2] ^= 1
	if got := decodeQueued(7, v); got != (queued{ID: 7}) {
		t.Errorf("decoded %+v from a damaged record", got)
	}
}
