package order

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/durable"
)

// Version orders operations. Of two operations on the same point, the one with the greater version is the later one.
// The upper 56 bits are microseconds since 1970 times 16, plus a counter. The lowest 8 bits name the node that gave the
// version. No operation has version 0.
type Version uint64

const (
	nodeBits    = 8
	counterBits = 4
	// The clock stores a bound that is ahead of the versions that it gives, so that it writes its file rarely.
	ahead         = 10 * time.Second
	aheadVersions = Version(ahead/time.Microsecond) << (counterBits + nodeBits)
	// A version that is further ahead of the time of this machine is wrong.
	maxAhead         = 24 * time.Hour
	maxAheadVersions = Version(maxAhead/time.Microsecond) << (counterBits + nodeBits)
)

// BeforeVersions is the version of writes that waited in hinted handoff before writes had versions.
const BeforeVersions Version = 1

// ErrFarAhead is for a version that is too far ahead of the time of this machine to be believed.
var ErrFarAhead = errors.New("the clock of the other data node is more than 24 hours ahead of the clock of this one: " +
	"set the clocks of both machines")

// AtTime returns the smallest version of a time. Times before 1970 and after 2112 have those of these years.
func AtTime(t time.Time) Version {
	return Version(min(max(0, t.UnixMicro()), 1<<(64-counterBits-nodeBits)-1)) << (counterBits + nodeBits)
}

// Time returns when the version was given, to the microsecond. It is the time of the greatest clock that the node which
// gave it had heard of.
func (v Version) Time() time.Time { return time.UnixMicro(int64(v >> (counterBits + nodeBits))) }

// String is the version for people: its time, its counter, and its node, or the lowest 8 bits of that.
func (v Version) String() string {
	counter, node := v>>nodeBits&(1<<counterBits-1), v&(1<<nodeBits-1)
	return fmt.Sprintf("%s #%d node %d", v.Time().UTC().Format("2006-01-02T15:04:05.000000Z07:00"), counter, node)
}

// length returns the time between two versions, of which v is the difference.
func (v Version) length() time.Duration {
	return time.Duration(v>>(counterBits+nodeBits)) * time.Microsecond
}

// Clock gives versions. It is a hybrid logical clock (Kulkarni et al., Logical Physical Clocks, 2014). It follows the
// time of the machine. It never falls behind a version that it gave or heard of, not even after a crash: it stores a
// bound on disk before it passes that bound.
//
// When a clock hears of a version that is ahead of it, it goes on from there at once. So the clocks of nodes that were
// in contact agree to milliseconds afterwards, although the times of their machines may be minutes apart.
type Clock struct {
	path   string
	now    func() time.Time // of this machine
	log    *zap.Logger
	opened Version // the bound on disk when the clock was opened
	// between is how much time passed between two times of this machine, whatever they say. Tests replace it.
	between func(earlier, later time.Time) time.Duration

	mu      sync.Mutex
	last    Version       // the greatest that was given or heard, with zeros for the node
	offset  time.Duration // of this clock from the time of this machine, which is never ahead of this clock
	seen    time.Time     // of this machine, at the first look, or the first one after it was set
	node    Version
	bound   Version       // on disk: no version that was given or heard is greater
	storing chan struct{} // closed when the bound is stored; nil when none is being stored
	failed  error         // of the last attempt to store a bound
	refused bool          // a version that is far ahead was logged
}

const (
	clockMagic  = "CCLK"
	clockFormat = 1
	clockSize   = 4 + 2 + 2 + 8 + 4
)

// OpenClock opens the clock whose bound is in the file at path. Without the file the clock begins with the time of the
// machine.
func OpenClock(path string, now func() time.Time, log *zap.Logger) (*Clock, error) {
	c := &Clock{path: path, now: now, log: log}
	c.between = func(earlier, later time.Time) time.Duration { return later.Sub(earlier) } // both are monotonic
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if c.last, err = decodeBound(b); err != nil {
			return nil, fmt.Errorf("%s: %w: move it away to begin with the time of this machine", path, err)
		}
	}
	c.bound, c.opened = c.last, c.last
	return c, c.store(c.next() + aheadVersions)
}

// Opened is the bound that the process before stored: it gave no greater version, and heard of none. It is 0 for a
// clock that is new.
func (c *Clock) Opened() Version { return c.opened }

// Reached returns a version that the clock whose bound is in the file at path had reached when the file was written: no
// later version is known to be. It is 0 without the file, or when that is damaged.
func Reached(path string) Version {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	bound, err := decodeBound(b)
	if err != nil || bound < aheadVersions {
		return 0
	}
	return bound - aheadVersions
}

func decodeBound(b []byte) (Version, error) {
	if len(b) != clockSize || string(b[:4]) != clockMagic ||
		binary.BigEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return 0, errors.New("the file is damaged")
	}
	if f := binary.BigEndian.Uint16(b[4:]); f != clockFormat {
		return 0, fmt.Errorf("format %d is of another version of this program", f)
	}
	return Version(binary.BigEndian.Uint64(b[8:])), nil
}

