package transport

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
)

// bytesOnDisk are those of the files of an owner's copy.
func (o *owners) bytesOnDisk(owner int, id uint64) (n int64) {
	for _, f := range o.files(owner, id) {
		info, err := os.Stat(f)
		if err != nil {
			o.t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// Whichever owner lacks the shard gets the files of another one, and not its points.
func TestMissingShardsAreCopiedAsFiles(t *testing.T) {
	t.Parallel()
	for _, lacks := range []int{0, 1, 2} {
		t.Run(fmt.Sprint("owner ", lacks+1), func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, 3, 1)
			o.series(1, randomFloat, func(owner int, _ time.Duration) bool { return owner == lacks })
			if err := o.stores[lacks].DeleteShard(1); err != nil {
				t.Fatal(err)
			}
			other := (lacks + 1) % 3
			o.snapshot(other, 1)
			size := o.bytesOnDisk(other, 1)
			o.sent.of()
			r := o.repair(1)
			if r.State != entropy.Done || r.Points != 0 {
				t.Errorf("%+v", r)
			}
			if bytes := o.sent.of("Files"); bytes < size || float64(bytes) > 1.02*float64(size) {
				t.Errorf("%d bytes for files of %d", bytes, size)
			}
			for i := range 3 {
				if a, b := o.root(0, 1), o.root(i, 1); a != b || a.Count == 0 {
					t.Errorf("owner %d has root %v, the first %v", i+1, b, a)
				}
			}
			if left, _ := os.ReadDir(filepath.Join(o.dirs[lacks], "incoming")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// What an owner got as files of another one is no second voice for its values.
func TestCopiedFilesHaveNoVote(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 3, 2)
	for id := uint64(1); id <= 2; id++ { // of which the source is another owner each
		for i, v := range []float64{1, 2} {
			o.create(i, id)
			o.write(i, id, o.point("m,host=a", "f", o.at(time.Hour), v),
				o.point("m,host=a", "f", o.at(2*time.Hour), 3-v))
		}
		if r := o.repair(id); r.State != entropy.Done || r.Conflicts != 2 {
			t.Errorf("%+v", r)
		}
		for i := range 3 {
			want := map[int64]any{o.at(time.Hour): 2.0, o.at(2 * time.Hour): 2.0} // the greater, as it is a tie
			if d := cmp.Diff(want, o.read(i, id, "m,host=a", "f", digest.Float)); d != "" {
				t.Errorf("shard %d, owner %d:\n%s", id, i+1, d)
			}
		}
	}
}

// Files of an owner that turn out to be damaged are not taken: the points are, as far as they are sound.
func TestDamagedFilesAreNotCopied(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 3, 1)
	o.rising(1, 3000, 0, 1)
	want := o.root(0, 1)
	o.damage(1, 1, 100) // which is the source of shard 1
	if r := o.repair(1); r.State != entropy.Done {
		t.Errorf("%+v", r)
	}
	for i := range 3 {
		if got := o.root(i, 1); got != want {
			t.Errorf("owner %d has root %v, want %v", i+1, got, want)
		}
	}
}

// A fetch that breaks off leaves the shard missing, and the repair says of what.
func TestFillThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	o.rising(1, 3000, 0)
	blocked := filepath.Join(o.dirs[1], "incoming")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // where a folder is to be
		t.Fatal(err)
	}
	if err := o.service.Repair(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r := o.failed(1)
	if !strings.Contains(r.Error, "copy the files of shard 1 from") || o.stores[1].Shard(1) != nil {
		t.Errorf("%q; the shard is there: %v", r.Error, o.stores[1].Shard(1) != nil)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if r := o.repair(1); r.State != entropy.Done || r.Points != 0 || o.root(0, 1) != o.root(1, 1) {
		t.Errorf("%+v", r)
	}
}

// Files come from an owner whose copy is whole. Where no copy is, they come from one that is not, and the comparison
// brings the rest.
func TestFilesComeFromAWholeCopy(t *testing.T) {
	t.Parallel()
	for name, notWhole := range map[string][]int{"one is whole": {1}, "none is whole": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, 3, 1)
			o.rising(1, 3000, 0, 1)
			want := o.root(0, 1)
			var asked atomic.Int64
			for _, i := range notWhole { // the second owner is the first source of shard 1
				o.servers[i].NotWhole = func(context.Context, ...uint64) map[uint64]string {
					asked.Add(1)
					return map[uint64]string{1: "it waits for hints"}
				}
			}
			o.sent.of()
			r := o.repair(1)
			if r.State != entropy.Done || r.Points != 0 || o.sent.of("Files") < 3000 ||
				int(asked.Load()) != len(notWhole) {
				t.Errorf("asked %d times: %+v", asked.Load(), r)
			}
			for i := range 3 {
				if got := o.root(i, 1); got != want {
					t.Errorf("owner %d has root %v, want %v", i+1, got, want)
				}
			}
		})
	}
}
