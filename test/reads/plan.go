package reads

import (
	"fmt"
	"math/rand/v2"
	"time"

	"concord/test/process"
)

// kind is a sort of fault.
type kind int

const (
	kill     kind = iota // SIGKILL, and a start after the hold
	hang                 // SIGSTOP, SIGCONT
	isolate              // all links between the node and all others, both ways
	cut                  // links between two data nodes, one way or both
	wipe                 // SIGKILL; data, wal and hh are gone; a start
	rejoin               // SIGKILL; all folders are gone; a start, and update-data to the same address
	replace              // SIGKILL for good; update-data to an empty node at another address
	rollBack             // SIGKILL; all folders are as they were some time ago; a start
	clock                // the wall clock is off
	kinds
)

func (k kind) String() string {
	return [...]string{
		"kill", "hang", "isolate", "cut", "wipe", "wipe and join", "replace", "roll back", "move the clock of",
	}[k]
}

// destroys tells whether a fault takes data away from a node. These wait until all copies are whole: of two
// destroyed copies of two nothing is left that could be read.
func (k kind) destroys() bool { return k >= wipe && k <= rollBack }

// fault is one step of a plan. It is undone before the next one begins.
type fault struct {
	kind   kind
	node   int           // index of the data node
	peer   int           // of cut: the other data node
	mode   process.Mode  // of isolate and cut
	oneWay bool          // of cut: only connections that node makes to peer
	image  bool          // before it, an image is made of the folders of a node, for a later roll back
	age    time.Duration // of rollBack: how old the image must be
	skew   time.Duration // of clock
	hold   time.Duration
	gap    time.Duration // after it is undone
}

func (f fault) String() string {
	s := fmt.Sprintf("%v data%d", f.kind, f.node+1)
	switch f.kind {
	case cut:
		arrow := "<->"
		if f.oneWay {
			arrow = "->"
		}
		s = fmt.Sprintf("cut data%d%sdata%d (%v)", f.node+1, arrow, f.peer+1, f.mode)
	case isolate:
		s += fmt.Sprintf(" (%v)", f.mode)
	case clock:
		s += fmt.Sprintf(" by %v", f.skew)
	}
	return s + fmt.Sprintf(" for %v", f.hold.Round(time.Millisecond))
}

// newPlan makes the faults of a seed for so many data nodes; allowed leaves kinds out.
func newPlan(seed uint64, faults, dataNodes int, allowed func(kind) bool) (plan []fault) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for len(plan) < faults {
		f := fault{
			node: rng.IntN(dataNodes),
			hold: time.Duration(200+rng.IntN(2800)) * time.Millisecond,
			gap:  time.Duration(rng.IntN(1500)) * time.Millisecond,
			mode: process.Mode(1 + rng.IntN(3)), image: rng.IntN(5) == 0,
		}
		if rng.IntN(6) == 0 {
			f.gap += 4 * time.Second // all is well again before the next one
		}
		if rng.IntN(8) == 0 {
			f.hold *= 3
		}
		f.peer = (f.node + 1 + rng.IntN(dataNodes-1)) % dataNodes
		switch n := rng.IntN(100); {
		case n < 22:
			f.kind = kill
		case n < 43:
			// Mostly shorter than the timeouts, at times longer than all of them.
			x := rng.Float64()
			f.kind, f.hold = hang, time.Second+time.Duration(19*x*x*x*float64(time.Second))
		case n < 54:
			f.kind = isolate
		case n < 72:
			f.kind, f.oneWay = cut, rng.IntN(2) == 0
		case n < 78:
			f.kind = wipe
		case n < 83:
			f.kind = rejoin
		case n < 87:
			f.kind = replace
		case n < 94:
			f.kind, f.age = rollBack, time.Second+time.Duration(rng.IntN(9000))*time.Millisecond
		default:
			f.kind, f.skew = clock, time.Duration(rng.IntN(600_000)-300_000)*time.Millisecond
		}
		if allowed(f.kind) {
			plan = append(plan, f)
		}
	}
	return plan
}
