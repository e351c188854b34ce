package campaign

import (
	"strings"
	"testing"
)

func TestRecordJudges(t *testing.T) {
	t.Parallel()
	k := key{"s", 5}
	type op struct {
		kind string
		fate fate
	}
	for _, tt := range []struct {
		name string
		ops  []op
		at   int // index of the write whose value is there, -1 for none
		want string
	}{
		{"acknowledged and there", []op{{"write", acknowledged}}, 0, ""},
		{"acknowledged and not there", []op{{"write", acknowledged}}, -1, "LOST"},
		{"older value", []op{{"write", acknowledged}, {"write", acknowledged}}, 0, "STALE"},
		{"last value", []op{{"write", acknowledged}, {"write", acknowledged}}, 1, ""},
		{"deleted point back", []op{{"write", acknowledged}, {"delete", acknowledged}}, 0, "BACK"},
		{"deleted", []op{{"write", acknowledged}, {"delete", acknowledged}}, -1, ""},
		{"written after the delete, lost", []op{{"write", acknowledged}, {"delete", acknowledged}, {"write", acknowledged}}, -1, "LOST"},
		{"written after the delete, old one", []op{{"write", acknowledged}, {"delete", acknowledged}, {"write", acknowledged}}, 0, "STALE"},
		{"limbo, there", []op{{"write", acknowledged}, {"write", limbo}}, 1, ""},
		{"limbo, not there", []op{{"write", acknowledged}, {"write", limbo}}, 0, ""},
		{"limbo, and both gone", []op{{"write", acknowledged}, {"write", limbo}}, -1, "LOST"},
		{"limbo after a delete", []op{{"write", limbo}, {"delete", acknowledged}}, 0, ""},
		{"delete in limbo, gone", []op{{"write", acknowledged}, {"delete", limbo}}, -1, ""},
		{"delete in limbo, there", []op{{"write", acknowledged}, {"delete", limbo}}, 0, ""},
		{"refused, and there", []op{{"write", refused}}, 0, "BACK"},
		{"refused delete, gone", []op{{"write", acknowledged}, {"delete", refused}}, -1, "LOST"},
	} {
		r := newRecord(1)
		values := make([]int64, len(tt.ops))
		for i, o := range tt.ops {
			if o.kind == "write" {
				values[i] = r.issue(k)
				r.wrote(map[key]int64{k: values[i]}, o.fate, "data1", "")
			} else {
				r.deleted("s", 0, 9, o.fate, "data1", "")
			}
		}
		got := map[key]int64{}
		if tt.at >= 0 {
			got[k] = values[tt.at]
		}
		problems, n := r.compare("data1", got, 0, 10, 5)
		all := strings.Join(problems, "\n")
		if (n > 0) != (tt.want != "") || !strings.Contains(all, tt.want) {
			t.Errorf("%s: %d problems %q, want %q", tt.name, n, all, tt.want)
		}
	}
}

func TestRecordFindsInventedPoints(t *testing.T) {
	t.Parallel()
	r := newRecord(1)
	a, b := key{"s", 1}, key{"s", 2}
	v := r.issue(a)
	r.wrote(map[key]int64{a: v, b: r.issue(b)}, acknowledged, "data1", "")
	for _, got := range []map[key]int64{{a: v, b: v}, {a: v, key{"t", 1}: 7}} {
		if problems, _ := r.compare("data1", got, 0, 10, 5); !strings.Contains(strings.Join(problems, " "), "INVENTED") {
			t.Errorf("%v: %q", got, problems)
		}
		if r.read(got) == nil {
			t.Errorf("a read of %v passes", got)
		}
	}
}

func TestDeletesCoverTheirRangeAlone(t *testing.T) {
	t.Parallel()
	r := newRecord(1)
	batch := map[key]int64{}
	for i := range int64(5) {
		batch[key{"s", i}] = r.issue(key{"s", i})
	}
	r.wrote(batch, acknowledged, "data1", "")
	r.deleted("s", 1, 3, acknowledged, "data1", "")
	got := map[key]int64{}
	for _, i := range []int64{0, 4} {
		got[key{"s", i}] = batch[key{"s", i}]
	}
	if problems, n := r.compare("data1", got, 0, 10, 5); n != 0 {
		t.Error(problems)
	}
}
