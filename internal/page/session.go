package page

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/meta/password"
)

const (
	// idleLogin is for how long a login counts after it was last used, and longLogin is for how long at most.
	idleLogin = time.Hour
	longLogin = 12 * time.Hour
	// maxLogins bounds the logins that a node remembers. The one that was not used for longest makes room.
	maxLogins = 1000
)

var (
	errNeedsLogin = errors.New("log in first: with the form at /cluster, or with basic authentication")
	errNeedsAdmin = errors.New("only an administrator may do this")
	errNoUser     = errors.New("there is no administrator yet: make the first one with " +
		"CREATE USER \"admin\" WITH PASSWORD '…' WITH ALL PRIVILEGES at /query of a data node, and log in then")
	errWrong = errors.New("the name or the password is wrong")
)

// login is a user that has proven who it is.
type login struct {
	of    *Logins
	name  string // empty when authentication is off
	hash  string // of the password with which it logged in
	token string // empty for basic authentication
	began time.Time

	used time.Time // guarded by Logins.mu
}

// user is the user with the rights that it has now, nil for one that may do everything.
func (l *login) user() emeta.User {
	u, _ := l.renewed()
	return u
}

// renewed is the user, and whether the login still counts: it was not too long ago, nobody logged out, and the user is
// there with the same password.
func (l *login) renewed() (emeta.User, bool) {
	if l.name == "" {
		return nil, true
	}
	u := l.of.user(l.name)
	if u == nil || u.Hash != l.hash {
		return nobody, false
	}
	if l.token != "" && l.of.find(l.token) != l {
		return nobody, false
	}
	return u, true
}

// nobody may see and do nothing.
var nobody emeta.User = &emeta.UserInfo{}

// LoginDeps is what decides who may log in.
type LoginDeps struct {
	On    bool // clients must log in
	State func() *cluster.State
	LDAP  *ldap.Users // decides while LDAP is on; nil for never
	// Trusted is nil for a token of the shared secret, whose bearer may do everything, as influxd-ctl -auth-type jwt.
	// It is nil itself where no such token counts.
	Trusted func(token string) error
}

// Logins are those that came with the form of the page. They are in memory alone: a node that starts again has
// forgotten them, and no key signs them that could be lost.
type Logins struct {
	deps      LoginDeps
	passwords *password.Checker
	now       func() time.Time

	mu     sync.Mutex
	logins map[[sha256.Size]byte]*login // by the sum of the token
}

// NewLogins returns the logins of a node, which are none at first.
func NewLogins(d LoginDeps) *Logins {
	return &Logins{
		deps: d, passwords: password.NewChecker(), now: time.Now, logins: make(map[[sha256.Size]byte]*login),
	}
}

// Token returns the user whose login has a token, nil for none. It lets a login of the page ask /query.
func (s *Logins) Token(name, token string) emeta.User {
	l := s.find(token)
	if l == nil || l.name != name {
		return nil
	}
	if u, ok := l.renewed(); ok {
		return u
	}
	return nil
}

// user is the user with a name, nil for none.
func (s *Logins) user(name string) *cluster.User {
	if s.deps.LDAP.On() {
		return s.deps.LDAP.User(name)
	}
	return s.deps.State().User(name)
}

// begin logs a user in, and returns the token.
func (s *Logins) begin(name, given string) (*login, error) {
	l, err := s.check(name, given)
	if err != nil {
		return nil, err
	}
	var b [32]byte
	rand.Read(b[:])
	l.token = base64.RawURLEncoding.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom()
	s.logins[sha256.Sum256([]byte(l.token))] = l
	return l, nil
}

// makeRoom forgets logins that do not count any more, and the oldest one when there are too many. mu must be held.
func (s *Logins) makeRoom() {
	var oldest [sha256.Size]byte
	var at *login
	for sum, l := range s.logins {
		if s.over(l) {
			delete(s.logins, sum)
		} else if at == nil || l.used.Before(at.used) {
			oldest, at = sum, l
		}
	}
	if len(s.logins) >= maxLogins {
		delete(s.logins, oldest)
	}
}

func (s *Logins) over(l *login) bool {
	now := s.now()
	return now.Sub(l.used) > idleLogin || now.Sub(l.began) > longLogin
}

// check checks a password.
func (s *Logins) check(name, given string) (*login, error) {
	if !s.deps.LDAP.On() && !s.deps.State().AdminExists() {
		return nil, errNoUser
	}
	if s.deps.LDAP.On() {
		u, err := s.deps.LDAP.Authenticate(name, given)
		switch {
		case errors.Is(err, password.ErrBusy):
			return nil, err
		case errors.Is(err, ldap.ErrUnavailable):
			return nil, statusError{http.StatusServiceUnavailable, ldap.ErrUnavailable} // the log says which servers
		case err != nil:
			return nil, errWrong
		}
		return &login{of: s, name: u.Name, hash: u.Hash, began: s.now(), used: s.now()}, nil
	}
	u := s.user(name)
	if err := s.passwords.Check(s.deps.State().AllUsers(), u.Info(), name, given); errors.Is(err, password.ErrBusy) {
		return nil, err
	} else if err != nil {
		return nil, errWrong
	}
	return &login{of: s, name: u.Name, hash: u.Hash, began: s.now(), used: s.now()}, nil
}

// find returns the login with a token, nil for none that counts.
func (s *Logins) find(token string) *login {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256([]byte(token))
	l := s.logins[sum]
	if l == nil {
		return nil
	}
	if s.over(l) {
		delete(s.logins, sum)
		return nil
	}
	return l
}

// use notes that a login was used.
func (s *Logins) use(l *login) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.used = s.now()
}

// end logs out.
func (s *Logins) end(l *login) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logins, sha256.Sum256([]byte(l.token)))
}

// of returns who sends a request.
func (s *Logins) of(r *http.Request) (*login, error) {
	if !s.deps.On {
		return &login{of: s}, nil
	}
	if c, err := r.Cookie(cookieName(r)); err == nil {
		if l := s.find(c.Value); l != nil {
			if _, ok := l.renewed(); ok {
				s.use(l)
				return l, nil
			}
		}
	}
	if name, given, ok := r.BasicAuth(); ok {
		return s.check(name, given)
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && s.deps.Trusted != nil {
		if err := s.deps.Trusted(token); err != nil {
			return nil, statusError{http.StatusUnauthorized, err}
		}
		return &login{of: s}, nil
	}
	return nil, errNeedsLogin
}

// cookieName has the port, since browsers send cookies to all ports of a host: two nodes of one host would log each
// other's users out.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "concord-login-" + port
	}
	return "concord-login"
}

// cookie carries a token. No script can read it, and it is not sent for pages of other sites.
func cookie(r *http.Request, token string) *http.Cookie {
	c := &http.Cookie{
		Name: cookieName(r), Value: token, Path: Base,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil, MaxAge: int(longLogin / time.Second),
	}
	if token == "" {
		c.MaxAge = -1
	}
	return c
}
