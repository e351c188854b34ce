package reads

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// figures count what a campaign saw.
type figures struct {
	mu sync.Mutex

	answers   [2]kinds2 // [1]: those that must be good
	warnings  map[string]int
	excused   map[verdict]int
	own       int // points that the asked node itself had acknowledged
	forms     [forms]int
	noAnswer  map[string]int
	failures  map[string]int // of writes and deletes
	violating int            // answers
	lacking   int            // points
	lastGood  time.Time
	longest   time.Duration // between good answers
	longestAt time.Time
	faults    [kinds]int
	skipped   map[string]int
}

// kinds2 are answers by what they are.
type kinds2 struct{ good, warned, failed, none int }

func newFigures() *figures {
	return &figures{
		warnings: make(map[string]int), excused: make(map[verdict]int), noAnswer: make(map[string]int),
		failures: make(map[string]int), skipped: make(map[string]int),
	}
}

// begin says that answers are to come from now on.
func (f *figures) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastGood = time.Now()
}

func (f *figures) failed(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[sortOf(why)]++
}

// answered counts one answer. counts tells whether it must be a good one; err is that of one that did not come.
func (f *figures) answered(q asked, s said, counts bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := &f.answers[0]
	when := "while an owner of each shard was well"
	if counts {
		k = &f.answers[1]
	} else {
		when = "at other times"
	}
	switch {
	case err != nil:
		k.none++
		f.noAnswer[when+": "+sortOf(err.Error())]++
	case s.err != "":
		k.failed++
		f.warnings[when+": error: "+sortOf(s.err)]++
	case len(s.warnings) > 0:
		k.warned++
		for _, w := range s.warnings {
			f.warnings[when+": warning: "+sortOf(w)]++
		}
	default:
		k.good++
		f.forms[q.form]++
		if gap := q.got.Sub(f.lastGood); gap > f.longest {
			f.longest, f.longestAt = gap, q.got
		}
		if q.got.After(f.lastGood) {
			f.lastGood = q.got
		}
	}
}

// judged counts what was found of a good answer.
func (f *figures) judged(findings []finding, excused map[verdict]int, own int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own += own
	for v, n := range excused {
		f.excused[v] += n
	}
	if len(findings) > 0 {
		f.violating++
	}
	for _, x := range findings {
		if x.what == "LACKING" {
			f.lacking += x.count
		}
	}
}

func (f *figures) fault(k kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[k]++
}

func (f *figures) skip(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skipped[why]++
}

// ratio is how many of how many answers that must be good carried a warning or an error.
func (f *figures) ratio() (bad, all int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.answers[1]
	return k.warned + k.failed, k.good + k.warned + k.failed
}

// summary tells all figures, a line each.
func (f *figures) summary() string {
	bad, all := f.ratio()
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	var parts []string
	for k, n := range f.faults {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", n, kind(k)))
		}
	}
	fmt.Fprintf(&b, "faults: %s\n", strings.Join(parts, ", "))
	for i, title := range []string{"answers at other times", "answers while an owner of each shard was well"} {
		k := f.answers[i]
		fmt.Fprintf(&b, "%s: %d good, %d with a warning, %d errors; %d questions without an answer\n",
			title, k.good, k.warned, k.failed, k.none)
	}
	if all > 0 {
		fmt.Fprintf(&b, "warnings and errors while an owner of each shard was well: %d of %d, 1 in %s\n",
			bad, all, oneIn(bad, all))
	}
	parts = parts[:0]
	for i, n := range f.forms {
		parts = append(parts, fmt.Sprintf("%d %v", n, form(i)))
	}
	fmt.Fprintf(&b, "good answers by form: %s\n", strings.Join(parts, ", "))
	fmt.Fprintf(&b, "answers that lacked something without a warning, or had too much: %d, with %d points lacking\n",
		f.violating, f.lacking)
	fmt.Fprintf(&b, "points that the asked node itself had acknowledged, and that its answers had to have: %d\n", f.own)
	for v, n := range f.excused {
		what := "lacked, and excused"
		if v == deleteNew {
			what = "back, and excused"
		}
		fmt.Fprintf(&b, "points %s, as %v: %d\n", what, v, n)
	}
	fmt.Fprintf(&b, "longest time without a good answer: %v", f.longest.Round(10*time.Millisecond))
	for _, group := range []struct {
		title string
		of    map[string]int
	}{
		{"warnings and errors", f.warnings},
		{"questions without an answer", f.noAnswer},
		{"writes and deletes that failed", f.failures},
		{"skipped", f.skipped},
	} {
		if len(group.of) > 0 {
			fmt.Fprintf(&b, "\n%s:", group.title)
		}
		for _, line := range sorted(group.of) {
			fmt.Fprintf(&b, "\n    %s", line)
		}
	}
	return b.String()
}

func oneIn(bad, all int) string {
	if bad == 0 {
		return "more than all of them"
	}
	return fmt.Sprint(all / bad)
}

// sorted are texts with how often each came, the most frequent first, twelve at most.
func sorted(of map[string]int) (out []string) {
	type counted struct {
		text string
		n    int
	}
	var all []counted
	for text, n := range of {
		all = append(all, counted{text, n})
	}
	slices.SortFunc(all, func(a, b counted) int {
		if a.n != b.n {
			return b.n - a.n
		}
		return strings.Compare(a.text, b.text)
	})
	for i, c := range all {
		if i == 12 {
			return append(out, fmt.Sprintf("and %d other sorts", len(all)-i))
		}
		out = append(out, fmt.Sprintf("%6d %s", c.n, c.text))
	}
	return out
}
