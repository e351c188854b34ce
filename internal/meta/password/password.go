// Package password makes hashes of passwords and compares passwords with them, and bounds the work of that. Meta nodes
// and data nodes check their clients with it.
package password

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash/maphash"
	"runtime"
	"sync"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/meta/passwordhash"
)

// maxWaiting bounds the passwords that are compared with their hashes, or wait to be. It is some five seconds of
// work on two processors.
const maxWaiting = 64

// noHash is what the password of an unknown user is compared with while there are no users.
const noHash = "$2a$10$7EqJtq98hPqEX7fNZaFWoOe5ZQ8yQ1vJm5uQf3fC0o9x1mWlQxqPa"

// ErrBusy says that a password was not looked at.
var ErrBusy = errors.New("too many passwords are being checked: try again in a few seconds")

// Checker remembers passwords that were right, salted and hashed, so that only the first request of a user pays for
// the comparison. What it remembers counts for one hash alone: a password that was changed on any node, or a user that
// was dropped, is refused at once.
//
// Comparisons take half of the processors at most, so that wrong passwords leave the rest to others.
type Checker struct {
	waiting chan struct{} // has an entry for each password that is being compared or waits
	running chan struct{} // has an entry for each comparison
	seed    maphash.Seed  // chooses stand-ins
	match   func(hash, password string) bool

	mu    sync.Mutex
	right map[string]remembered // by user
}

// remembered is a password that was right.
type remembered struct {
	hash string
	salt [16]byte
	sum  [sha256.Size]byte
}

// NewChecker returns a checker that remembers nothing yet.
func NewChecker() *Checker {
	return &Checker{
		waiting: make(chan struct{}, maxWaiting), running: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		seed: maphash.MakeSeed(), match: passwordhash.Match, right: make(map[string]remembered),
	}
}

func saltedSum(salt [16]byte, password string) [sha256.Size]byte {
	return sha256.Sum256(append(salt[:], password...))
}

// Check compares a password with that of the user of a name, nil for an unknown one. users are those that there are. It
// returns emeta.ErrUserNotFound, emeta.ErrAuthenticate or ErrBusy.
func (c *Checker) Check(users []emeta.UserInfo, u *emeta.UserInfo, name, password string) error {
	if u == nil {
		if err := c.compare(c.standIn(users, name), password); errors.Is(err, ErrBusy) {
			return err
		}
		return emeta.ErrUserNotFound
	}
	c.mu.Lock()
	r, ok := c.right[u.Name]
	c.mu.Unlock()
	if ok && r.hash == u.Hash {
		if sum := saltedSum(r.salt, password); subtle.ConstantTimeCompare(sum[:], r.sum[:]) == 1 {
			return nil
		}
	}
	if err := c.compare(u.Hash, password); err != nil {
		return err
	}
	r = remembered{hash: u.Hash}
	rand.Read(r.salt[:])
	r.sum = saltedSum(r.salt, password)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.right[u.Name] = r
	return nil
}

// standIn is what the password of an unknown user is compared with, so that the time of an answer does not tell which
// users there are: the hash of one of them, for each name the same one. Hashes differ in kind and cost.
func (c *Checker) standIn(users []emeta.UserInfo, name string) string {
	if len(users) == 0 {
		return noHash
	}
	return users[maphash.String(c.seed, name)%uint64(len(users))].Hash
}

// Reserve takes one of the places for passwords that are being compared or wait, until release is called. It returns
// ErrBusy when all are taken.
func (c *Checker) Reserve() (release func(), err error) {
	select {
	case c.waiting <- struct{}{}:
		return func() { <-c.waiting }, nil
	default:
		return nil, ErrBusy
	}
}

// compare compares a password with a hash as soon as a processor may be had. It returns ErrBusy at once when
// too many passwords wait.
func (c *Checker) compare(hash, password string) error {
	release, err := c.Reserve()
	if err != nil {
		return err
	}
	defer release()
	c.running <- struct{}{}
	defer func() { <-c.running }()
	if !c.match(hash, password) {
		return emeta.ErrAuthenticate
	}
	return nil
}
