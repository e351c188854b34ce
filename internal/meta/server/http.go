package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"go.uber.org/zap"

	"concord/internal/clocks"
	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/meta/password"
	"concord/internal/meta/wire"
)

// APIDeps is what an API is made of.
type APIDeps struct {
	Server *Server
	Meta   *MetaMembers
	Data   *DataMembers
	LDAP   *ldap.Users // whom LDAP servers know

	Routes      []Route      // of other packages
	ShardRepair http.Handler // answers below /shard-repair/
	Page        http.Handler // answers at and below /cluster, and knows by itself who is logged in
	// CopyStates are what all owners say of their copies, by shard and owner.
	CopyStates func(context.Context) map[uint64]map[uint64]wire.CopyState
	LeaseTime  time.Duration // for which a lease is granted; 0 for the engine's default
}

// Route is what another package adds to the HTTP API.
type Route struct {
	Pattern  string // as of http.ServeMux
	OnLeader bool   // the leader answers it, as long as a majority follows it, with all that was confirmed before
	Handler  http.HandlerFunc
	Needs    []cluster.Permissions // one of them is enough; nil for administrators alone
}

// API is the HTTP API of a meta node.
type API struct {
	deps    APIDeps
	server  *Server
	guard   *guard
	audit   audit
	news    *news
	leases  *leases
	clocks  *clockReader
	users   *userRoutes
	rules   *restrictionRoutes
	ldap    *ldapRoutes
	members *memberRoutes

	http *http.Server
	stop chan struct{} // closed first of all, ends the long polls
	done chan struct{} // closed when the HTTP server has ended
}

// Serve serves the API until Close.
func Serve(d APIDeps) *API {
	s, stop := d.Server, make(chan struct{})
	if d.LeaseTime == 0 {
		d.LeaseTime = time.Duration(d.Server.deps.Config.Meta.LeaseDuration)
	}
	m := s.deps.Config.Meta
	a := &API{
		deps: d, server: s,
		guard: &guard{
			auth: m.AuthEnabled, secret: m.InternalSharedSecret, tokens: m.SharedSecret, state: s.State,
			passwords: password.NewChecker(), ldap: d.LDAP, tooOld: s.logTooOld,
		},
		news:    &news{server: s, stop: stop},
		leases:  &leases{server: s, time: d.LeaseTime},
		clocks:  &clockReader{server: s, meta: d.Meta, data: d.Data, watch: clocks.NewWatch(s.log)},
		users:   &userRoutes{state: s.State, execute: s.Execute, hash: m.PasswordHash},
		rules:   &restrictionRoutes{state: s.State, execute: s.Execute},
		ldap:    &ldapRoutes{server: s, allowed: m.LDAPAllowed, users: d.LDAP},
		members: &memberRoutes{server: s, meta: d.Meta, data: d.Data},
		stop:    stop, done: make(chan struct{}),
	}
	if m.ClusterTracing {
		a.audit.log = s.log.Named("audit")
	}
	a.http = &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(s.log)}
	go func() {
		defer close(a.done)
		if err := a.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP server ended", zap.Error(err))
		}
	}()
	return a
}

// Close ends the API. Requests in flight get a moment to end.
func (a *API) Close() error {
	close(a.stop)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.http.Shutdown(ctx); err != nil {
		a.http.Close()
	}
	<-a.done
	return nil
}

// handler has every route, with who may use it.
func (a *API) handler() http.Handler {
	r := router{mux: http.NewServeMux(), guard: a.guard, audit: a.audit, server: a.server}
	a.viewRoutes(r)
	a.nodeRoutes(r)
	a.members.routes(r)
	a.users.routes(r)
	a.rules.routes(r)
	a.ldap.routes(r)
	for _, other := range a.deps.Routes {
		need := admin
		if other.Needs != nil {
			need = needs(other.Needs...)
		}
		if other.OnLeader {
			r.confirmed(other.Pattern, need, other.Handler)
		} else {
			r.local(other.Pattern, need, other.Handler)
		}
	}
	if a.server.deps.Config.Meta.PprofEnabled {
		profiles(r)
	}
	r.local("GET /shard-repair/", read, a.deps.ShardRepair.ServeHTTP)
	r.local("/shard-repair/", needs(cluster.ManageShard), a.deps.ShardRepair.ServeHTTP)
	r.local("/cluster", open, a.deps.Page.ServeHTTP)
	r.local("/cluster/", open, a.deps.Page.ServeHTTP)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// The files of a restore and the metadata of another cluster are the large things that are sent here.
		switch {
		case strings.HasPrefix(req.URL.Path, "/restore/"):
		case req.URL.Path == adoptClusterPath:
			req.Body = http.MaxBytesReader(w, req.Body, wire.MaxMetadata)
		default:
			req.Body = http.MaxBytesReader(w, req.Body, wire.MaxBody)
		}
		r.mux.ServeHTTP(&timed{ResponseWriter: w, server: a.server}, req)
	})
}

