package meta

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	emeta "github.com/influxdata/influxdb/services/meta"

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

// guard lets a request through to next if its credentials allow that. A token
// of the shared secret allows everything.
func (s *Server) guard(need access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, code, err := s.admit(need, r)
		if err != nil {
			switch code {
			case http.StatusUnauthorized:
				w.Header().Set("WWW-Authenticate", `Basic realm="InfluxDB"`)
			case http.StatusServiceUnavailable:
				w.Header().Set("Retry-After", "5")
			}
			replyCode(w, code, errorBody{err.Error()})
			return
		}
		if u != nil {
			r = r.WithContext(context.WithValue(r.Context(), userKey{}, u))
		}
		next.ServeHTTP(w, r)
	})
}

// admit returns the user of a request that is let through, nil for one that may do everything.
func (s *Server) admit(need access, r *http.Request) (*emeta.UserInfo, int, error) {
	m := s.cfg.Meta
	if need == open || need == internal && m.InternalSharedSecret == "" || need >= read && !m.AuthEnabled {
		return nil, 0, nil
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if err := m.InternalSharedSecret.Verify(token); err != nil {
			return nil, http.StatusUnauthorized, err
		}
		return nil, 0, nil
	}
	if need == internal {
		return nil, http.StatusUnauthorized, trust.ErrRefused
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return nil, http.StatusUnauthorized, errNeedsUser
	}
	u := s.State().User(name)
	if err := s.auth.check(u, password); errors.Is(err, errBusy) {
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
func (s *Server) toLeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st := s.st()
		if st.leads() || !st.initialised() {
			next.ServeHTTP(w, r)
			return
		}
		addr, err := s.leaderHTTP()
		if err != nil {
			reply(w, nil, err)
			return
		}
		u := url.URL{Scheme: s.peers.scheme(), Host: addr, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", u.String())
		replyCode(w, http.StatusTemporaryRedirect, errorBody{"the leader is " + addr})
	})
}

// leaderHTTP is the HTTP address of the leader.
func (s *Server) leaderHTTP() (string, error) {
	leader, _ := s.st().raft.LeaderWithID()
	for _, n := range s.State().MetaNodes {
		if leader != "" && n.TCPAddr == string(leader) {
			return n.HTTPAddr, nil
		}
	}
	return "", errNoLeader
}
