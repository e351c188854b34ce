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

	"concord/internal/durable"
)

// Version orders operations: of two on the same point, the one with the greater version is the later one. The upper 56
// bits are microseconds since 1970 times 16, and a counter; the lowest 8 bits are the node that gave it. 0 is none.
type Version uint64

const (
	nodeBits    = 8
	counterBits = 4
	// ahead is how far ahead of the clock the bound is stored that no version has passed.
	ahead         = 10 * time.Second
	aheadVersions = Version(ahead/time.Microsecond) << (counterBits + nodeBits)
)

// AtTime is the smallest version of a time.
func AtTime(t time.Time) Version { return Version(t.UnixMicro()) << (counterBits + nodeBits) }

// Time is when the version was given, by the greatest clock that its node had heard of, to the microsecond.
func (v Version) Time() time.Time { return time.UnixMicro(int64(v >> (counterBits + nodeBits))) }

// Clock gives versions. It is a hybrid logical clock: it follows the time, and never falls behind a version that it
// gave or heard of, nor behind one that it gave before a restart. (Kulkarni et al., Logical Physical Clocks, 2014.)
//
// A clock that is behind another one goes on from there with the time, and does not wait for its own time to get there.
// So the clocks of nodes that were in contact agree to milliseconds after they lost it, although the times of the
// machines are minutes apart.
type Clock struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	last    Version       // given or heard, with the bits of the node 0
	offset  time.Duration // of this clock from the time of this machine; it only grows
	node    Version
	bound   Version // on disk: no version that was given is greater
	storing chan struct{}
	failed  error // of the last attempt to store a bound
}

const (
	clockMagic  = "CCLK"
	clockFormat = 1
	clockSize   = 4 + 2 + 2 + 8 + 4
)

// OpenClock opens the clock whose bound is in the file at path; without the file it begins with the time.
func OpenClock(path string, now func() time.Time) (*Clock, error) {
	c := &Clock{path: path, now: now}
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
	c.bound = c.last
	return c, c.store(c.next() + aheadVersions)
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

// SetNode makes versions those of a node.
func (c *Clock) SetNode(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node = Version(id & (1<<nodeBits - 1))
}

// next is the version that would be given now. mu must be held.
func (c *Clock) next() Version {
	at := AtTime(c.now().Add(c.offset))
	if at <= c.last {
		c.offset += (c.last - at).length()
		return c.last + 1<<nodeBits
	}
	return at
}

// length is that of a range of versions.
func (v Version) length() time.Duration {
	return time.Duration(v>>(counterBits+nodeBits)) * time.Microsecond
}

// Next gives a version that is greater than all that this clock gave, or heard of, before. It waits for the bound to be
// stored when it has to. When that fails, versions only grow as long as the time does not go back over a restart.
func (c *Clock) Next() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		v := c.next()
		if v+aheadVersions/2 > c.bound && c.storing == nil {
			c.storing = make(chan struct{})
			go c.storeAhead(v)
		}
		if v <= c.bound || c.failed != nil {
			c.last = v
			return v | c.node
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

// Heard takes over a version of another node.
func (c *Clock) Heard(v Version) {
	v &^= 1<<nodeBits - 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if v <= c.last {
		return
	}
	c.last = v
	c.next() // it goes on from there
}

// Now is a version of now: no smaller one will be given, and none that was given or heard of is greater.
func (c *Clock) Now() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.last|(1<<nodeBits-1), c.next()-1)
}

// Close stores what was given.
func (c *Clock) Close() error {
	c.mu.Lock()
	for c.storing != nil {
		stored := c.storing
		c.mu.Unlock()
		<-stored
		c.mu.Lock()
	}
	last := c.last
	c.mu.Unlock()
	return durable.WriteFile(c.path, encodeBound(last+1<<nodeBits), 0o640)
}
