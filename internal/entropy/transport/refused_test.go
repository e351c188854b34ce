package transport

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
)

const twoTypes = `measurement "m" field "v" is float on $1, integer on $2: ` +
	"choose a type with influxd-ctl entropy resolve"

// refused is what an owner refuses in a repair.
type refused struct {
	name    string
	prepare func(o *owners)
	message string // $1 and $2 are the owners
	refusal []entropy.Refusal
	cure    func(o *owners)
}

var allRefused = []refused{
	{
		name: "a field of another type in the same series",
		prepare: func(o *owners) {
			o.write(0, 1, o.point("m,host=x", "v", o.at(0), 1.5))
			o.write(1, 1, o.point("m,host=x", "v", o.at(0), int64(1)))
		},
		message: twoTypes,
		refusal: []entropy.Refusal{
			{Node: "$2", Series: "m,host=x", Field: "v", Reason: "the field is integer there, and not float"},
			{Node: "$1", Series: "m,host=x", Field: "v", Reason: "the field is float there, and not integer"},
		},
	},
	{
		name: "a field of another type in different series",
		prepare: func(o *owners) {
			o.write(0, 1, o.point("m,host=x", "v", o.at(0), 1.5))
			o.write(1, 1, o.point("m,host=y", "v", o.at(0), int64(1)))
		},
		message: twoTypes,
		refusal: []entropy.Refusal{
			{Node: "$2", Series: "m,host=x", Field: "v", Reason: "the field is integer there, and not float"},
			{Node: "$1", Series: "m,host=y", Field: "v", Reason: "the field is float there, and not integer"},
		},
	},
	{
		name: "a field that an owner knows without points",
		prepare: func(o *owners) {
			o.write(0, 1, o.point("m,host=x", "v", o.at(0), 1.5))
			mf := o.stores[1].Shard(1).MeasurementFields([]byte("m"))
			// as a point leaves it that is refused for another field
			if _, _, err := mf.CreateFieldIfNotExists("v", 2); err != nil {
				o.t.Fatal(err)
			}
		},
		message: twoTypes,
		refusal: []entropy.Refusal{
			{Node: "$2", Series: "m,host=x", Field: "v", Reason: "the field is integer there, and not float"},
		},
	},
	{
		name: "too many values of a tag",
		prepare: func(o *owners) {
			for i, values := range []string{"abc", "ab"} {
				for _, k := range values {
					o.write(i, 1, o.point("t,k="+string(k), "v", o.at(0), 1.0))
				}
			}
		},
		message: `$2 refuses points of "t,k=c" field "v": ` +
			`max-values-per-tag limit exceeded (2/2): measurement="t" tag="k" value="c"`,
		refusal: []entropy.Refusal{{
			Node: "$2", Series: "t,k=c", Field: "v",
			Reason: `max-values-per-tag limit exceeded (2/2): measurement="t" tag="k" value="c"`,
		}},
		cure: func(o *owners) {
			o.reopen(1, func() { o.stores[1].EngineOptions.Config.MaxValuesPerTag = 0 })
		},
	},
	{
		name: "a field called time",
		prepare: func(o *owners) {
			// The engine refuses and stores it, and shows it when it opens the shard anew.
			tags := models.NewTags(map[string]string{"host": "x"})
			p, err := models.NewPoint("m", tags, models.Fields{"time": 1.0, "v": 1.0}, time.Unix(0, o.at(0)))
			if err != nil {
				o.t.Fatal(err)
			}
			o.write(0, 1, o.point("m,host=x", "v", o.at(0), 1.0))
			if err := o.stores[1].WriteToShard(tsdb.WriteContext{}, 1, []models.Point{p}); err == nil ||
				!strings.Contains(err.Error(), "has been stripped") {
				o.t.Fatal(err)
			}
			o.snapshot(1, 1)
			o.reopen(1, func() {})
		},
		message: `$1 refuses points of "m,host=x" field "time": ` +
			`invalid field name: input field "time" on measurement "m" is invalid`,
		refusal: []entropy.Refusal{{
			Node: "$1", Series: "m,host=x", Field: "time",
			Reason: `invalid field name: input field "time" on measurement "m" is invalid`,
		}},
	},
}

// What an owner refuses keeps nothing else from being repaired. It is listed with its reason, and the checks that
// follow say the same and queue nothing.
func TestRefusedPointsKeepNothingElseFromBeingRepaired(t *testing.T) {
	t.Parallel()
	for _, r := range allRefused {
		for path, filePoints := range map[string]int{"files": 100, "the write path": 1 << 30} {
			t.Run(r.name+", through "+path, func(t *testing.T) { r.test(t, filePoints) })
		}
	}
}

