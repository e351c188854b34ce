package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
)

// damage flips a bit in a block of each TSM file of an owner's shard.
func (o *owners) damage(owner int, id uint64, at int64) {
	o.t.Helper()
	paths := o.files(owner, id)
	if len(paths) == 0 {
		o.t.Fatal("there is no file to damage")
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			o.t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			o.t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, at); err != nil {
			o.t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			o.t.Fatal(err)
		}
	}
}

// status is what the first owner and the others know of a shard.
func (o *owners) status(id uint64) string {
	var out []string
	for _, c := range o.copies {
		m, err := c.States(context.Background(), []uint64{id})
		if err != nil {
			o.t.Fatal(err)
		}
		out = append(out, m[id].Corrupt)
	}
	return strings.Join(out, "|")
}

// Damage is healed from another owner: nothing that was acknowledged is lost, what the damaged owner alone has
// stays, an older value that the damage bares does not win, and what was deleted stays deleted.
func TestDamageIsHealed(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3} {
		for damaged := range 2 { // the driver, another owner
			t.Run(fmt.Sprintf("owner %d of %d", damaged+1, n), func(t *testing.T) {
				t.Parallel()
				o := newOwners(t, n, 1)
				for i := range n {
					o.create(i, 1)
					o.minutes(i, 1, 3000, func(int) float64 { return 1e9 }) // the older value is the greater
					if i == damaged {
						o.write(i, 1, o.point("m,host=z", "f", o.at(time.Hour), 7.0)) // this owner alone has it
					}
					o.snapshot(i, 1)
					o.minutes(i, 1, 3000, ordinal)
					o.snapshot(i, 1)
				}
				newest := o.files(damaged, 1)
				if len(newest) != 2 {
					t.Fatal(newest)
				}
				kept := filepath.Join(t.TempDir(), "kept")
				if err := os.Rename(newest[0], kept); err != nil { // the older one stays sound
					t.Fatal(err)
				}
				o.damage(damaged, 1, 100)
				if err := os.Rename(kept, newest[0]); err != nil {
					t.Fatal(err)
				}
				before, err := os.ReadFile(newest[1])
				if err != nil {
					t.Fatal(err)
				}
				found, err := o.copies[damaged].Scrub(t.Context(), 1)
				if err != nil || len(found) != 1 || !strings.Contains(o.status(1), `block of "m,host=a f"`) {
					t.Fatalf("found %v, %v, status %s", found, err, o.status(1))
				}
				if r := o.repair(1); r.State != entropy.Done || r.Points < 1000 {
					t.Fatalf("%+v", r)
				}
				for i := range n {
					got := o.read(i, 1, "m,host=a", "f", digest.Float)
					for j := range 3000 {
						if v := got[o.at(time.Duration(j)*time.Minute)]; v != float64(j) {
							t.Fatalf("owner %d has %v at %d", i+1, v, j)
						}
					}
					if got := o.read(i, 1, "m,host=z", "f", digest.Float); got[o.at(time.Hour)] != 7.0 {
						t.Errorf("owner %d has %v of what the damaged one alone had", i+1, got)
					}
				}
				if s := strings.Trim(o.status(1), "|"); s != "" {
					t.Errorf("still damaged: %s", s)
				}
				aside, err := filepath.Glob(filepath.Join(o.dirs[damaged], "aside", "*", filepath.Base(newest[1])))
				if err != nil || len(aside) != 1 {
					t.Fatalf("kept: %v, %v", aside, err)
				}
				if b, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(b, before) {
					t.Errorf("the damaged file is not kept as it was: %v", err)
				}
			})
		}
	}
}

// A read that meets damage says so, and does not take it for the truth.
func TestRepairMeetsDamage(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	o.rising(1, 1000, 0, 1)
	o.write(0, 1, o.point("m,host=b", "f", o.at(0), 1.0))
	o.damage(1, 1, 100)
	ctx := t.Context()
	if _, err := o.copies[1].Root(ctx, o.shard(1), 1<<63-1); err == nil ||
		!strings.Contains(err.Error(), "is damaged") {
		t.Errorf("the digest of damage: %v", err)
	}
	if !strings.Contains(o.status(1), "|000000001-000000001.tsm is damaged") {
		t.Errorf("status %q", o.status(1))
	}
	if r := o.repair(1); r.State != entropy.Done {
		t.Fatalf("%+v", r)
	}
	for i := range 2 {
		if got := o.read(i, 1, "m,host=a", "f", digest.Float); len(got) != 1000 || got[o.at(7*time.Minute)] != 7.0 {
			t.Errorf("owner %d has %d points", i+1, len(got))
		}
	}
}

