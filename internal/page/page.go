package page

import (
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy/api"
	"concord/internal/entropy/routes"
	"concord/internal/entropy/view"
	"concord/internal/meta/password"
	"concord/internal/rpc"
)

// Base is the path of the page. All that it asks for is below.
const Base = "/cluster"

// maxRequest bounds the body of a request, in bytes.
const maxRequest = 256 << 10

//go:embed static
var embedded embed.FS

// Deps is what a page is made of.
type Deps struct {
	Address string // HTTP address of this node, for people
	Kind    string // data or meta
	Version string

	State   func() *cluster.State
	View    *view.View
	Pool    *rpc.Pool          // to data nodes
	Own     rpc.OverviewServer // of this data node; nil on meta nodes
	AskRaft AskRaft

	Logins *Logins
	// answers /query with basic authentication, for which the token of a login is a password, too; nil on meta nodes
	Query http.Handler
	Log   *zap.Logger
}

// Page serves the page.
type Page struct {
	deps   Deps
	hub    *hub
	loads  loads
	repair http.Handler
	static http.Handler
	etag   string // of all files of the page
}

// New returns the page of a node.
func New(d Deps) *Page {
	p := &Page{deps: d, hub: newHub(d)}
	p.repair = routes.NewHandler(d.View, userOf)
	files, err := fs.Sub(embedded, "static")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	p.static = http.StripPrefix(Base+"/static", http.FileServerFS(files))
	p.etag = etagOf(files)
	return p
}

// etagOf names what files contain. The version of the program does not: builds from a checkout have the same one.
func etagOf(files fs.FS) string {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, path)
		fmt.Fprintf(sum, "%s %d\n", path, len(b))
		sum.Write(b)
		return err
	})
	if err != nil {
		panic(err) // the folder is part of the program
	}
	return fmt.Sprintf("\"%x\"", sum.Sum(nil)[:16])
}

// Close ends all streams. The page answers other requests after it.
func (p *Page) Close() error {
	p.hub.close()
	return nil
}

// access is who may use a route when authentication is on.
type access int

const (
	everybody access = iota
	users            // every user; what is of databases that it may not read is left out
	admins
)

// Route is a route of the page.
type Route struct {
	Method string
	Path   string // below Base; one that ends in a slash is for all below it
	need   access
	serve  func(*Page, http.ResponseWriter, *http.Request, *login) error

	permission cluster.Permissions // of administrators: what they need
}

// Public reports whether everybody may use the route.
func (r Route) Public() bool { return r.need == everybody }

// Admin reports whether the route needs an administrator.
func (r Route) Admin() bool { return r.need == admins }

// Routes are all routes of the page.
func Routes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "", serve: (*Page).index},
		{Method: http.MethodGet, Path: "/static/", serve: (*Page).file},
		{Method: http.MethodGet, Path: "/session", serve: (*Page).session},
		{Method: http.MethodPost, Path: "/login", serve: (*Page).login},
		{Method: http.MethodPost, Path: "/logout", serve: (*Page).logout},
		{Method: http.MethodGet, Path: "/state", need: users, serve: (*Page).state},
		{Method: http.MethodGet, Path: "/events", need: users, serve: (*Page).events},
		{Method: http.MethodGet, Path: "/shard", need: users, serve: (*Page).shard},
		{Method: http.MethodPost, Path: "/query", need: users, serve: (*Page).query},
		{Method: http.MethodGet, Path: "/load", need: admins, permission: cluster.ViewAdmin, serve: (*Page).load},
		{Method: http.MethodPost, Path: "/kill-query", need: admins, permission: cluster.ManageQuery,
			serve: (*Page).killQuery},
		// Anti-entropy has its own rules besides.
		{Method: http.MethodGet, Path: api.Base + "/", need: users, serve: (*Page).shardRepair},
		{Method: http.MethodPost, Path: api.Base + "/", need: admins, permission: cluster.ManageShard,
			serve: (*Page).shardRepair},
	}
}

var all = Routes()

// find returns the route of a request, or the methods that its path has.
func find(r *http.Request) (found Route, ok bool, methods []string) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	below := strings.TrimPrefix(r.URL.Path, Base)
	for _, rt := range all {
		match := below == rt.Path || strings.HasSuffix(rt.Path, "/") && strings.HasPrefix(below, rt.Path)
		if match && rt.Method == method {
			return rt, true, nil
		} else if match {
			methods = append(methods, rt.Method)
		}
	}
	return found, false, methods
}

// statusError is an error with the status of its answer.
type statusError struct {
	code int
	error
}

func badRequest(format string, args ...any) error {
	return statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// userKey is the user of a request in its context.
type userKey struct{}

func userOf(r *http.Request) emeta.User {
	u, _ := r.Context().Value(userKey{}).(emeta.User)
	return u
}

var crossSite = http.NewCrossOriginProtection()

// ServeHTTP serves what is at and below Base.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.URL.Path == Base+"/" {
		http.Redirect(w, r, Base, http.StatusPermanentRedirect)
		return
	}
	if err := p.serve(w, r); err != nil {
		code := http.StatusInternalServerError
		var status statusError
		switch {
		case errors.As(err, &status):
			code = status.code
		case errors.Is(err, errNeedsLogin), errors.Is(err, errWrong), errors.Is(err, errNoUser):
			code = http.StatusUnauthorized
			// Not Basic: a browser would ask for a password, keep it, and send it for pages of other sites, too.
			h.Set("WWW-Authenticate", `Login realm="InfluxDB"`)
		case errors.Is(err, errNeedsAdmin):
			code = http.StatusForbidden
		case errors.Is(err, errTooMany), errors.Is(err, password.ErrBusy):
			code = http.StatusServiceUnavailable
			h.Set("Retry-After", "5")
		}
		answer(w, code, map[string]string{"error": err.Error()})
	}
}

