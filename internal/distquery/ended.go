package distquery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// A query that made an owner run out of memory must not be given to the next one. An owner that was killed for another
// reason must not take its queries with it. From outside, both look alike: a connection ends, or a node falls silent.
// What tells them apart is how much memory the node had a moment ago. Nodes tell each other once a second for how long
// their memory lasts, whatever they do meanwhile (Whole.Heard). An owner that ends earlier than that did not run out of
// memory, and its part of the statement is given to another owner. Otherwise the statement ends.
//
// Three cases are decided without it:
//
//   - A node that falls silent, and had said nothing for some time when it was asked, hung or was cut off before. So
//     another owner is asked.
//   - The second connection that ends also ends the statement. It may be something else in the statement that ends
//     processes, and memory says nothing about that.
//   - An error that a node sent is no such end. A node that stops in order sends one (rpc.Stopping).
//
// All of it holds for a whole statement, of whatever measurements and policies, and for a read of Prometheus.

// ErrOwnerEnded is wrapped by the error of a statement that may be why a data node ended. It must not be run again
// automatically.
var ErrOwnerEnded = errors.New("a data node may have ended because of it")

// maxBroken is how many connections may end while nodes answer one statement.
const maxBroken = 2

// silentBefore is for how long a node has said nothing that was away before it was asked. It speaks once a second.
const silentBefore = 3 * time.Second

// breaks are the nodes whose connection ended while they answered one statement. The zero value is ready.
type breaks struct {
	mu    sync.Mutex
	nodes map[uint64]bool
	final error // with which the statement ends; nil while it may go on
}

// fail passes a node over from now on. The error says that no other owner must be asked.
func (o *owned) fail(node uint64, err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down[node] = fmt.Errorf("%s: %s", o.name(node), rpc.Message(err))
	broke := brokeOff(err)
	if !broke && !fellSilent(err) {
		return nil
	}
	o.breaks.mu.Lock()
	defer o.breaks.mu.Unlock()
	if o.breaks.final != nil || o.breaks.nodes[node] {
		return o.breaks.final // it was decided when another part of the statement noticed it
	}
	end := o.why(node, broke)
	if end == awayBefore {
		return nil
	}
	if broke || end == unknownEnd {
		if o.breaks.nodes == nil {
			o.breaks.nodes = make(map[uint64]bool)
		}
		o.breaks.nodes[node] = true
	}
	switch n := len(o.breaks.nodes); {
	case n >= maxBroken:
		o.breaks.final = fmt.Errorf("%d data nodes ended while they answered this query. No other one is asked: "+
			"%w: %w", n, ErrOwnerEnded, o.down[node])
	case end == unknownEnd:
		o.breaks.final = fmt.Errorf("no other data node is asked this query: %w: %w", ErrOwnerEnded, o.down[node])
	}
	return o.breaks.final
}

// end is why a node does not answer any more.
type end int

const (
	unknownEnd end = iota // perhaps because of the statement
	otherEnd              // it still had memory
	awayBefore            // it was away before it was asked
)

// why says why a node does not answer any more: its connection broke, or it fell silent. mu must be held.
func (o *owned) why(node uint64, broke bool) end {
	if o.whole.Heard == nil {
		return otherEnd
	}
	sign, asked := o.whole.Heard(node), o.asked[node]
	switch {
	case !broke && asked.at.Sub(sign.At) > silentBefore:
		return awayBefore
	case sign.Process == asked.process && time.Since(sign.At) < sign.Memory:
		return otherEnd
	}
	return unknownEnd // also when another process of the node answers now
}

// ended is the error with which the statement ends, nil while it may go on.
func (b *breaks) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.final
}

// seen reports whether a node ended while it answered the statement.
func (b *breaks) seen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.nodes) > 0
}

// brokeOff reports whether a connection ended while a node answered. It did not where a node could not be reached, or
// had said that it stops.
func brokeOff(err error) bool {
	return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "error reading from server") &&
		!strings.Contains(err.Error(), "received prior goaway: code: NO_ERROR")
}

// fellSilent reports whether a node said nothing more while it answered.
func fellSilent(err error) bool {
	return errors.Is(err, errSilent) || errors.Is(err, context.DeadlineExceeded) ||
		status.Code(err) == codes.DeadlineExceeded ||
		status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "keepalive ping failed")
}

var errSilent = errors.New("no sign of life")
