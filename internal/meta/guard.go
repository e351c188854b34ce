package meta

import (
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
	read                   // with auth-enabled: every user
	admin                  // with auth-enabled: administrators
)

var (
	errNeedsUser  = errors.New("this needs a user: give -auth-type basic with -user and -pwd, or -auth-type jwt with -secret")
	errNeedsAdmin = errors.New("this needs an administrator")
)

// guard lets a request through to next if its credentials allow that. A token
// of the shared secret allows everything.
func (s *Server) guard(need access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, err := s.admit(need, r)
		if err != nil {
			if code == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Basic realm="InfluxDB"`)
			}
			replyCode(w, code, errorBody{err.Error()})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) admit(need access, r *http.Request) (int, error) {
	m := s.cfg.Meta
	if need == open || need == internal && m.InternalSharedSecret == "" || need >= read && !m.AuthEnabled {
		return 0, nil
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if err := m.InternalSharedSecret.Verify(token); err != nil {
			return http.StatusUnauthorized, err
		}
		return 0, nil
	}
	if need == internal {
		return http.StatusUnauthorized, trust.ErrRefused
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return http.StatusUnauthorized, errNeedsUser
	}
	u := s.State().User(name)
	if u == nil || s.auth.check(u, password) != nil {
		return http.StatusUnauthorized, emeta.ErrAuthenticate
	}
	if need == admin && !u.Admin {
		return http.StatusForbidden, errNeedsAdmin
	}
	return 0, nil
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
