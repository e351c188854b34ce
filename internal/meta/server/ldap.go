package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/ldap/ldapconfig"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// warmTimeout is how long a data node may take to answer how far its warming is.
const warmTimeout = 5 * time.Second

// ldapRoutes are the routes of influxd-ctl ldap. Chronograf reads the configuration, too.
type ldapRoutes struct {
	server  *Server
	allowed bool // [meta] ldap-allowed
	users   *ldap.Users
}

var errNoLDAP = errors.New("LDAP is not allowed: set [meta] ldap-allowed = true on all meta nodes, and start them again")

func (l *ldapRoutes) routes(r router) {
	r.local("GET "+wire.LDAPConfigPath, admin, func(w http.ResponseWriter, _ *http.Request) {
		v, err := l.config()
		Reply(w, v, err)
	})
	r.change("POST "+wire.LDAPConfigPath, admin, func(req *http.Request) (any, error) {
		c, err := l.parse(req.Body)
		if err != nil {
			return nil, err
		}
		if c.Enabled && !l.allowed {
			return nil, errNoLDAP
		}
		_, err = l.server.Execute(cluster.SetLDAP{Config: c})
		return struct{}{}, err
	})
	r.local("POST "+wire.LDAPVerifyPath, admin, l.serveVerify)
	r.change("POST "+wire.LDAPPurgePath, admin, func(*http.Request) (any, error) {
		_, err := l.server.Execute(cluster.PurgeLDAP{})
		return struct{}{}, err
	})
	r.local("GET "+wire.LDAPWarmPath, admin, func(w http.ResponseWriter, req *http.Request) {
		Reply(w, l.warm(req.Context(), &rpc.WarmRequest{}), nil)
	})
	r.local("POST "+wire.LDAPWarmPath, admin, func(w http.ResponseWriter, req *http.Request) {
		if !l.server.State().LDAPOn() {
			Reply(w, nil, errors.New("LDAP is off: there is no configuration with enabled = true"))
			return
		}
		Reply(w, l.warm(req.Context(), &rpc.WarmRequest{Begin: true}), nil)
	})
	r.local("DELETE "+wire.LDAPWarmPath, admin, func(w http.ResponseWriter, req *http.Request) {
		Reply(w, l.warm(req.Context(), &rpc.WarmRequest{Cancel: true}), nil)
	})
}

// config is the configuration without its bind passwords.
func (l *ldapRoutes) config() (wire.LDAPConfig, error) {
	c := l.server.State().LDAPConfig()
	if c == nil {
		return wire.LDAPConfig{}, nil
	}
	shown := c.Shown()
	text, err := shown.TOML()
	if err != nil {
		return wire.LDAPConfig{}, err
	}
	b, err := json.Marshal(shown)
	return wire.LDAPConfig{Structured: b, TOML: text}, err
}

// parse reads a configuration. Hidden bind passwords are those of the one that the cluster has.
func (l *ldapRoutes) parse(body io.Reader) (*ldapconfig.Config, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	c, err := ldapconfig.Parse(string(text))
	if err != nil {
		return nil, err
	}
	if err := c.Reveal(l.server.State().LDAPConfig()); err != nil {
		return nil, err
	}
	return c, ldap.Check(c)
}

// serveVerify tries a configuration from this node. What went wrong is part of the answer: the steps before it say
// more.
func (l *ldapRoutes) serveVerify(w http.ResponseWriter, req *http.Request) {
	if !l.allowed {
		Reply(w, nil, errNoLDAP)
		return
	}
	var body wire.LDAPVerify
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		Reply(w, nil, fmt.Errorf("body: must be JSON with user and password: %w", err))
		return
	}
	st := l.server.State()
	c := st.LDAPConfig()
	if body.Config != "" {
		var err error
		if c, err = ldapconfig.Parse(body.Config); err == nil {
			err = c.Reveal(st.LDAPConfig())
		}
		if err == nil {
			err = ldap.Check(c)
		}
		if err != nil {
			Reply(w, nil, err)
			return
		}
	}
	if c == nil {
		Reply(w, nil, errors.New("the cluster has no LDAP configuration: give -ldap-config, or run influxd-ctl ldap set-config"))
		return
	}
	lines, err := ldap.Verify(req.Context(), c, l.users.TLS(), st, body.User, body.Password)
	out := wire.LDAPVerified{Steps: lines}
	if err != nil {
		out.Failed = err.Error()
	}
	Reply(w, out, nil)
}

// warm asks all data nodes. One that does not answer has an error in the list.
func (l *ldapRoutes) warm(ctx context.Context, r *rpc.WarmRequest) (out wire.LDAPWarm) {
	answers := rpc.AskAll(ctx, l.server.State().DataNodes, warmTimeout,
		func(ctx context.Context, n cluster.Node) (*rpc.WarmResponse, error) {
			conn, err := l.server.Pool().Conn(n.TCPAddr)
			if err != nil {
				return nil, err
			}
			return rpc.NewLdapClient(conn).Warm(ctx, r)
		})
	out.Nodes = []wire.LDAPWarming{}
	for _, a := range answers {
		w := wire.LDAPWarming{Node: a.Node.TCPAddr}
		if a.Err != nil {
			w.State, w.Error = "unknown", a.Err.Error()
		} else {
			w.State, w.Error = a.Value.State, a.Value.Error
			w.Groups, w.Users = a.Value.Groups, a.Value.Users
		}
		out.Nodes = append(out.Nodes, w)
	}
	return out
}
