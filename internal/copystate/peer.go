package copystate

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// peer is another data node. Its fields are guarded by knowledge.mu. It has many fields because all that is known of
// the exchanges with one node is in it: those that ended, those that failed, and what the node said of itself.
type peer struct {
	node   cluster.Node
	kick   chan struct{} // holds one signal: exchange now
	cancel context.CancelFunc

	begun   uint64    // number of the last exchange that began
	ended   uint64    // and of the last one that ended
	at      time.Time // when the last one that ended began
	reached bool      // it was answered
	known   bool      // it has answered since this node started, and may have said that the folders were rolled back
	refused bool      // nothing listens there, or it serves nothing: the node is down, and takes no writes
	down    bool      // it was refused, and has not been heard since
	failed  int       // exchanges in a row, after one that was answered
	since   time.Time // when it was first not answered, after it was
	heard   time.Time // when it last told this node its table
	told    uint64    // sequence of this node's table that it has
	process uint64    // that answered the last exchange, 0 for none
	have    map[uint64]version
	sign    Sign // of the last exchange that was answered
}

// maxMemory is for how many milliseconds the memory of a node lasts at most, for what it says.
const maxMemory = 60_000

// away reports whether the last exchange failed. mu must be held.
func (p *peer) away() bool { return p.ended > 0 && !p.reached }

// silent reports whether the node is away for long. mu must be held.
func (p *peer) silent() bool {
	return p.away() && time.Since(p.since) >= awayFor && time.Since(p.heard) >= awayFor
}

// lostAfter is how many exchanges in a row fail until the log says that a node does not answer. A single one that is
// late is not worth a line.
const lostAfter = 3

// count counts exchanges that fail in a row, and returns whether the log should say that the node does not answer, or
// answers again. One that failed because this node closes does not count. mu must be held.
func (p *peer) count(err error, closing bool) (lost, back bool) {
	switch {
	case err == nil:
		back = p.failed >= lostAfter
		p.failed = 0
	case !closing && (p.reached || p.failed > 0):
		p.failed++
		lost = p.failed == lostAfter
	}
	return lost, back
}

// end notes how an exchange ended. It returns whether the node answers after a silence, and whether it went down. mu
// must be held.
func (p *peer) end(number uint64, began time.Time, reply *rpc.CopyStates, err error) (heard, gone bool) {
	heard = err == nil && !p.reached
	if err != nil && p.reached {
		p.since = time.Now()
	}
	p.ended, p.at = number, began
	p.reached = err == nil
	p.known = p.known || p.reached
	refused := err != nil &&
		(strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), rpc.ServesNothing))
	gone = refused && !p.down
	p.refused, p.down = refused, refused
	p.process = 0
	if err == nil {
		p.process = reply.Process
		p.sign = Sign{began, reply.Process, time.Duration(min(reply.MemoryLasts, maxMemory)) * time.Millisecond}
		p.have = decodeVersions(reply.Have)
	}
	return heard, gone
}

// lacksTable reports whether the node was not told of one of these tables. mu must be held.
func (p *peer) lacksTable(tables map[uint64]table) bool {
	for holder, t := range tables {
		if holder != p.node.ID && t.version.newer(p.have[holder]) {
			return true
		}
	}
	return false
}

// freshness is how much of what the other nodes know this one can know, as its exchanges with them say.
type freshness struct {
	base   time.Time              // when the process began
	counts time.Duration          // how long an exchange counts
	until  atomic.Int64           // nanoseconds since base, by the monotonic clock: what is known is fresh until then
	unsure atomic.Pointer[string] // why this node cannot know; nil when it can
	ready  atomic.Bool            // the others were asked once since the start
	enough atomic.Bool            // half of those that are not down have answered since, or enoughAfter has passed
	half   atomic.Bool            // half of all have
}

// enoughAfter is how long after its start a node waits for others to answer: they may be away for long.
const enoughAfter = 30 * time.Second

// countsFor is how long an exchange counts, where writes are kept for a node after the timeout.
func countsFor(timeout time.Duration) time.Duration {
	if timeout > 0 {
		return min(freshFor, timeout)
	}
	return freshFor
}

func (f *freshness) fresh() bool { return int64(time.Since(f.base)) <= f.until.Load() }

// setUnsure notes why this node cannot know.
func (f *freshness) setUnsure(why string) { f.unsure.Store(&why) }

// settle works out from the exchanges how fresh they are. It reports whether all nodes were asked. mu must be held.
func (f *freshness) settle(peers map[uint64]*peer) (all bool) {
	fresh, all := time.Duration(1<<62), true
	reached, total := 1, 1
	for _, p := range peers {
		if p.ended == 0 {
			all = false
		} else {
			fresh = min(fresh, p.at.Add(f.counts).Sub(f.base))
		}
		if p.reached {
			reached++
		}
		if !p.refused {
			total++
		}
	}
	if !all {
		fresh = 0
	}
	f.until.Store(int64(fresh))
	if 2*reached < total {
		f.setUnsure(fmt.Sprintf("its node can reach %d of %d data nodes", reached, len(peers)+1))
	} else {
		f.unsure.Store(nil)
	}
	return all
}

// hear works out whether enough nodes have answered to know whether the folders of this one were rolled back. A single
// one may be new itself, and remember nothing. It is called when all were asked, with mu held.
func (f *freshness) hear(peers map[uint64]*peer) {
	known, up := 0, 0
	for _, p := range peers {
		if p.known {
			known++
		}
		if p.known || !p.refused {
			up++
		}
	}
	if 2*known >= up || time.Since(f.base) >= enoughAfter {
		f.enough.Store(true)
	}
	if 2*known >= len(peers) {
		f.half.Store(true)
	}
}
