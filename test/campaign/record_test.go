package campaign

import (
	"slices"
	"strings"
	"testing"

	"concord/test/history"
)

func TestRecordJudges(t *testing.T) {
	t.Parallel()
	k := key{"s", 5}
	const acknowledged, limbo, refused = history.Acknowledged, history.Limbo, history.Refused
	type op struct {
		kind string
		fate history.Fate
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
		{
			"written after the delete, lost",
			[]op{{"write", acknowledged}, {"delete", acknowledged}, {"write", acknowledged}}, -1, "LOST",
		},
		{
			"written after the delete, old one",
			[]op{{"write", acknowledged}, {"delete", acknowledged}, {"write", acknowledged}}, 0, "STALE",
		},
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
				r.endWrite(r.beginWrite(map[key]int64{k: values[i]}, "data1"), o.fate, "")
			} else {
				r.endDelete(r.beginDelete("s", 0, 9, "data1"), o.fate, "")
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
	begun := r.beginWrite(map[key]int64{a: v, b: r.issue(b)}, "data1")
	r.endWrite(begun, history.Acknowledged, "")
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
	r.endWrite(r.beginWrite(batch, "data1"), history.Acknowledged, "")
	r.endDelete(r.beginDelete("s", 1, 3, "data1"), history.Acknowledged, "")
	got := map[key]int64{}
	for _, i := range []int64{0, 4} {
		got[key{"s", i}] = batch[key{"s", i}]
	}
	if problems, n := r.compare("data1", got, 0, 10, 5); n != 0 {
		t.Error(problems)
	}
}

// Events are "a(" for a begin and ")a" for an acknowledgement, "?a" for limbo: a to c write a value, d deletes.
func TestRecordJudgesOperationsThatOverlap(t *testing.T) {
	t.Parallel()
	k := key{"s", 5}
	for _, tt := range []struct{ name, events, right, wrong string }{
		{"two writes overlap", "a( b( )a )b", "ab", "-"},
		{"one begins after the other ended", "a( )a b( )b", "b", "a-"},
		{"a later write ends the choice", "a( b( )b )a c( )c", "c", "ab-"},
		{"write and delete overlap", "a( )a d( b( )d )b", "b-", "a"},
		{"the first write of a point, during a delete that ends first", "d( a( )d )a", "a-", "bc"},
		{"the first write of a point, during a delete that ends last", "d( a( )a )d", "a-", "bc"},
		{"the first write of a point, after a delete", "d( )d a( )a", "a", "-"},
		{"the first write of a point, after a delete in limbo", "d( ?d a( )a", "a-", "bc"},
		{"a write in limbo stays possible", "a( )a b( ?b c( )c", "bc", "a-"},
		{"the chain of overlaps does not reach from end to end", "a( b( )a c( )b )c", "bc", "a-"},
	} {
		r := newRecord(1)
		values := map[byte]int64{'a': r.issue(k), 'b': r.issue(k), 'c': r.issue(k)}
		writes := map[byte]*writing{}
		var deleting *deletion
		for _, e := range strings.Fields(tt.events) {
			fate := map[byte]history.Fate{')': history.Acknowledged, '?': history.Limbo}[e[0]]
			switch {
			case e == "d(":
				deleting = r.beginDelete("s", 0, 9, "data1")
			case e[1] == '(':
				writes[e[0]] = r.beginWrite(map[key]int64{k: values[e[0]]}, "data1")
			case e[1] == 'd':
				r.endDelete(deleting, fate, "")
			default:
				r.endWrite(writes[e[1]], fate, "")
			}
		}
		for _, has := range []byte(tt.right + tt.wrong) {
			got := map[key]int64{}
			if has != '-' {
				got[k] = values[has]
			}
			want := slices.Contains([]byte(tt.right), has)
			if problems, n := r.compare("data1", got, 0, 10, 5); (n == 0) != want {
				t.Errorf("%s: %s: %c passes: %t: %q", tt.name, tt.events, has, !want, problems)
			}
		}
	}
}

func TestRecordFindsOwnersThatDiffer(t *testing.T) {
	t.Parallel()
	r := newRecord(1)
	k := key{"s", 1}
	v := r.issue(k)
	r.endWrite(r.beginWrite(map[key]int64{k: v}, "data1"), history.Limbo, "") // both are allowed, on all owners
	has, lacks := map[key]int64{k: v}, map[key]int64{}
	if problems, n := r.differences("data1", "data2", has, has, 5); n != 0 {
		t.Error(problems)
	}
	problems, n := r.differences("data1", "data2", has, lacks, 5)
	if n != 1 || !strings.Contains(problems[0], "DIFFERENT") {
		t.Errorf("%d: %q", n, problems)
	}
}