// profiles are the routes of package net/http/pprof.
func profiles(r router) {
	r.local("GET /debug/pprof/", admin, pprof.Index)
	r.local("GET /debug/pprof/cmdline", admin, pprof.Cmdline)
	r.local("GET /debug/pprof/profile", admin, pprof.Profile)
	r.local("GET /debug/pprof/symbol", admin, pprof.Symbol)
	r.local("GET /debug/pprof/trace", admin, pprof.Trace)
}

// viewRoutes are for people and monitoring.
func (a *API) viewRoutes(r router) {
	r.local("GET /ping", open, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	r.local("GET /status", read, a.serveStatus)
	r.local("GET /metrics", read, a.metrics().ServeHTTP)
	r.local("GET /debug/vars", admin, a.serveVars)
	r.local("GET /show-cluster", needs(cluster.ViewAdmin, cluster.ViewChronograf, cluster.AddRemoveNode,
		cluster.Monitor),
		a.serveCluster)
	r.local("GET /show-shards", needs(shardPermissions...), a.serveShards)
}

// shardPermissions are those of users who work on shards.
var shardPermissions = []cluster.Permissions{cluster.ManageShard, cluster.CopyShard, cluster.Rebalance}

// nodeRoutes are for data nodes and other meta nodes.
func (a *API) nodeRoutes(r router) {
	r.local("GET /identity", internal, func(w http.ResponseWriter, _ *http.Request) {
		Reply(w, a.server.identity(), nil)
	})
	r.local("GET /raft", internal, a.serveRaft)
	r.local("GET /state", internal, a.news.serveState)
	r.leader("GET /latest", internal, a.news.serveLatest)
	r.local("GET /who-is", internal, a.serveWhoIs)
	r.leader("POST /execute", internal, a.serveExecute)
	r.leader("GET /lease", internal, a.leases.serve)
}

// router adds routes, with who may use each and which meta node answers.
type router struct {
	mux    *http.ServeMux
	guard  *guard
	audit  audit
	server *Server
}

// local adds a route that every meta node answers.
func (r router) local(pattern string, need access, fn http.HandlerFunc) {
	r.mux.Handle(pattern, r.audit.wrap(need, r.guard.admits(need, fn)))
}

// leader adds a route that the leader alone answers.
func (r router) leader(pattern string, need access, fn http.HandlerFunc) {
	r.mux.Handle(pattern, r.audit.wrap(need, r.guard.admits(need, toLeader(r.server, fn))))
}

// confirmed adds a route that the leader answers when it has applied all that was confirmed before the request. A
// leader that lost the others, and does not know yet that another one leads, answers with an error.
func (r router) confirmed(pattern string, need access, fn http.HandlerFunc) {
	r.leader(pattern, need, func(w http.ResponseWriter, req *http.Request) {
		if err := r.server.st().confirmLead(); err != nil {
			Reply(w, nil, err)
			return
		}
		fn(w, req)
	})
}

// change adds a route that the leader answers when it has applied all that was committed before it led.
func (r router) change(pattern string, need access, fn func(*http.Request) (any, error)) {
	r.leader(pattern, need, func(w http.ResponseWriter, req *http.Request) {
		if err := r.server.st().caughtUp(); err != nil {
			Reply(w, nil, err)
			return
		}
		v, err := fn(req)
		Reply(w, v, err)
	})
}
