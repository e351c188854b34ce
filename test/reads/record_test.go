package reads

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// scene is a record whose points and troubles a test places in time: seconds from some start.
type scene struct {
	*record
	start time.Time
}

func newScene() *scene {
	return &scene{newRecord(1, newTrouble(), 2*time.Second), time.Now().Add(-time.Hour)}
}

func (s *scene) at(seconds float64) time.Time {
	return s.start.Add(time.Duration(seconds * float64(time.Second)))
}

// write records one point through a node.
func (s *scene) write(f fate, level, node string, seconds float64) *point {
	p := s.issue(place{window{"two", 0}, "s"}, 0, 1, level, member{node, 0})[0]
	s.wrote([]*point{p}, f)
	p.at = s.at(seconds)
	return p
}

// apart cuts a from b, or from all, for a time.
func (s *scene) apart(a, b string, from, to float64) {
	s.trouble.apart = append(s.trouble.apart, &span{a: a, b: b, from: s.at(from), to: s.at(to)})
}

func (s *scene) question(node string, seconds float64) asked {
	return asked{
		window: window{"two", 0}, copies: 2, to: int64(time.Hour), node: member{node, 0}, sent: s.at(seconds),
		got: s.at(seconds + 0.1),
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		build func(*scene) *point
		node  string // that is asked after 10 s
		want  verdict
	}{
		{
			"acknowledged elsewhere, long ago", func(s *scene) *point { return s.write(acknowledged, "one", "a", 1) },
			"b", must,
		},
		{"acknowledged elsewhere, just now", func(s *scene) *point {
			return s.write(acknowledged, "all", "a", 9)
		}, "b", young},
		{"acknowledged by the asked node, just now", func(s *scene) *point {
			return s.write(acknowledged, "one", "b", 9.9)
		}, "b", mustOwn},
		{"acknowledged after the question", func(s *scene) *point {
			return s.write(acknowledged, "one", "b", 10.05)
		}, "b", free},
		{"in limbo", func(s *scene) *point { return s.write(limbo, "one", "a", 1) }, "b", free},
		{"cut off since", func(s *scene) *point {
			s.apart("b", "a", 2, 20)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", cutOff},
		{"cut off since, from another node", func(s *scene) *point {
			s.apart("a", "c", 2, 20)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", must},
		{"cut off, but for long enough in between", func(s *scene) *point {
			s.apart("a", "b", 1.5, 4)
			s.apart("a", "", 6.5, 20)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", must},
		{"cut off, and too short a time in between", func(s *scene) *point {
			s.apart("a", "b", 1.5, 5)
			s.apart("a", "", 6.5, 20)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", cutOff},
		{"two troubles of which the first ends later", func(s *scene) *point {
			s.apart("a", "", 2, 20)
			s.apart("b", "", 3, 5)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", cutOff},
		{"the asked node was down since", func(s *scene) *point {
			s.apart("b", "", 1.5, 9)
			return s.write(acknowledged, "one", "a", 1)
		}, "b", cutOff},
		{"own, though the node was down since", func(s *scene) *point {
			s.apart("b", "", 1.5, 9)
			return s.write(acknowledged, "one", "b", 1)
		}, "b", mustOwn},
		{"the disk was lost at once", func(s *scene) *point {
			s.trouble.lost["a"] = []time.Time{s.at(2)}
			return s.write(acknowledged, "one", "a", 1)
		}, "b", diskLost},
		{"the disk was lost at once, and all owners have it", func(s *scene) *point {
			s.trouble.lost["a"] = []time.Time{s.at(2)}
			return s.write(acknowledged, "all", "a", 1)
		}, "b", must},
		{"the disk was lost later", func(s *scene) *point {
			s.trouble.lost["a"] = []time.Time{s.at(5)}
			return s.write(acknowledged, "one", "a", 1)
		}, "b", must},
		{"the asked node acknowledged it with another disk", func(s *scene) *point {
			s.trouble.lost["b"] = []time.Time{s.at(2)}
			p := s.write(acknowledged, "one", "b", 1)
			p.through.disk = 0
			return p
		}, "b+", diskLost},
		{"deleted long ago", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			p.deleting, p.deleted, p.deleter = s.at(2), s.at(2.1), member{"c", 0}
			return p
		}, "b", gone},
		{"deleted just now", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			p.deleting, p.deleted, p.deleter = s.at(9), s.at(9.1), member{"c", 0}
			return p
		}, "b", deleteNew},
		{"deleted by who is cut off", func(s *scene) *point {
			s.apart("c", "b", 3, 20)
			p := s.write(acknowledged, "one", "a", 1)
			p.deleting, p.deleted, p.deleter = s.at(2), s.at(2.1), member{"c", 0}
			return p
		}, "b", deleteNew},
		{"delete in limbo", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			p.deleting = s.at(2)
			return p
		}, "b", free},
		{"delete sent while the answer was made", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			p.deleting = s.at(10.05)
			return p
		}, "b", free},
	} {
		s := newScene()
		p := tt.build(s)
		q := s.question(strings.TrimSuffix(tt.node, "+"), 10)
		if strings.HasSuffix(tt.node, "+") {
			q.node.disk = 1
		}
		if got := s.verdict(p, q, make(map[member]heard)); got != tt.want {
			t.Errorf("%s: %v (%d), want %v (%d)", tt.name, got, got, tt.want, tt.want)
		}
	}
}

func TestAnswersAreJudged(t *testing.T) {
	t.Parallel()
	s := newScene()
	old, mine := s.write(acknowledged, "one", "a", 1), s.write(acknowledged, "one", "b", 9.9)
	fresh, lost := s.write(acknowledged, "one", "a", 9), s.write(limbo, "one", "a", 1)
	removed := s.write(acknowledged, "one", "a", 1)
	removed.deleting, removed.deleted, removed.deleter = s.at(2), s.at(2.1), member{"c", 0}
	no := s.write(refused, "one", "a", 1)
	for _, tt := range []struct {
		name   string
		points []*point
		want   string // of what, "" for well
		young  int    // excused
	}{
		{"all that must be", []*point{old, mine}, "", 1},
		{"all that may be", []*point{old, mine, fresh, lost}, "", 0},
		{"old point is missing", []*point{mine, fresh, lost}, "LACKING", 0},
		{"own point is missing", []*point{old}, "LACKING", 1},
		{"nothing", nil, "LACKING", 1},
		{"deleted point", []*point{old, mine, fresh, lost, removed}, "BACK", 0},
		{"refused point", []*point{old, mine, fresh, lost, no}, "INVENTED", 0},
	} {
		for f := range forms {
			q := s.question("b", 10)
			q.form = f
			q.text()
			a := answer{points: make(map[cell]int64), cells: make(map[cell]tally)}
			for _, p := range tt.points {
				a.points[cell{p.series, p.time}] = p.value
				sum := a.cells[q.cell(p)]
				sum.add(p.value)
				a.cells[q.cell(p)] = sum
			}
			want := tt.want
			if f != raw && want == "INVENTED" {
				want = "BACK" // a count does not tell the two apart
			}
			findings, excused, own := s.judge(q, a)
			what := ""
			if len(findings) > 0 {
				what = findings[0].what
			}
			counts := f == raw || len(tt.points) != 3 // a count of three says not which three
			if counts && what != want || len(findings) > 1 && f == raw && tt.points != nil {
				t.Errorf("%s, %v: %v, want %q", tt.name, f, findings, want)
			}
			if f == raw && excused[young] != tt.young {
				t.Errorf("%s: %v excused, want %d", tt.name, excused, tt.young)
			}
			if own != 1 {
				t.Errorf("%s, %v: %d own points", tt.name, f, own)
			}
		}
	}
	q := s.question("b", 10)
	for name, points := range map[string]map[cell]int64{
		"WRONG":    {{"s", old.time}: old.value + 1, {"s", mine.time}: mine.value},
		"INVENTED": {{"s", old.time}: old.value, {"s", mine.time}: mine.value, {"s", 7}: 7},
	} {
		if findings, _, _ := s.judge(q, answer{points: points}); len(findings) != 1 || findings[0].what != name {
			t.Errorf("%v: %v, want %s", points, findings, name)
		}
	}
}

func TestAnswersCountWhileAnOwnerOfEachShardIsWell(t *testing.T) {
	t.Parallel()
	s := newScene()
	touched := func(n string, from, to float64) {
		s.trouble.touched = append(s.trouble.touched, &span{a: n, from: s.at(from), to: s.at(to)})
	}
	touched("a", 5, 20)
	s.apart("a", "", 5, 10)
	touched("b", 15, 30)
	for _, tt := range []struct {
		node     string
		copies   int
		from, to float64
		want     bool
	}{
		{"a", 2, 1, 2, true},
		{"a", 2, 4.9, 5.1, false},  // cut off before the answer
		{"a", 3, 10.5, 11, false},  // only just back
		{"a", 2, 12.5, 13, true},   // it recovers, and may ask others
		{"b", 2, 6, 7, true},       // one owner is touched
		{"c", 2, 14, 15.5, false},  // two are
		{"c", 3, 14, 15.5, true},   // of three
		{"c", 2, 21, 21.5, false},  // a had only just recovered
		{"c", 2, 22.5, 23.5, true}, // again one
	} {
		if got := s.trouble.counts(tt.node, tt.copies, s.at(tt.from), s.at(tt.to), 2*time.Second); got != tt.want {
			t.Errorf("%s, %d copies, from %v to %v: %v", tt.node, tt.copies, tt.from, tt.to, got)
		}
	}
}

func TestLastAnswerEndsAnOrderOfEachPoint(t *testing.T) {
	t.Parallel()
	there, none := true, false
	for _, tt := range []struct {
		name  string
		build func(*scene) *point
		wrong []bool // whether the point is there, in answers that no order ends in
	}{
		{"written", func(s *scene) *point { return s.write(acknowledged, "one", "a", 1) }, []bool{none}},
		{"in limbo", func(s *scene) *point { return s.write(limbo, "one", "a", 1) }, nil},
		{"refused", func(s *scene) *point { return s.write(refused, "one", "a", 1) }, []bool{there}},
		{"deleted", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			s.deleted(s.deleting(p.place), acknowledged, member{"a", 0})
			p.deleting, p.deleted = s.at(2), s.at(2.1)
			return p
		}, []bool{there}},
		{"delete in limbo", func(s *scene) *point {
			p := s.write(acknowledged, "one", "a", 1)
			s.deleted(s.deleting(p.place), limbo, member{"a", 0})
			return p
		}, nil},
		{"gone with a disk", func(s *scene) *point {
			s.trouble.lost["a"] = []time.Time{s.at(2)}
			return s.write(acknowledged, "one", "a", 1)
		}, nil},
	} {
		for _, has := range []bool{there, none} {
			s := newScene()
			p := tt.build(s)
			a := answer{points: make(map[cell]int64)}
			if has {
				a.points[cell{p.series, p.time}] = p.value
			}
			want := slices.Contains(tt.wrong, has)
			if got := s.last(s.question("b", 10), a); (len(got) > 0) != want {
				t.Errorf("%s, there: %v: %v", tt.name, has, got)
			}
		}
	}
}