// serve checks who sends a request, and from where, before it is answered.
func (p *Page) serve(w http.ResponseWriter, r *http.Request) error {
	rt, ok, methods := find(r)
	if !ok && methods != nil {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		may := strings.Join(methods, " and ")
		return statusError{http.StatusMethodNotAllowed, fmt.Errorf("%s is for %s", r.URL.Path, may)}
	} else if !ok {
		return statusError{http.StatusNotFound, fmt.Errorf("%s is not a path of the page", r.URL.Path)}
	}
	if r.Method == http.MethodPost {
		if err := ownSite(r); err != nil {
			return err
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	}
	if rt.need == everybody {
		return rt.serve(p, w, r, nil)
	}
	l, err := p.deps.Logins.of(r)
	if err != nil {
		return err
	}
	if rt.need == admins && !cluster.May(l.user(), rt.permission, "") {
		return errNeedsAdmin
	}
	return rt.serve(p, w, r, l)
}

// ownSite refuses what a page of another site may make a browser send with the credentials of its user. A form cannot
// send JSON, and a script of another site may not.
func ownSite(r *http.Request) error {
	if err := crossSite.Check(r); err != nil {
		return statusError{http.StatusForbidden, fmt.Errorf("a page of another site may not do this: %w", err)}
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(t) != "application/json" {
		return statusError{http.StatusUnsupportedMediaType, errors.New("send Content-Type: application/json")}
	}
	return nil
}

func answer(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"cannot encode the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

// read decodes the body of a request.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest("malformed JSON in the body: %v", err)
	}
	return nil
}

func (p *Page) index(w http.ResponseWriter, r *http.Request, _ *login) error {
	r.URL.Path = Base + "/static/"
	return p.file(w, r, nil)
}

// file serves a file of the page. The browser asks whether what it has is still right.
func (p *Page) file(w http.ResponseWriter, r *http.Request, _ *login) error {
	if name := path.Clean(r.URL.Path); strings.HasSuffix(r.URL.Path, "/") && name != Base+"/static" {
		return statusError{http.StatusNotFound, fmt.Errorf("%s is not a path of the page", r.URL.Path)}
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", p.etag)
	p.static.ServeHTTP(w, r)
	return nil
}

// Session is what GET /cluster/session answers: whether the page has to ask for a login.
type Session struct {
	Auth  bool   `json:"auth"`           // clients must log in
	User  string `json:"user,omitempty"` // who is logged in
	Admin bool   `json:"admin"`          // may do everything; also when authentication is off
	Ready bool   `json:"ready"`          // a request for the state would be answered
	Query bool   `json:"query"`          // this node answers queries
}

func (p *Page) session(w http.ResponseWriter, r *http.Request, _ *login) error {
	out := Session{Auth: p.deps.Logins.deps.On, Query: p.deps.Query != nil}
	if l, err := p.deps.Logins.of(r); err == nil {
		out.User, out.Admin, out.Ready = l.name, isAdmin(l.user()), true
	}
	answer(w, http.StatusOK, out)
	return nil
}

func (p *Page) login(w http.ResponseWriter, r *http.Request, _ *login) error {
	var given struct{ Username, Password string }
	if err := read(r, &given); err != nil {
		return err
	}
	if !p.deps.Logins.deps.On {
		return badRequest("nobody has to log in: authentication is off")
	}
	l, err := p.deps.Logins.begin(given.Username, given.Password)
	if err != nil {
		return err
	}
	http.SetCookie(w, cookie(r, l.token))
	answer(w, http.StatusOK, Session{
		Auth: true, User: l.name, Admin: isAdmin(l.user()), Ready: true, Query: p.deps.Query != nil,
	})
	return nil
}

func (p *Page) logout(w http.ResponseWriter, r *http.Request, _ *login) error {
	if c, err := r.Cookie(cookieName(r)); err == nil {
		if l := p.deps.Logins.find(c.Value); l != nil {
			p.deps.Logins.end(l)
			p.hub.soon() // its streams end
		}
	}
	http.SetCookie(w, cookie(r, ""))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *Page) state(w http.ResponseWriter, r *http.Request, l *login) error {
	snap, err := p.hub.now(r.Context(), fresh)
	if err != nil {
		return unavailable(err)
	}
	answer(w, http.StatusOK, build(snap, p.deps, l.user()))
	return nil
}

// unavailable is the answer while this node cannot say how the cluster is.
func unavailable(err error) error {
	if errors.Is(err, errTooMany) {
		return err
	}
	return statusError{http.StatusServiceUnavailable, err}
}

// events streams the state, and then what changes.
func (p *Page) events(w http.ResponseWriter, r *http.Request, l *login) error {
	s, err := p.hub.open(r.Context(), l)
	if err != nil {
		return unavailable(err)
	}
	defer p.hub.leave(s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy in between is to pass on each message
	out := http.NewResponseController(w)
	send := func(m []byte) bool {
		// A page that is gone, and whose connection does not end, holds nobody up.
		_ = out.SetWriteDeadline(time.Now().Add(2 * signOfLife))
		if _, err := w.Write(m); err != nil {
			return false
		}
		return out.Flush() == nil
	}
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }()
	if !send([]byte("retry: 2000\n\n")) {
		return nil
	}
	alive := time.NewTicker(signOfLife)
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case m, ok := <-s.messages:
			if !ok || !send(m) {
				return nil
			}
		case <-alive.C:
			if !send([]byte(":\n\n")) {
				return nil
			}
		}
	}
}
