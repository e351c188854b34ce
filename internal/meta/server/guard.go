package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/meta/password"
	"concord/internal/meta/wire"
	"concord/internal/protocol"
	"concord/internal/trust"
)

// access is who may use a route.
type access struct {
	who who
	any []cluster.Permissions // of users who may use it: one of them is enough
}

type who int

const (
	everybody who = iota
	nodes         // of the cluster, by the shared secret
	users         // with auth-enabled
)

var (
	open     = access{who: everybody}
	internal = access{who: nodes}
	read     = access{who: users} // the route itself looks at what the user may read
	admin    = needs(cluster.ClusterPermissions)
)

// needs is for users who have one of the permissions.
func needs(any ...cluster.Permissions) access { return access{users, any} }

// allows returns why a user may not use a route.
func (a access) allows(u *cluster.User) error {
	if a.any == nil {
		return nil
	}
	var names []string
	for _, p := range a.any {
		if u.Grants.Has(p, "") {
			return nil
		}
		names = append(names, p.String())
	}
	if slices.Contains(a.any, cluster.ClusterPermissions) {
		return errNeedsAdmin
	}
	return fmt.Errorf("this needs an administrator, or a user with the permission %s", strings.Join(names, " or "))
}

var (
	errNeedsUser  = errors.New("this needs a user: give -auth-type basic with -user and -pwd, or -auth-type jwt with -secret")
	errNeedsAdmin = errors.New("this needs an administrator")
)

// userKey is the user of a request in its context.
type userKey struct{}

// UserOf returns the user of a request to a route, nil for one that may do everything: authentication is off, or the
// request has a token of the shared secret.
func UserOf(r *http.Request) emeta.User {
	if u, ok := r.Context().Value(userKey{}).(*cluster.User); ok {
		return u
	}
	return nil
}

// guard admits requests by their credentials. A token of the shared secret allows everything.
type guard struct {
	auth      bool         // clients must log in
	secret    trust.Secret // of nodes; empty when they need none
	tokens    trust.Secret // signs tokens of users; empty for none
	state     func() *cluster.State
	passwords *password.Checker
	ldap      *ldap.Users                  // decides who may log in while LDAP is on
	tooOld    func(addr string, err error) // is told of nodes that are refused because of their version
}

// admits lets a request through to next if its credentials allow that.
func (g *guard) admits(need access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, code, err := g.admit(need, r)
		if err != nil {
			switch code {
			case http.StatusUnauthorized:
				w.Header().Set("WWW-Authenticate", `Basic realm="InfluxDB"`)
			case http.StatusServiceUnavailable:
				w.Header().Set("Retry-After", "5")
			}
			replyCode(w, code, wire.Error{Error: err.Error()})
			return
		}
		if u != nil {
			if a, ok := r.Context().Value(auditKey{}).(*audited); ok {
				a.user = u
			}
			r = r.WithContext(context.WithValue(r.Context(), userKey{}, u))
		}
		next.ServeHTTP(w, r)
	})
}

// admit returns the user of a request that is let through, nil for one that may do everything.
func (g *guard) admit(need access, r *http.Request) (*cluster.User, int, error) {
	if need.who == nodes {
		if err := protocol.Own.With(r.RemoteAddr, protocol.Parse(r.Header.Get(protocol.Header))); err != nil {
			g.tooOld(r.RemoteAddr, err)
			return nil, http.StatusBadRequest, err
		}
	}
	if need.who == everybody || need.who == nodes && g.secret == "" || need.who == users && !g.auth {
		return nil, 0, nil
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if name, ok := g.tokens.User(token); ok && need.who == users {
			u := g.user(name)
			if u == nil {
				return nil, http.StatusUnauthorized, emeta.ErrAuthenticate
			}
			return u, http.StatusForbidden, need.allows(u)
		}
		if err := g.secret.Verify(token); err != nil {
			return nil, http.StatusUnauthorized, err
		}
		return nil, 0, nil
	}
	if need.who == nodes {
		return nil, http.StatusUnauthorized, trust.ErrRefused
	}
	name, given, ok := r.BasicAuth()
	if !ok {
		return nil, http.StatusUnauthorized, errNeedsUser
	}
	u, err := g.login(name, given)
	if errors.Is(err, password.ErrBusy) {
		return nil, http.StatusServiceUnavailable, err
	} else if errors.Is(err, ldap.ErrUnavailable) {
		return nil, http.StatusServiceUnavailable, ldap.ErrUnavailable // the log says which servers
	} else if err != nil {
		return nil, http.StatusUnauthorized, emeta.ErrAuthenticate
	}
	return u, http.StatusForbidden, need.allows(u)
}

// user returns a user by its name, nil for one that is not there.
func (g *guard) user(name string) *cluster.User {
	if g.ldap.On() {
		return g.ldap.User(name)
	}
	return g.state().User(name)
}

// login checks a password.
func (g *guard) login(name, given string) (*cluster.User, error) {
	if g.ldap.On() {
		return g.ldap.Authenticate(name, given)
	}
	st := g.state()
	u := st.User(name)
	return u, g.passwords.Check(st.AllUsers(), u.Info(), name, given)
}

// toLeader answers on the leader, and elsewhere with 307 and where that is.
func toLeader(s *Server, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st := s.st()
		if st.leads() || !st.initialised() {
			next(w, r)
			return
		}
		addr, err := s.leaderHTTP()
		if err != nil {
			Reply(w, nil, err)
			return
		}
		u := url.URL{Scheme: s.peers.Scheme(), Host: addr, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", u.String())
		replyCode(w, http.StatusTemporaryRedirect, wire.Error{Error: "the leader is " + addr})
	})
}
