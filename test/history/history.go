// Package history says what a point may hold after writes and deletes of several clients, some of them at the same
// time.
//
// The rule: an operation that was acknowledged before another one began comes before it. Operations that overlapped
// come in either order. An operation whose client got no answer, or an error, is in limbo: it takes effect at any time
// after it began, or never. A point may hold what the last operation of any such order leaves there. The order
// of all operations need not be searched for this:
//
//   - An acknowledged operation is the last of some order, unless another acknowledged one began after its end.
//   - An operation in limbo is the last of some order, always.
//   - Without an acknowledged operation, the point may hold what it held before all: nothing.
package history

import (
	"fmt"
	"slices"
)

// Fate is what a client knows of its operation.
type Fate int

const (
	UnderWay     Fate = iota // not answered yet
	Acknowledged             // it happened between its begin and its end
	Limbo                    // it may have happened since it began, or may still happen
	Refused                  // no node has seen it
)

func (f Fate) String() string {
	return [...]string{"under way", "acknowledged", "in limbo", "refused"}[f]
}

// Clock counts the begins and ends of operations. Its zero value is ready. It and what it makes are for one goroutine
// at a time.
type Clock struct{ now int64 }

// Op is a write or a delete of one or more points.
type Op struct {
	began, ended int64 // by the clock; ended is 0 while it is under way
	fate         Fate
}

// Begin returns an operation that is under way. It is called before the request is sent.
func (c *Clock) Begin() *Op {
	c.now++
	return &Op{began: c.now}
}

// End is called when the answer has come, or when nobody waits for it any longer.
func (c *Clock) End(o *Op, f Fate) {
	c.now++
	o.ended, o.fate = c.now, f
}

// before reports whether an acknowledged operation comes before another one in every order.
func (o *Op) before(other *Op) bool {
	return o.fate == Acknowledged && other.fate == Acknowledged && o.ended < other.began
}

// Outcome is what a point holds: a value or, as the zero value, nothing.
type Outcome struct {
	Value   int64
	Present bool
}

// Value is the outcome of a write.
func Value(v int64) Outcome { return Outcome{Value: v, Present: true} }

func (o Outcome) String() string {
	if !o.Present {
		return "nothing"
	}
	return fmt.Sprint(o.Value)
}

// Point is the history of one point, without what can no longer be its end. The zero value was never written.
type Point struct{ effects []effect }

// effect is what an operation leaves at a point.
type effect struct {
	op   *Op
	left Outcome
}

// Add notes an operation that has begun, and what it leaves at this point.
func (p *Point) Add(o *Op, left Outcome) {
	p.forget()
	p.effects = append(p.effects, effect{o, left})
}

// forget drops the effects that can no longer be the last: a later operation changes nothing in that.
func (p *Point) forget() {
	kept := make([]effect, 0, len(p.effects)+1)
	for _, e := range p.effects {
		if e.op.fate != Refused && !p.overwritten(e.op) {
			kept = append(kept, e)
		}
	}
	p.effects = kept
}

// overwritten reports whether another operation comes after this one in every order.
func (p *Point) overwritten(o *Op) bool {
	return slices.ContainsFunc(p.effects, func(e effect) bool { return o.before(e.op) })
}

// Allowed lists what the point may hold, once each.
func (p *Point) Allowed() (out []Outcome) {
	add := func(o Outcome) {
		if !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	begun := false
	for _, e := range p.effects {
		begun = begun || e.op.fate == Acknowledged
		if e.op.fate != Refused && !p.overwritten(e.op) {
			add(e.left)
		}
	}
	if !begun {
		add(Outcome{})
	}
	return out
}

// Allows reports whether the point may hold this.
func (p *Point) Allows(o Outcome) bool { return slices.Contains(p.Allowed(), o) }

// InLimbo reports whether an operation in limbo may still change the point.
func (p *Point) InLimbo() bool {
	return slices.ContainsFunc(p.effects, func(e effect) bool { return e.op.fate == Limbo })
}
