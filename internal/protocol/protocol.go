// Package protocol says which builds may be mixed in one cluster.
//
// What nodes say to each other has a version. Each node tells its own one: with each call over gRPC, with each HTTP
// request to a meta node and each answer of one, and with each connection of Raft. The newer of two nodes decides
// whether they may work together, because the older one cannot know. A node refuses another one as it refuses one
// that is away, so that nothing that is kept for it is dropped.
//
// Mostly a new message or field needs no new version: older nodes ignore it or answer Unimplemented, and the caller
// copes. versions.go says when the version is raised.
package protocol

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

// Header is the header of HTTP requests and answers, and the key of gRPC metadata, with the version in decimal. A node
// of a build before there was one speaks version 1.
const Header = "concord-protocol"

// Speaks is what a build knows of versions.
type Speaks struct {
	Current uint32 // what it tells others
	Oldest  uint32 // that it works with
}

// Own is what this build knows.
var Own = Speaks{Current: current, Oldest: oldest}

// ErrTooOld is wrapped by the errors of With.
var ErrTooOld = errors.New("their versions may not be mixed")

// With returns why this node must not work with a peer of a version.
func (s Speaks) With(peer string, version uint32) error {
	if version >= s.Oldest {
		return nil
	}
	return fmt.Errorf("%w: node %s speaks version %d of the protocol between nodes, and this node versions %d to %d: "+
		"upgrade one release after the other, as docs/upgrade.md says", ErrTooOld, peer, version, s.Oldest, s.Current)
}

// Text is what a node puts into the header.
func (s Speaks) Text() string { return strconv.FormatUint(uint64(s.Current), 10) }

// Parse reads what a peer says of itself.
func Parse(text string) uint32 {
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil || v == 0 {
		return 1
	}
	return uint32(v)
}

// Once passes on each error about a peer once, for a log: a peer that is refused tries again and again. The zero value
// is ready.
type Once struct{ seen sync.Map }

// Do calls log unless it was called with the same error of that host.
func (o *Once) Do(addr string, err error, log func()) {
	host, _, splitErr := net.SplitHostPort(addr) // the port is another one for each connection
	if splitErr != nil {
		host = addr
	}
	if _, again := o.seen.LoadOrStore(host, err.Error()); !again {
		log()
	}
}
