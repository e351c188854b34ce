package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/meta/password"
	"concord/internal/meta/wire"
	"concord/internal/trust"
)

// access is who may use a route.
type access int

const (
	open     access = iota // everybody
	internal               // nodes of the cluster, by the shared secret
	read                   // with auth-enabled: every user; the route itself looks at what the user may read
	admin                  // with auth-enabled: administrators
)

var (
	errNeedsUser  = errors.New("this needs a user: give -auth-type basic with -user and -pwd, or -auth-type jwt with -secret")
	errNeedsAdmin = errors.New("this needs an administrator")
)

// userKey is the user of a request in its context.
type userKey struct{}

// UserOf returns the user of a request to a route, nil for one that may do everything: authentication is off, or the
// request has a token of the shared secret.
func UserOf(r *http.Request) emeta.User {
	if u, ok := r.Context().Value(userKey{}).(*emeta.UserInfo); ok {
		return u
	}
	return nil
}

// guard admits requests by their credentials. A token of the shared secret allows everything.
type guard struct {
	auth      bool         // clients must log in
	secret    trust.Secret // of nodes; empty when they need none
	state     func() *cluster.State
	passwords *password.Checker
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
			r = r.WithContext(context.WithValue(r.Context(), userKey{}, u))
		}
		next.ServeHTTP(w, r)
	})
}

// admit returns the user of a request that is let through, nil for one that may do everything.
func (g *guard) admit(need access, r *http.Request) (*emeta.UserInfo, int, error) {
	if need == open || need == internal && g.secret == "" || need >= read && !g.auth {
		return nil, 0, nil
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if err := g.secret.Verify(token); err != nil {
			return nil, http.StatusUnauthorized, err
		}
		return nil, 0, nil
	}
	if need == internal {
		return nil, http.StatusUnauthorized, trust.ErrRefused
	}
	name, given, ok := r.BasicAuth()
	if !ok {
		return nil, http.StatusUnauthorized, errNeedsUser
	}
	u := g.state().User(name)
	if err := g.passwords.Check(u, given); errors.Is(err, password.ErrBusy) {
		return nil, http.StatusServiceUnavailable, err
	} else if err != nil {
		return nil, http.StatusUnauthorized, emeta.ErrAuthenticate
	}
	if need == admin && !u.Admin {
		return nil, http.StatusForbidden, errNeedsAdmin
	}
	return u, 0, nil
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