// With no sound copy everything stays as it is.
func TestDamageWithoutASoundCopyIsLeft(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	var files [][]byte
	for i := range 2 {
		o.create(i, 1)
		o.write(i, 1, o.point("m,host=a", "f", o.at(0), 1.0), o.point("m,host=a", "f", o.at(time.Hour), 2.0))
		o.snapshot(i, 1)
		o.damage(i, 1, 20)
		if _, err := o.copies[i].Scrub(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(o.stores[i].Shard(1).Path(), "000000001-000000001.tsm"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	if err := o.service.Repair(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if r := o.failed(1); !strings.Contains(r.Error, "no owner that is reachable has an undamaged copy of shard 1") {
		t.Errorf("%+v", r)
	}
	for i := range 2 {
		b, err := os.ReadFile(filepath.Join(o.stores[i].Shard(1).Path(), "000000001-000000001.tsm"))
		if err != nil || !bytes.Equal(b, files[i]) {
			t.Errorf("owner %d was changed: %v", i+1, err)
		}
	}
	st, err := o.service.Status(t.Context())
	if err != nil || len(st.Shards) != 1 || st.Shards[0].Status != entropy.Corrupt ||
		!strings.Contains(st.Shards[0].Message, "is damaged") {
		t.Errorf("status %+v, %v", st, err)
	}
}

// The scrub finds damage that no read meets, and has it healed automatically.
func TestScrubFindsDamage(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	o.rising(1, 1000, 0, 1)
	want := o.root(1, 1)
	o.damage(0, 1, 100)
	cfg := o.config
	cfg.ScrubInterval = toml.Duration(time.Millisecond)
	o.service.SetConfig(cfg)
	if r := o.record(1, func(r entropy.RepairRecord) bool { return r.State == entropy.Done }); r.Points != 1000 {
		t.Errorf("%+v", r)
	}
	if got := o.root(0, 1); got != want {
		t.Error("the copy is not what it was")
	}
}

// A shard that the engine cannot open is corrupt, and not missing: the others are repaired without it, and its files
// stay as they are.
func TestUnopenedShardIsLeftAlone(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 3, 1)
	kept := filepath.Join(o.stores[1].Path(), "db1", "autogen", "1", "000000001-000000001.tsm")
	err := os.MkdirAll(filepath.Dir(kept), 0o755)
	if err == nil {
		err = os.WriteFile(kept, []byte("its files"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	// as the engine does when it opens
	o.stores[1].SetShardOpenErrorForTest(1, tsdb.NewShardError(1, errors.New("its index is broken")))
	o.rising(1, 1000, 0, 2)
	o.write(2, 1, o.point("m,host=b", "f", o.at(0), 1.0))
	cfg := o.config
	cfg.AutoRepairMissing, cfg.AutoRepairDiff = true, true
	o.service.SetConfig(cfg)
	if err := o.service.CheckNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := o.service.Status(t.Context())
	if err != nil || len(st.Shards) != 1 || st.Shards[0].Status != entropy.Diff {
		t.Errorf("status %+v, %v", st, err)
	}
	r := o.failed(1)
	if !strings.Contains(r.Error, "cannot take part: the engine could not open the shard: ") ||
		!strings.Contains(r.Error, "its index is broken") {
		t.Errorf("%+v", r)
	}
	if o.root(0, 1) != o.root(2, 1) {
		t.Error("the other owners were not repaired")
	}
	d, err := o.service.Diff(t.Context(), 1)
	if err != nil || len(d.Owners) != 2 || !strings.Contains(d.Away, "its index is broken") {
		t.Errorf("diff: %+v, %v", d, err)
	}
	damaged, err := o.copies[1].Damaged()
	if err != nil || damaged[1] != "the engine could not open the shard: its index is broken" {
		t.Errorf("damaged: %v, %v", damaged, err)
	}
	if err := o.copies[1].SetAside(t.Context(), 1); err != nil {
		t.Error(err) // nothing was noted
	}
	if _, err := o.copies[1].Scrub(t.Context(), 1); err == nil {
		t.Error("a shard that is not open passes as verified")
	}
	files, err := os.ReadDir(filepath.Dir(kept))
	if b, rerr := os.ReadFile(kept); err != nil || rerr != nil || string(b) != "its files" || len(files) != 1 {
		t.Errorf("%v, %v, %v, %q", err, rerr, files, b)
	}
}

// A dry run leaves damaged copies out, and says so; with fewer than two sound ones there is nothing to compare.
func TestDiffLeavesDamagedCopiesOut(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 3, 1)
	o.rising(1, 1000, 0, 1, 2)
	o.write(2, 1, o.point("m,host=b", "f", o.at(0), 1.0))
	verify := func(i int) {
		t.Helper()
		o.damage(i, 1, 100)
		if _, err := o.copies[i].Scrub(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	verify(1)
	d, err := o.service.Diff(t.Context(), 1)
	if err != nil || len(d.Owners) != 2 || len(d.Pairs) != 1 || d.Pairs[0].LackingA != 1 ||
		!strings.Contains(d.Away, "the copy on "+o.State().DataNodes[1].TCPAddr+" is damaged: 000000001-000000001.tsm") {
		t.Errorf("%+v, %v", d, err)
	}
	verify(0)
	if d, err := o.service.Diff(t.Context(), 1); err == nil ||
		!strings.Contains(err.Error(), "shard 1 has no two sound copies to compare: ") {
		t.Errorf("%+v, %v", d, err)
	}
}
