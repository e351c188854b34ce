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
	repeat               // calls between the node and the other data nodes, both ways, arrive twice
	full                 // the node's disk
	powerCut             // SIGKILL of all data nodes at once
	wipe                 // SIGKILL; all folders are gone; a start, and update-data to the same address
	replace              // SIGKILL for good; update-data to an empty node at another address
	clock                // of a data node: off, and back
	metaKill             // of one meta node, and so on
	metaPause
	metaCut
	kinds
)

// sorts are what there is to say of each kind, and of how many faults in a hundred it is.
var sorts = [kinds]struct {
	name   string
	weight int
}{
	{"kill", 14}, {"restart", 6}, {"pause", 11}, {"isolate", 9}, {"cut", 11}, {"cut from meta", 4}, {"slow", 5},
	{"repeat", 8}, {"full disk", 8}, {"power cut", 4}, {"wipe", 4}, {"replace", 3}, {"move the clock of", 5},
	{"kill meta", 3}, {"pause meta", 3}, {"isolate meta", 2},
}

func (k kind) String() string { return sorts[k].name }

// pick draws a kind.
func pick(rng *rand.Rand) kind {
	n := rng.IntN(100)
	for k, s := range sorts {
		if n -= s.weight; n < 0 {
			return kind(k)
		}
	}
	panic("the weights of the kinds are less than a hundred")
}

// fault is one step of a plan. It is undone before the next one of its lane begins.
type fault struct {
	kind   kind
	node   int          // index of the data node, or of the meta node
	peer   int          // of cutPair: the other data node
	mode   process.Mode // of cuts
	oneWay bool         // of cutPair: only connections that node makes to peer
	delay  time.Duration
	late   time.Duration // of repeat: how much later a call may come again
	seed   uint64        // of repeat
	skew   time.Duration // of clock
	leave  int64         // of full: bytes
	killed bool          // of full: the node is killed and started while its disk is full
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
	case clock:
		s += fmt.Sprintf(" by %v", f.skew)
	case repeat:
		s += fmt.Sprintf(" up to %v late", f.late)
	case full:
		s += fmt.Sprintf(" but for %d bytes", f.leave)
		if f.killed {
			s += ", and a kill"
		}
	}
	switch f.kind {
	case isolate, cutPair, cutMeta, metaCut:
		s += fmt.Sprintf(" (%v)", f.mode)
	}
	return s + fmt.Sprintf(" for %v", f.hold)
}

// diskSize is that of each data node: what a campaign writes fits in many times.
const diskSize = 256 << 20

// leaves are what a full disk leaves free: nothing to speak of, or less than the 5 % below which repairs are refused.
var leaves = []int64{4 << 10, 24 << 10, 100 << 10, diskSize / 25}

// maxSkew is how far a clock may be off, before or behind.
const maxSkew = 10 * time.Minute

// plan is a campaign as a seed makes it. The three lanes run side by side; each has one node in trouble at a time.
type plan struct {
	metaNodes, dataNodes int
	copies               int  // of each shard
	autoRepair           bool // anti-entropy repairs during the faults, or is asked to where it is needed
	data, clocks, meta   []fault
}

// newPlan makes the plan of a seed. Numbers of nodes and of copies other than 0 are given.
func newPlan(seed uint64, faults, metaNodes, dataNodes, copies int) plan {
	rng := rand.New(rand.NewPCG(seed, 0))
	p := plan{
		metaNodes: 1 + 2*rng.IntN(2), dataNodes: 3 + rng.IntN(2), copies: 2 + rng.IntN(2), autoRepair: rng.IntN(2) == 0,
	}
	switch {
	case copies != 0:
		p.copies = copies
	case dataNodes > 3:
		p.copies = 3
	}
	if p.copies == 2 { // with four nodes there were two shards in a group
		p.dataNodes = 3
	}
	if metaNodes != 0 {
		p.metaNodes = metaNodes
	}
	if dataNodes != 0 {
		p.dataNodes = dataNodes
	}
	for range faults {
		f := fault{
			hold: hold(rng), gap: time.Duration(rng.IntN(1500)) * time.Millisecond, mode: process.Mode(1 + rng.IntN(3)),
		}
		f.kind = pick(rng)
		switch f.kind {
		case cutPair:
			f.oneWay = rng.IntN(2) == 0
		case slow:
			f.delay = time.Duration(5+rng.IntN(300)) * time.Millisecond
		case repeat:
			f.late, f.seed = time.Duration(rng.IntN(1500))*time.Millisecond, rng.Uint64()
		case full:
			f.leave, f.killed = leaves[rng.IntN(len(leaves))], rng.IntN(4) == 0
		case powerCut:
			f.hold /= 4
		case clock: // over several other faults
			f.skew = time.Duration(rng.Int64N(2*int64(maxSkew))) - maxSkew
			f.hold, f.gap = 6*f.hold, 6*f.gap
		}
		if f.kind >= metaKill {
			f.node = rng.IntN(p.metaNodes)
			f.gap *= 4
			p.meta = append(p.meta, f)
			continue
		}
		f.node = rng.IntN(p.dataNodes)
		f.peer = (f.node + 1 + rng.IntN(p.dataNodes-1)) % p.dataNodes
		if f.kind == clock {
			p.clocks = append(p.clocks, f)
		} else {
			p.data = append(p.data, f)
		}
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
