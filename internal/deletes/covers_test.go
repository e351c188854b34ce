package deletes

import (
	"slices"
	"strings"
	"testing"

	"concord/internal/enginetest"
	"concord/internal/rpc"
)

func TestCoveringIsWhatTheEngineDeletes(t *testing.T) {
	t.Parallel()
	lines := []string{
		"cpu v=1 1000", "cpu,host=a v=1 1000", "cpu,host=b,dc=x v=1 2000", "mem,host=a v=1 1000", "mem v=1 3000",
		`odd\ name,ta\ g=it\ is v=1 1500`,
	}
	for _, text := range []string{
		"DELETE FROM cpu", "DELETE FROM cpu WHERE host = 'a'", "DELETE FROM cpu WHERE host != 'a'", "DELETE WHERE host = ''",
		"DELETE WHERE host =~ /a|b/ AND dc = 'x'", "DELETE WHERE host !~ /a/ OR dc = 'x'",
		"DELETE FROM /c.*/ WHERE time > 1000", "DELETE WHERE time >= 1000 AND time < 2000",
		`DELETE FROM "odd name" WHERE "ta g" = 'it is'`, "DELETE FROM other.cpu",
		`DELETE FROM rp0./.*/ WHERE host = 'a' AND time = 1000`,
		"DELETE FROM cpu WHERE (host = 'a' OR host = 'b') AND time <= 1500",
	} {
		s := mustStore(t)
		if err := s.CreateShard(db, policy, shardID, true); err != nil {
			t.Fatal(err)
		}
		points := mustPoints(t, strings.Join(lines, "\n"))
		enginetest.WritePoints(t, s, shardID, points...)
		req := &rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: text}
		c, err := newCovering(req, policy)
		if err != nil {
			t.Fatal(err)
		}
		of := must(isAboutSeries(req))
		want := map[string]int{}
		for _, p := range mustPoints(t, strings.Join(lines, "\n")) {
			if !c.covers(p) {
				want[string(p.Name())]++
			} else if !of(string(p.Name()), p.Tags()) {
				t.Errorf("%s is not about the series %s", text, p.Key())
			}
		}
		for _, bounded := range []bool{false, true} {
			if bounded { // the same within the shard's bounds
				req.Bounds = &rpc.DeleteBounds{RetentionPolicy: policy, Start: 0, End: 1e18}
			}
			if err := execute(s, req, nothing); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"cpu", "mem", "odd name"} {
				if got := max(count(t, s, name), 0); got != want[name] {
					t.Errorf("%s, bounded %v: %s has %d points, want %d", text, bounded, name, got, want[name])
				}
			}
		}
	}
}

// Writes to other series do not look for their points beside a delete.
func TestSeriesThatADeleteIsAbout(t *testing.T) {
	t.Parallel()
	points := mustPoints(t, "cpu,host=a v=1 1\ncpu,host=b v=1 1\nmem,host=a v=1 1")
	for text, want := range map[string][]bool{
		"DELETE FROM cpu WHERE host = 'a' AND time < 0": {true, false, false},
		"DELETE FROM rp.cpu WHERE time < 0":             {true, true, false},
		"DELETE FROM rp./.*/ WHERE host = 'a'":          {true, false, true},
		"DELETE WHERE host != 'a'":                      {false, true, false},
	} {
		of := must(isAboutSeries(&rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: text}))
		for i, p := range points {
			if got := of(string(p.Name()), p.Tags()); got != want[i] {
				t.Errorf("%s is about %s: %v", text, p.Key(), got)
			}
		}
	}
}

// A delete that waits behind a write, in a queue from before writes had versions, takes nothing out of a newer one.
func TestDeleteTakesNothingOutOfANewerHint(t *testing.T) {
	t.Parallel()
	points := mustPoints(t, "cpu v=1 1\nmem v=1 1")
	for _, tt := range []struct{ write, delete, left uint64 }{{5, 6, 1}, {7, 6, 2}, {0, 6, 1}, {5, 0, 1}, {0, 0, 1}} {
		drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Name: "cpu", Version: tt.delete}
		c, err := newCovering(drop, policy)
		if err != nil {
			t.Fatal(err)
		}
		left := points
		if removed := (coverings{c}).removed(tt.write); removed != nil {
			left = slices.DeleteFunc(slices.Clone(points), removed)
		}
		if len(left) != int(tt.left) {
			t.Errorf("a write of version %d, a delete of version %d: %d points are left, want %d",
				tt.write, tt.delete, len(left), tt.left)
		}
	}
}
