package ldap

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"concord/internal/cluster"
	"concord/internal/ldap/ldapconfig"
	"concord/internal/meta/password"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
)

const (
	maxQuestions = 8     // at the servers at a time, each with one connection
	maxWaiting   = 64    // questions that run or wait
	maxCached    = 10000 // users
)

// Deps is what Users are made of.
type Deps struct {
	State func() *cluster.State
	TLS   trust.Protocol   // the section [tls] of the node
	Log   *zap.Logger      // nil for none
	Now   func() time.Time // nil for time.Now
}

// Users are those that LDAP servers know. While LDAP is on, nobody else may log in: neither passwords nor permissions
// of the cluster's own users count.
//
// An answer of a server counts for cache-time. Within it nothing is asked: so users keep access when the servers fail,
// and somebody who was dropped from the directory has access that much longer. A wrong password is always asked for
// anew, and never takes away what is known of the user: everybody can send one.
type Users struct {
	deps    Deps
	base    *tls.Config // what [tls] says
	ctx     context.Context
	cancel  context.CancelFunc
	running chan struct{} // has an entry for each question that runs
	waiting chan struct{} // has an entry for each question that runs or waits
	shared  singleflight.Group
	salt    [16]byte // of the keys of shared
	warming warming
	wg      sync.WaitGroup

	mu     sync.Mutex
	of     version // of the configuration that known is for
	known  map[string]*known
	failed bool // the last question was answered by no server
}

// version names a configuration, and everything that was heard before the last purge of it.
type version struct{ cluster, number uint64 }

// known is what a server said about a user.
type known struct {
	person
	until time.Time

	password bool // one was right
	salt     [16]byte
	sum      [sha256.Size]byte // of the password
}

