package meta

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"runtime"
	"sync"

	emeta "github.com/influxdata/influxdb/services/meta"
	"golang.org/x/crypto/bcrypt"
)

// maxChecks bounds the passwords that are compared with their bcrypt hashes, or wait to be. It is some five seconds of
// work on two processors.
const maxChecks = 64

// noHash is what the password of an unknown user is compared with, so that the time of an answer does not tell which
// users there are. It costs as much as the hashes of users.
const noHash = "$2a$10$7EqJtq98hPqEX7fNZaFWoOe5ZQ8yQ1vJm5uQf3fC0o9x1mWlQxqPa"

// errBusy says that a password was not looked at.
var errBusy = errors.New("too many passwords are being checked: try again in a few seconds")

// authCache remembers passwords that were right, salted and hashed, so that
// only the first request of a user pays for bcrypt. An entry counts for one
// bcrypt hash alone: a password that was changed on any node, or a user that
// was dropped, is refused at once.
//
// Comparisons with bcrypt take half of the processors at most, so that wrong passwords leave the rest to others.
type authCache struct {
	admitted chan struct{} // has an entry for each password that is being checked or waits
	running  chan struct{} // has an entry for each comparison

	mu sync.Mutex
	m  map[string]authEntry // by user
}

type authEntry struct {
	bcrypt string
	salt   [16]byte
	sum    [sha256.Size]byte
}

func newAuthCache() *authCache {
	return &authCache{
		admitted: make(chan struct{}, maxChecks), running: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		m: make(map[string]authEntry),
	}
}

func saltedSum(salt [16]byte, password string) [sha256.Size]byte {
	return sha256.Sum256(append(salt[:], password...))
}

// check compares a password with that of a user, nil for an unknown one. It returns emeta.ErrUserNotFound,
// emeta.ErrAuthenticate or errBusy.
func (a *authCache) check(u *emeta.UserInfo, password string) error {
	if u == nil {
		if err := a.compare(noHash, password); errors.Is(err, errBusy) {
			return err
		}
		return emeta.ErrUserNotFound
	}
	a.mu.Lock()
	e, ok := a.m[u.Name]
	a.mu.Unlock()
	if ok && e.bcrypt == u.Hash {
		if sum := saltedSum(e.salt, password); subtle.ConstantTimeCompare(sum[:], e.sum[:]) == 1 {
			return nil
		}
	}
	if err := a.compare(u.Hash, password); err != nil {
		return err
	}
	e = authEntry{bcrypt: u.Hash}
	rand.Read(e.salt[:])
	e.sum = saltedSum(e.salt, password)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m[u.Name] = e
	return nil
}

// compare compares a password with a bcrypt hash as soon as a processor may be had. It returns errBusy at once when
// too many passwords wait.
func (a *authCache) compare(hash, password string) error {
	select {
	case a.admitted <- struct{}{}:
	default:
		return errBusy
	}
	defer func() { <-a.admitted }()
	a.running <- struct{}{}
	defer func() { <-a.running }()
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil {
		return emeta.ErrAuthenticate
	}
	return nil
}