func (r refused) test(t *testing.T, filePoints int) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	name := strings.NewReplacer("$1", o.State().DataNodes[0].TCPAddr, "$2", o.State().DataNodes[1].TCPAddr).Replace
	o.copies[0].FilePoints, o.copies[1].FilePoints = filePoints, filePoints
	o.stores[1].EngineOptions.Config.MaxValuesPerTag = 2
	o.create(0, 1)
	o.create(1, 1)
	o.write(1, 1, o.point("g,host=b", "f", o.at(time.Minute), 1.0))
	r.prepare(o)
	var good []models.Point
	for j := range 3000 {
		good = append(good, o.point("m,host=x", "f", o.at(time.Duration(j)*time.Minute), float64(j)))
	}
	o.write(0, 1, good...)

	rec := o.repair(1)
	if rec.State != entropy.Refused || rec.Error != name(r.message) || rec.Points != 3001 {
		t.Errorf("%+v", rec)
	}
	want := slices.Clone(r.refusal)
	for i := range want {
		want[i].Node, want[i].Reason = name(want[i].Node), name(want[i].Reason)
	}
	if !slices.Equal(rec.Refusals, want) || rec.Refused != len(want) {
		t.Errorf("%d refused: %+v, want %+v", rec.Refused, rec.Refusals, want)
	}
	for i := range 2 {
		if got := o.read(i, 1, "m,host=x", "f", digest.Float); len(got) != 3000 {
			t.Errorf("owner %d has %d of 3000 points", i+1, len(got))
		}
		if got := o.read(i, 1, "g,host=b", "f", digest.Float); len(got) != 1 {
			t.Errorf("owner %d lacks what owner 2 had", i+1)
		}
	}
	cfg := o.config
	cfg.AutoRepairMissing, cfg.AutoRepairDiff = true, true
	o.service.SetConfig(cfg)
	status := entropy.ShardStatus{ID: 1, Status: entropy.Conflict, Message: name(r.message)}
	for range 3 {
		if err := o.service.CheckNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := o.service.Status(t.Context())
		if err != nil || len(st.Shards) != 1 || st.Shards[0] != status || len(st.Queued) > 0 {
			t.Errorf("%+v, %v, want %+v and nothing in the queue", st, err, status)
		}
	}
	if r.cure == nil {
		return
	}
	r.cure(o)
	if err := o.service.Repair(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	o.record(1, func(r entropy.RepairRecord) bool { return r.State == entropy.Done })
	if o.root(0, 1) != o.root(1, 1) {
		t.Error("the owners differ")
	}
}

// Of three owners, those that have a field in the same type agree in it, and the others in all the rest.
func TestOwnersAgreeInAllThatTheyCan(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 4, 1)
	for i, v := range []any{1.5, int64(1), 2.5, nil} {
		o.create(i, 1)
		o.write(i, 1, o.point("m,host=a", "w", o.at(time.Duration(i)*time.Minute), 1.0))
		if v != nil {
			o.write(i, 1, o.point("m,host=a", "v", o.at(time.Duration(i)*time.Hour), v))
		}
	}
	if r := o.repair(1); r.State != entropy.Refused {
		t.Errorf("%+v", r)
	}
	floats := fmt.Sprint(map[int64]any{o.at(0): 1.5, o.at(2 * time.Hour): 2.5})
	integers := fmt.Sprint(map[int64]any{o.at(time.Hour): 1})
	for i, want := range []string{floats, integers, floats, floats} {
		if got := o.read(i, 1, "m,host=a", "w", digest.Float); len(got) != 4 {
			t.Errorf("owner %d: %v", i+1, got)
		}
		typ := digest.Float
		if i == 1 {
			typ = digest.Integer
		}
		if got := fmt.Sprint(o.read(i, 1, "m,host=a", "v", typ)); got != want {
			t.Errorf("owner %d has %s, want %s", i+1, got, want)
		}
	}
}

// reopen closes an owner's shard and opens it again.
func (o *owners) reopen(owner int, between func()) {
	o.t.Helper()
	if err := o.stores[owner].Close(); err != nil {
		o.t.Fatal(err)
	}
	between()
	if err := o.stores[owner].Open(); err != nil {
		o.t.Fatal(err)
	}
}
