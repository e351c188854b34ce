package patch_test

import (
	"fmt"
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"pgregory.net/rapid"

	"concord/internal/entropy/patch"
)

// TestNewestValueWins writes one point several times, each time to some owners, each of which keeps the last. An owner
// knows the versions of what it got lately. The value of a write is its version.
func TestNewestValueWins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const writes = 6
		n := rapid.IntRange(2, 5).Draw(t, "owners")
		owners := make([]tsm1.Values, n)
		v := &patch.Versions{
			Known: make([]map[int64]uint64, n), Since: make([]uint64, n),
			Written: make([]map[int64]uint64, n), Forgot: make([]uint64, n),
		}
		for i := range v.Forgot {
			v.Forgot[i] = patch.Uncertain
		}
		newest, latest := uint64(0), uint64(0) // of what owners have, and of what they may have forgotten
		known := false                         // an owner knows the version of the newest
		unsettled := false                     // an owner does not know what it will have
		for i := range owners {
			got := rapid.SliceOfN(rapid.Bool(), writes, writes).Draw(t, "got")
			v.Since[i] = rapid.Uint64Range(0, writes).Draw(t, "since")
			last := uint64(0)
			for w, here := range got {
				if here {
					last = uint64(w + 1)
				}
			}
			if last == 0 {
				continue
			}
			owners[i] = tsm1.Values{tsm1.NewValue(7, int64(last))}
			knows := last > v.Since[i]
			if knows || rapid.Bool().Draw(t, "a write failed since") {
				v.Written[i] = map[int64]uint64{7: last}
			}
			if rapid.Bool().Draw(t, "is being written") {
				unsettled = true
				v.Known[i] = map[int64]uint64{7: patch.Uncertain}
			} else if knows {
				v.Known[i] = map[int64]uint64{7: last}
			} else {
				latest = max(latest, v.Since[i])
			}
			if last > newest {
				newest, known = last, false
			}
			known = known || knows && last == newest
		}
		m, err := patch.Join([]byte("m"), "f", owners, patch.Rules{}).Merge(v)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Decided) == 0 {
			return
		}
		chosen := m.Decided[0]
		if chosen.Why == patch.WhyNewer && chosen.Value != fmt.Sprint(newest) {
			t.Errorf("%s is taken for the newest, which is %d", chosen.Value, newest)
		}
		if unsettled && chosen.Why == patch.WhyNewer {
			t.Error("a point that is being written decides")
		}
		if known && !unsettled && newest > latest && chosen.Why != patch.WhyNewer {
			t.Errorf("%d is known to be the newest, and %s was chosen: %s", newest, chosen.Value, chosen.Why)
		}
		for i, blocks := range m.Lacking {
			want := newest
			if chosen.Why != patch.WhyNewer {
				want = v.Written[i][7]
			}
			if len(blocks) == 0 || want == 0 {
				continue
			}
			if b := blocks[0]; len(b.Versions) != 1 || b.Versions[0] != want {
				t.Errorf("owner %d gets the point with versions %v, not %d", i, b.Versions, want)
			} else if b.Assumed != (chosen.Why != patch.WhyNewer) {
				t.Errorf("owner %d gets the point with a version that is assumed: %v; why: %s", i, b.Assumed, chosen.Why)
			}
		}
	})
}
