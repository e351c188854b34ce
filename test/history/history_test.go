package history

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A history is written as begins and ends: "a( b( )b )a" are two writes that overlap. "d(" begins a delete, every other
// letter a write of its own value. ")a" is acknowledged, "?a" ends in limbo, "!a" is refused.
func TestPointMayHoldTheLastOfAnOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, history, want string }{
		{"never written", "", "-"},
		{"one write", "a( )a", "a"},
		{"later write", "a( )a b( )b", "b"},
		{"three writes, one after the other", "a( )a b( )b c( )c", "c"},
		{"delete", "a( )a d( )d", "-"},
		{"write after a delete", "a( )a d( )d b( )b", "b"},
		{"overlap", "a( b( )a )b", "a b"},
		{"one within the other", "a( b( )b )a", "a b"},
		{"overlap of write and delete", "a( )a b( d( )b )d", "- b"},
		{"an overlapped write begins before the other ends, and a third after one of them", "a( b( )a c( )b )c", "b c"},
		{"chain of overlaps: the first ended before the last began", "a( b( )a c( )c )b", "b c"},
		{"after both", "a( b( )a )b c( )c", "c"},
		{"limbo", "a( )a b( ?b", "a b"},
		{"limbo before an acknowledged write", "a( ?a b( )b", "a b"},
		{"limbo long ago", "a( ?a b( )b d( )d c( )c", "a c"},
		{"limbo alone", "a( ?a", "- a"},
		{"delete in limbo", "a( )a d( ?d", "- a"},
		{"refused", "a( )a b( !b", "a"},
		{"refused alone", "a( !a", "-"},
		{"under way", "a( )a b(", "a b"},
	} {
		var (
			clock Clock
			p     Point
			ops   = map[byte]*Op{}
		)
		for _, e := range strings.Fields(tt.history) {
			if e[1] == '(' {
				o := clock.Begin()
				ops[e[0]] = o
				if e[0] == 'd' {
					p.Add(o, Outcome{})
				} else {
					p.Add(o, Value(int64(e[0])))
				}
				continue
			}
			clock.End(ops[e[1]], map[byte]Fate{')': Acknowledged, '?': Limbo, '!': Refused}[e[0]])
		}
		var got []string
		for _, o := range p.Allowed() {
			if !o.Present {
				got = append(got, "-")
				continue
			}
			v, _ := strconv.Atoi(o.String())
			got = append(got, string(rune(v)))
		}
		slices.Sort(got)
		if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s: %s\n%s", tt.name, tt.history, d)
		}
	}
}

// Against all orders of small random histories.
func FuzzPointAgreesWithAllOrders(f *testing.F) {
	f.Add([]byte{0, 1, 4, 2, 5, 8})
	f.Add([]byte{0, 3, 1, 6, 2, 4, 9, 7})
	f.Fuzz(func(t *testing.T, moves []byte) {
		var (
			clock Clock
			p     Point
			ops   []*Op
			left  []Outcome
		)
		for i, m := range moves {
			open := slices.IndexFunc(ops, func(o *Op) bool { return o.fate == UnderWay })
			if m%3 == 0 && open >= 0 {
				if m%2 == 0 { // not always the oldest
					for j := range ops {
						if ops[j].fate == UnderWay {
							open = j
						}
					}
				}
				clock.End(ops[open], Fate(1+m/6%3))
				continue
			}
			if len(ops) == 5 {
				continue
			}
			o := Value(int64(i))
			if m%5 == 0 {
				o = Outcome{}
			}
			ops, left = append(ops, clock.Begin()), append(left, o)
			p.Add(ops[len(ops)-1], o)
		}
		want := lastOfOrders(ops, left)
		got := map[Outcome]bool{}
		for _, o := range p.Allowed() {
			got[o] = true
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// lastOfOrders tries every order of every choice of the operations that may have happened.
func lastOfOrders(ops []*Op, left []Outcome) map[Outcome]bool {
	out := map[Outcome]bool{}
	var place func(done []int)
	place = func(done []int) {
		complete := true
		for i, o := range ops {
			if slices.Contains(done, i) || o.fate == Refused {
				continue
			}
			if o.fate == Acknowledged {
				complete = false
			}
			// What was acknowledged before o began must have its place already.
			early := slices.ContainsFunc(ops, func(b *Op) bool {
				return b.fate == Acknowledged && b.ended < o.began && !slices.Contains(done, slices.Index(ops, b))
			})
			if !early {
				place(append(slices.Clone(done), i))
			}
		}
		if !complete {
			return
		}
		if len(done) == 0 {
			out[Outcome{}] = true
			return
		}
		out[left[done[len(done)-1]]] = true
	}
	place(nil)
	return out
}
