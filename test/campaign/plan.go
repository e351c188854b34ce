package campaign

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
	restart              // SIGTERM, and a start after the hold
	pause                // SIGSTOP, SIGCONT
	isolate              // all links between the node and all others, both ways
	cutPair              // links between two data nodes, one way or both
	cutMeta              // the data node's links to all meta nodes
	slow                 // all links of the node
	powerCut             // SIGKILL of all data nodes at once
	metaKill             // of one meta node, and so on
	metaPause
	metaCut
)

func (k kind) String() string {
	return [...]string{"kill", "restart", "pause", "isolate", "cut", "cut from meta", "slow", "power cut", "kill meta", "pause meta", "isolate meta"}[k]
}

// fault is one step of a plan. It is undone before the next one of its lane begins.
type fault struct {
	kind   kind
	node   int          // index of the data node, or of the meta node
	peer   int          // of cutPair: the other data node
	mode   process.Mode // of cuts
	oneWay bool         // of cutPair: only connections that node makes to peer
	delay  time.Duration
	hold   time.Duration
	gap    time.Duration // after it is undone
}

func (f fault) String() string {
	s := fmt.Sprintf("%v data%d", f.kind, f.node+1)
	switch f.kind {
	case powerCut:
		s = f.kind.String()
	case metaKill, metaPause, metaCut:
		s = fmt.Sprintf("%v%d", f.kind, f.node+1)
	case cutPair:
		arrow := "<->"
		if f.oneWay {
			arrow = "->"
		}
		s = fmt.Sprintf("cut data%d%sdata%d", f.node+1, arrow, f.peer+1)
	case slow:
		s += fmt.Sprintf(" by %v", f.delay)
	}
	switch f.kind {
	case isolate, cutPair, cutMeta, metaCut:
		s += fmt.Sprintf(" (%v)", f.mode)
	}
	return s + fmt.Sprintf(" for %v", f.hold)
}

// plan is a campaign as a seed makes it. The two lanes run side by side; each
// has one node in trouble at a time.
type plan struct {
	metaNodes, dataNodes int
	autoRepair           bool // anti-entropy repairs during the faults, or is asked to at the end
	data, meta           []fault
}

// newPlan makes the plan of a seed. Numbers of nodes other than 0 are given.
func newPlan(seed uint64, faults, metaNodes, dataNodes int) plan {
	rng := rand.New(rand.NewPCG(seed, 0))
	p := plan{metaNodes: 1 + 2*rng.IntN(2), dataNodes: 3 + rng.IntN(2)}
	if metaNodes != 0 {
		p.metaNodes = metaNodes
	}
	if dataNodes != 0 {
		p.dataNodes = dataNodes
	}
	for range faults {
		f := fault{hold: hold(rng), gap: time.Duration(rng.IntN(1500)) * time.Millisecond, mode: process.Mode(1 + rng.IntN(3))}
		switch n := rng.IntN(100); {
		case n < 20:
			f.kind = kill
		case n < 28:
			f.kind = restart
		case n < 42:
			f.kind = pause
		case n < 54:
			f.kind = isolate
		case n < 68:
			f.kind, f.oneWay = cutPair, rng.IntN(2) == 0
		case n < 72:
			f.kind = cutMeta
		case n < 80:
			f.kind, f.delay = slow, time.Duration(5+rng.IntN(300))*time.Millisecond
		case n < 84:
			f.kind, f.hold = powerCut, f.hold/4
		case n < 91:
			f.kind = metaKill
		case n < 96:
			f.kind = metaPause
		default:
			f.kind = metaCut
		}
		if f.kind >= metaKill {
			f.node = rng.IntN(p.metaNodes)
			f.gap *= 4
			p.meta = append(p.meta, f)
			continue
		}
		f.node = rng.IntN(p.dataNodes)
		f.peer = (f.node + 1 + rng.IntN(p.dataNodes-1)) % p.dataNodes
		p.data = append(p.data, f)
	}
	return p
}

// hold is how long a fault lasts: mostly shorter than the timeouts, at times longer.
func hold(rng *rand.Rand) time.Duration {
	d := time.Duration(200+rng.IntN(2800)) * time.Millisecond
	if rng.IntN(8) == 0 {
		d *= 3
	}
	return d
}