func encodeBound(v Version) []byte {
	b := append([]byte(clockMagic), 0, clockFormat, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(v))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *Clock) store(bound Version) error {
	if err := durable.WriteFile(c.path, encodeBound(bound), 0o640); err != nil {
		return fmt.Errorf("store the clock of writes: %w", err)
	}
	c.mu.Lock()
	c.bound = max(c.bound, bound)
	c.mu.Unlock()
	return nil
}

// SetNode sets the node whose versions the clock gives.
func (c *Clock) SetNode(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node = Version(id & (1<<nodeBits - 1))
}

// next returns the version that would be given now. mu must be held.
func (c *Clock) next() Version {
	now := c.machine() // may change the offset
	at := AtTime(now.Add(c.offset))
	if at <= c.last {
		c.offset += (c.last - at).length()
		return c.last + 1<<nodeBits
	}
	return at
}

// minSetBack is the smallest step back of the time of this machine that is noticed. The time, and how much has passed,
// are read one after the other, so that they never agree to the nanosecond.
const minSetBack = time.Millisecond

// machine returns the time of this machine. Where that was set back since the last look, the offset grows by as much:
// the clock goes on as before, and does not lack what has passed since. Where it was set forward, the offset gets
// smaller: what the machine was behind is over. Otherwise a machine whose time goes back and forth would carry all
// clocks of the cluster ahead, each time by as much. mu must be held.
func (c *Clock) machine() time.Time {
	now := c.now()
	if c.seen.IsZero() {
		c.seen = now
		return now
	}
	forward := func() time.Duration { return now.Round(0).Sub(c.seen.Round(0)) - c.between(c.seen, now) }
	by := forward()
	if by < -minSetBack {
		// A process that is paused after it has read the time, and before it reads how much has passed, takes it for one
		// that was set back. A second look tells.
		now = c.now()
		by = forward()
	}
	// A step forward needs no least size: seen becomes the look that is furthest ahead, so that errors do not add up.
	if by < -minSetBack || by > 0 {
		c.offset = max(0, c.offset-by)
		c.seen = now
	}
	return now
}

// Next returns a version that is greater than all that this clock gave or heard of before.
func (c *Clock) Next() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.pass(c.next)
	return v | c.node
}

// pass makes the version that next returns the last one, once a bound above it is on disk. When no bound can be stored,
// it does not wait: then versions still grow unless the time of the machine goes back before a restart. mu must be
// held, and is released meanwhile.
func (c *Clock) pass(next func() Version) Version {
	for {
		v := next()
		if v+aheadVersions/2 > c.bound && c.storing == nil {
			c.storing = make(chan struct{})
			go c.storeAhead(v)
		}
		if v <= c.bound || c.failed != nil {
			c.last = max(c.last, v)
			return v
		}
		stored := c.storing
		c.mu.Unlock()
		<-stored
		c.mu.Lock()
	}
}

// storeAhead stores a bound above v.
func (c *Clock) storeAhead(v Version) {
	err := c.store(v + aheadVersions)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = err
	close(c.storing)
	c.storing = nil
}

// Heard moves the clock past a version of another node. The error is ErrFarAhead for a version that cannot be right.
// Then the clock stays what it was: all nodes would follow one clock with a wrong year, for ever.
func (c *Clock) Heard(v Version) error {
	v &^= 1<<nodeBits - 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if v <= c.last {
		return nil
	}
	// A machine may start with a time that is long past. Then it is the bound on disk that tells what is far ahead.
	if limit := max(AtTime(c.now()), c.opened) + maxAheadVersions; v > limit {
		if !c.refused {
			c.log.Warn("The clock of another data node is more than 24 hours ahead: its writes are refused. "+
				"Set the clocks of both machines", zap.Time("its_time", v.Time()), zap.Time("own_time", c.now()))
		}
		c.refused = true
		return ErrFarAhead
	}
	c.pass(func() Version { return v })
	c.next() // the offset grows, and the clock goes on from there
	return nil
}

// Now returns a version of this moment. No smaller one will be given, and none that was given or heard of is greater.
func (c *Clock) Now() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	// It counts as given: else the clock would go on from the last version when the time of the machine is set back.
	return c.pass(func() Version { return max(c.last, c.next()-1<<nodeBits) }) | (1<<nodeBits - 1)
}

// Close stores the time of the clock as the bound, so that the clock goes on from there.
func (c *Clock) Close() error {
	c.mu.Lock()
	for c.storing != nil {
		stored := c.storing
		c.mu.Unlock()
		<-stored
		c.mu.Lock()
	}
	bound := c.next()
	c.mu.Unlock()
	return durable.WriteFile(c.path, encodeBound(bound), 0o640)
}