// NewUsers returns Users that know nobody yet. Close ends what they do.
func NewUsers(d Deps) *Users {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	d.Log = d.Log.With(zap.String("service", "ldap"))
	base, err := tlsmanager.Base(d.TLS)
	if err != nil {
		d.Log.Warn("[tls] is not valid: connections to LDAP servers use Go's defaults", zap.Error(err))
	}
	u := &Users{
		deps: d, base: base, running: make(chan struct{}, maxQuestions), waiting: make(chan struct{}, maxWaiting),
		known: make(map[string]*known),
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	rand.Read(u.salt[:])
	return u
}

// Close ends all questions, and waits for them.
func (u *Users) Close() error {
	u.cancel()
	u.wg.Wait()
	return nil
}

// config returns the configuration, nil while LDAP is off, and its version.
func (u *Users) config() (*ldapconfig.Config, version) {
	st := u.deps.State()
	c := st.LDAPConfig()
	if c == nil || !c.Enabled {
		return nil, version{}
	}
	return c, version{st.Data.ClusterID, st.LDAP.Version}
}

// On reports whether LDAP decides who may log in. It is false for nil.
func (u *Users) On() bool {
	if u == nil {
		return false
	}
	c, _ := u.config()
	return c != nil
}

// TLS is what [tls] of this node says for connections to servers; nil for nothing.
func (u *Users) TLS() *tls.Config { return u.base }

// Authenticate returns the user with a name and a password, with the privileges of the roles that it has now. The
// error is emeta.ErrAuthenticate for one that may not log in, password.ErrBusy, or one that wraps ErrUnavailable.
func (u *Users) Authenticate(name, password string) (*cluster.User, error) {
	c, v := u.config()
	if c == nil || name == "" || password == "" || len(name) > maxName {
		return nil, emeta.ErrAuthenticate
	}
	k := u.find(name, v)
	if k != nil && k.is(password) {
		return u.info(k.person, v), nil
	}
	q := question{name: name, password: password}
	if k != nil {
		q.known = &k.person
	}
	p, err := u.ask(c, v, q)
	if err != nil {
		return nil, err
	}
	return u.info(p, v), nil
}

// User returns a user whose password was checked elsewhere, or earlier; nil for one that no server knows, and when none
// answers.
func (u *Users) User(name string) *cluster.User {
	c, v := u.config()
	if c == nil || name == "" || len(name) > maxName {
		return nil
	}
	if k := u.find(name, v); k != nil {
		return u.info(k.person, v)
	}
	p, err := u.ask(c, v, question{name: name})
	if err != nil {
		return nil
	}
	return u.info(p, v)
}

// info is a user as the rest of the node takes it. The hash changes with the version: a login that was remembered does
// not count after a purge.
func (u *Users) info(p person, v version) *cluster.User {
	info := u.deps.State().UserOfRoles(p.name, p.admin, p.roles)
	info.Hash = fmt.Sprintf("ldap:%x:%d", v.cluster, v.number)
	return info
}

// find returns what is known of a user, nil for nothing.
func (u *Users) find(name string, v version) *known {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.turn(v)
	if k := u.known[name]; k != nil && u.deps.Now().Before(k.until) {
		return k
	}
	return nil
}

// turn forgets what is for another version. mu must be held.
func (u *Users) turn(v version) {
	if u.of != v {
		u.of = v
		clear(u.known)
	}
}

// is reports whether a password is the one that was right.
func (k *known) is(password string) bool {
	sum := sumOf(k.salt, password)
	return k.password && subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
}

func sumOf(salt [16]byte, password string) [sha256.Size]byte {
	return sha256.Sum256(append(salt[:], password...))
}

// keep remembers an answer under the name that was asked for, and under that of the directory. v is the version that
// was asked for.
func (u *Users) keep(c *ldapconfig.Config, v version, q question, p person) {
	now := u.deps.Now()
	k := &known{person: p, until: now.Add(time.Duration(c.CacheTime))}
	if q.password != "" {
		k.password = true
		rand.Read(k.salt[:])
		k.sum = sumOf(k.salt, q.password)
	}
	if _, current := u.config(); current != v || c.CacheTime == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.turn(v)
	for _, name := range []string{q.name, p.name} {
		if old := u.known[name]; old != nil && now.Before(old.until) {
			if q.known != nil {
				k.until = old.until // only the password is new
			}
			if q.password == "" && old.password {
				k.password, k.salt, k.sum = true, old.salt, old.sum
				k.until = old.until // the password counts no longer than it would have
			}
		}
	}
	for _, name := range []string{q.name, p.name} {
		if u.known[name] == nil && len(u.known) >= maxCached {
			u.makeRoom(now)
		}
		u.known[name] = k
	}
}

// makeRoom forgets what does not count any more, or anybody. mu must be held.
func (u *Users) makeRoom(now time.Time) {
	maps.DeleteFunc(u.known, func(_ string, k *known) bool { return !now.Before(k.until) })
	for name := range u.known {
		if len(u.known) < maxCached {
			return
		}
		delete(u.known, name)
	}
}

// ask asks the servers. Requests with the same question share one answer.
func (u *Users) ask(c *ldapconfig.Config, v version, q question) (person, error) {
	sum := sumOf(u.salt, q.password)
	key := fmt.Sprintf("%x %d %x %v %s", v.cluster, v.number, sum, q.password != "", q.name)
	answer, err, _ := u.shared.Do(key, func() (any, error) {
		// An answer may have come between the look and the question.
		if k := u.find(q.name, v); k != nil && (q.password == "" || k.is(q.password)) {
			return k.person, nil
		}
		p, err := u.askServers(c, q)
		if err == nil {
			u.keep(c, v, q, p)
		}
		return p, err
	})
	if errors.Is(err, errUnknown) || errors.Is(err, errWrong) {
		err = emeta.ErrAuthenticate
	}
	p, _ := answer.(person)
	return p, err
}

// askServers waits for its turn, and asks. A hung server holds up as many requests as may wait, each for as long as the
// questions before it may take.
func (u *Users) askServers(c *ldapconfig.Config, q question) (person, error) {
	select {
	case u.waiting <- struct{}{}:
	default:
		return person{}, password.ErrBusy
	}
	defer func() { <-u.waiting }()
	turn := time.NewTimer(time.Duration(c.Timeout))
	defer turn.Stop()
	select {
	case u.running <- struct{}{}:
	case <-turn.C:
		return person{}, password.ErrBusy
	case <-u.ctx.Done():
		return person{}, fmt.Errorf("%w: this node stops", ErrUnavailable)
	}
	defer func() { <-u.running }()
	p, err := ask(u.ctx, c, u.base, q, silent)
	if q.known != nil && errors.Is(err, errUnknown) {
		q.known = nil // the server that knew the user is not asked any more
		p, err = ask(u.ctx, c, u.base, q, silent)
	}
	u.report(err)
	return p, err
}

// report logs that the servers fail, and that they answer again.
func (u *Users) report(err error) {
	failed := errors.Is(err, ErrUnavailable)
	u.mu.Lock()
	changed := failed != u.failed
	u.failed = failed
	u.mu.Unlock()
	switch {
	case !changed || u.ctx.Err() != nil:
	case failed:
		u.deps.Log.Warn("No LDAP server answers: only users whose answers are cached may log in", zap.Error(err))
	default:
		u.deps.Log.Info("An LDAP server answers again")
	}
}
