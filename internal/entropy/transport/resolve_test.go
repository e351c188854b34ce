package transport

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/retype"
)

// asideOf are the lines that owners set aside, sorted.
func (o *owners) asideOf(owners ...int) (out []string) {
	o.t.Helper()
	for _, i := range owners {
		paths, err := filepath.Glob(filepath.Join(o.dirs[i], "aside", "*", retype.FileName))
		if err != nil {
			o.t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				o.t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				if !strings.HasPrefix(line, "#") {
					out = append(out, strings.TrimSpace(line))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// A type that an operator chooses holds on all owners. The values of the other types are set aside, and the owners
// agree in all the rest.
func TestTypeConflictIsResolved(t *testing.T) {
	t.Parallel()
	for typ, want := range map[digest.Type]struct {
		points int
		aside  []string // without their times
	}{
		digest.Float:   {2, []string{"m,host=a v=1i", "m,host=b v=2i"}},
		digest.Integer: {2, []string{"m,host=a v=1.5", "m,host=c v=2.5"}},
	} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, 3, 1)
			for i := range 3 {
				o.create(i, 1)
				o.write(i, 1, o.point("m,host=a", "w", o.at(time.Duration(i)*time.Minute), 1.0))
			}
			o.write(0, 1, o.point("m,host=a", "v", o.at(0), 1.5))
			o.write(2, 1, o.point("m,host=c", "v", o.at(time.Hour), 2.5))
			o.write(1, 1, o.point("m,host=a", "v", o.at(0), int64(1)),
				o.point("m,host=b", "v", o.at(time.Minute), int64(2)))
			o.snapshot(1, 1)
			if r := o.repair(1); r.State != entropy.Refused {
				t.Fatalf("%+v", r)
			}
			field := retype.Field{Measurement: "m", Name: "v", Type: typ}
			for again := range 2 {
				all, err := o.service.Resolve(t.Context(), 1, field)
				if err != nil {
					t.Fatal(err)
				}
				for i, r := range all {
					if r.Node != o.State().DataNodes[i].TCPAddr || (r.Path == "") != (r.Points == 0) ||
						again > 0 && r.Points > 0 {
						t.Errorf("%d: %+v", again, r)
					}
				}
				o.record(1, func(r entropy.RepairRecord) bool {
					return r.State == entropy.Done && r.Ended.After(time.Now().Add(-time.Minute))
				})
			}
			points := 0
			for i := range 3 {
				if o.root(i, 1) != o.root(0, 1) {
					t.Errorf("owner %d differs", i+1)
				}
				points = 0
				for _, series := range []string{"m,host=a", "m,host=b", "m,host=c"} {
					points += len(o.read(i, 1, series, "v", typ))
				}
				if points != want.points {
					t.Errorf("owner %d has %d points of the type, want %d", i+1, points, want.points)
				}
				if got := o.read(i, 1, "m,host=a", "w", digest.Float); len(got) != 3 {
					t.Errorf("owner %d has %d points of the other field", i+1, len(got))
				}
			}
			var got []string
			for _, line := range o.asideOf(0, 1, 2) {
				got = append(got, line[:strings.LastIndexByte(line, ' ')])
			}
			if got = slices.Compact(got); !slices.Equal(got, want.aside) {
				t.Errorf("set aside %q, want %q", got, want.aside)
			}
			if err := o.service.CheckNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, err := o.service.Status(t.Context()); err != nil || len(st.Shards) > 0 {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

// neverEnding is a delete that is under way.
type neverEnding struct{ entropytest.NoDeletes }

func (neverEnding) AwaitDeletes(context.Context, uint64) bool { return false }

// A dry run reads what a delete is about to remove, perhaps on one owner only.
func TestDryRunSaysThatADeleteIsUnderWay(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	for i := range 2 {
		o.create(i, 1)
		o.write(i, 1, o.point("m,host=a", "v", o.at(0), float64(i)))
	}
	usual := o.copies[1].Deletes
	o.copies[1].Deletes = neverEnding{}
	if _, err := o.service.Diff(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "a delete is under way") {
		t.Errorf("while a delete is under way: %v", err)
	}
	o.copies[1].Deletes = usual
	if d, err := o.service.Diff(t.Context(), 1); err != nil || d.Count != 1 {
		t.Errorf("after it: %+v, %v", d, err)
	}
}

// busyDeletes lets nobody hold deletes back, so many times.
type busyDeletes struct{ times int }

func (d *busyDeletes) DeletesSeen(uint64) uint64                 { return 1 }
func (d *busyDeletes) AwaitDeletes(context.Context, uint64) bool { return true }
func (d *busyDeletes) HoldDeletes(uint64, uint64) (func(), bool) {
	d.times--
	return func() {}, d.times < 0
}

// What an owner did stays when another one fails, and the next run finishes.
func TestResolvingGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 3, 1)
	for i, v := range []any{int64(1), 1.5, int64(1)} {
		o.create(i, 1)
		o.write(i, 1, o.point("m,host=a", "v", o.at(0), v))
	}
	o.copies[2].Deletes = &busyDeletes{times: 1}
	f := retype.Field{Measurement: "m", Name: "v", Type: digest.Float}
	if _, err := o.service.Resolve(t.Context(), 1, f); err == nil ||
		!strings.Contains(err.Error(), "points were deleted or written meanwhile: resolve it again") {
		t.Fatal(err)
	}
	if len(o.asideOf(0)) != 1 || len(o.asideOf(2)) != 0 {
		t.Errorf("set aside: %q and %q", o.asideOf(0), o.asideOf(2))
	}
	if _, err := o.service.Resolve(t.Context(), 1, f); err != nil {
		t.Fatal(err)
	}
	o.record(1, func(r entropy.RepairRecord) bool { return r.State == entropy.Done })
	if len(o.asideOf(0)) != 1 || len(o.asideOf(2)) != 1 || len(o.asideOf(1)) != 0 {
		t.Errorf("set aside: %q, %q and %q", o.asideOf(0), o.asideOf(1), o.asideOf(2))
	}
	for i := range 3 {
		if got := o.read(i, 1, "m,host=a", "v", digest.Float); len(got) != 1 || o.root(i, 1) != o.root(0, 1) {
			t.Errorf("owner %d has %v", i+1, got)
		}
	}
}

func TestTypeConflictIsNotResolvedWithout(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	o.create(0, 1)
	o.create(1, 1)
	o.write(0, 1, o.point("m,host=a", "v", o.at(0), 1.5))
	o.write(1, 1, o.point("m,host=a", "v", o.at(0), int64(1)))
	before := []digest.Sum{o.root(0, 1), o.root(1, 1)}
	first, second := o.State().DataNodes[0].TCPAddr, o.State().DataNodes[1].TCPAddr
	for _, tt := range []struct {
		shard        uint64
		f            retype.Field
		want         string
		unresolvable bool
	}{
		{9, retype.Field{Measurement: "m", Name: "v", Type: digest.Float}, "shard 9: unknown shard", false},
		{1, retype.Field{Measurement: "n", Name: "v", Type: digest.Float}, `shard 1 has no measurement "n"`, true},
		{
			1, retype.Field{Measurement: "m", Name: "x", Type: digest.Float},
			`measurement "m" has no field "x" in shard 1`,
			true,
		},
		{
			1, retype.Field{Measurement: "m", Name: "v", Type: digest.String},
			`no owner of shard 1 has field "v" of "m" as string: it is float on ` + first + ", integer on " + second,
			true,
		},
	} {
		_, err := o.service.Resolve(t.Context(), tt.shard, tt.f)
		if err == nil || !strings.Contains(err.Error(), tt.want) ||
			errors.As(err, &entropy.UnresolvableError{}) != tt.unresolvable {
			t.Errorf("%+v: %v, want %s", tt.f, err, tt.want)
		}
	}
	st := *o.State()
	st.DataNodes = slices.Clone(st.DataNodes)
	st.DataNodes[1].TCPAddr = "127.0.0.1:1"
	o.state.Store(&st)
	_, err := o.service.Resolve(t.Context(), 1, retype.Field{Measurement: "m", Name: "v", Type: digest.Float})
	if err == nil || !strings.Contains(err.Error(), "owner 127.0.0.1:1 of shard 1 is away, and all owners have to "+
		"take part") {
		t.Error(err)
	}
	for i, b := range before {
		if o.root(i, 1) != b || len(o.asideOf(i)) > 0 {
			t.Errorf("owner %d was changed", i+1)
		}
	}
}

func TestResolveRoundTrips(t *testing.T) {
	c := &canned{}
	_, ctl, _, _ := mustServe(t, c, c)
	f := retype.Field{Measurement: "m \xff", Name: "f", Type: digest.Boolean}
	got, err := ctl.Resolve(t.Context(), 7, f)
	want, _ := c.Resolve(t.Context(), 7, f)
	if err != nil || c.resolved != f || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, asked for %+v", got, err, c.resolved)
	}
	c.err = entropy.UnresolvableError{Reason: "there is none"}
	if _, err := ctl.Resolve(t.Context(), 7, f); !errors.As(err, &entropy.UnresolvableError{}) ||
		err.Error() != "there is none" {
		t.Error(err)
	}
	for _, f := range []retype.Field{
		{Name: "f", Type: 1},
		{Measurement: "m", Type: 1},
		{Measurement: "m", Name: "f"},
		{Measurement: "m", Name: "f", Type: 6},
		{Measurement: strings.Repeat("m", maxKey), Name: "f", Type: 1},
	} {
		if _, err := ctl.Resolve(t.Context(), 7, f); err == nil || !strings.Contains(err.Error(), "InvalidArgument") {
			t.Errorf("%v: %v", f.Type, err)
		}
	}
}
