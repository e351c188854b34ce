package page

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/entropy"
)

// secured is the page of a cluster whose clients must log in.
func secured(t *testing.T, change func(*Deps)) (*testCluster, *Page) {
	t.Helper()
	c := newCluster(t, 4)
	c.deps.Logins = NewLogins(LoginDeps{On: true, State: c.deps.State})
	if change != nil {
		change(&c.deps)
	}
	p := New(c.deps)
	t.Cleanup(func() { p.Close() })
	return c, p
}

// request asks the page; change may be nil.
func request(p *Page, method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://data1:8086"+Base+path, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// as adds basic authentication.
func as(user string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, "pw") }
}

// loggedIn logs in with the form, and adds the cookie.
func loggedIn(t *testing.T, p *Page, user string) func(*http.Request) {
	t.Helper()
	w := request(p, http.MethodPost, "/login", `{"username":"`+user+`","password":"pw"}`, nil)
	cookies := w.Result().Cookies()
	if w.Code != http.StatusOK || len(cookies) != 1 {
		t.Fatalf("login: %d %s", w.Code, w.Body)
	}
	c := cookies[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != Base || c.Name != "concord-login-8086" {
		t.Errorf("the cookie is %s", c)
	}
	return func(r *http.Request) { r.AddCookie(c) }
}

// example is the path of a request that a route answers.
func example(r Route) string {
	switch r.Path {
	case "/shard":
		return "/shard?id=1"
	case "/shard-repair/":
		if r.Method == http.MethodPost {
			return "/shard-repair/pause"
		}
		return "/shard-repair/status"
	}
	return r.Path
}

func TestEveryRouteRefusesWhoMayNotUseIt(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	for _, r := range Routes() {
		if r.Public() {
			continue
		}
		name := r.Method + " " + r.Path
		w := request(p, r.Method, example(r), "{}", nil)
		if w.Code != http.StatusUnauthorized || strings.Contains(w.Body.String(), "shards") {
			t.Errorf("%s by nobody: %d %.200s", name, w.Code, w.Body)
		}
		if basic := w.Header().Get("WWW-Authenticate"); basic == "" || strings.HasPrefix(basic, "Basic") {
			t.Errorf("%s asks a browser for a password that it keeps: %q", name, basic)
		}
		for _, bad := range []func(*http.Request){
			func(r *http.Request) { r.SetBasicAuth("root", "wrong") },
			func(r *http.Request) { r.SetBasicAuth("nobody", "pw") },
			func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "concord-login-8086", Value: "made up"}) },
		} {
			if w := request(p, r.Method, example(r), "{}", bad); w.Code != http.StatusUnauthorized {
				t.Errorf("%s with wrong credentials: %d %.200s", name, w.Code, w.Body)
			}
		}
		for _, user := range []func(*http.Request){as("paul"), loggedIn(t, p, "paul")} {
			if r.Path == "/events" {
				continue // it goes on; TestEventsAreStreamed reads it
			}
			if w := request(p, r.Method, example(r), "{}", user); r.Admin() && w.Code != http.StatusForbidden {
				t.Errorf("%s by a reader: %d %.200s", name, w.Code, w.Body)
			}
		}
	}
	for i, n := range c.Nodes {
		if n.Control.Paused {
			t.Errorf("node %d is paused", i+1)
		}
	}
	for _, call := range []string{"/shard-repair/diff?id=1", "/shard-repair/repairs"} {
		if w := request(p, http.MethodGet, call, "", as("paul")); w.Code != http.StatusForbidden {
			t.Errorf("%s by a reader: %d", call, w.Code)
		}
	}
	if w := request(p, http.MethodGet, "/shard?id=2", "", as("paul")); w.Code != http.StatusNotFound {
		t.Errorf("a shard of another database: %d %s", w.Code, w.Body)
	}
}

func TestPagesOfOtherSitesCanDoNothing(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	root := loggedIn(t, p, "root")
	for _, r := range Routes() {
		if r.Method != http.MethodPost {
			continue
		}
		for _, credentials := range []func(*http.Request){root, as("root")} {
			for what, change := range map[string]func(*http.Request){
				"another site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
				"another port":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
				"an old browser": func(r *http.Request) { r.Header.Set("Origin", "http://elsewhere.example") },
				"a form": func(r *http.Request) {
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				},
				"a form of another kind": func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
				"a form without a type":  func(r *http.Request) { r.Header.Del("Content-Type") },
			} {
				w := request(p, r.Method, example(r), "{}", func(r *http.Request) { credentials(r); change(r) })
				if w.Code != http.StatusForbidden && w.Code != http.StatusUnsupportedMediaType {
					t.Errorf("%s from %s: %d %.200s", r.Path, what, w.Code, w.Body)
				}
			}
		}
	}
	if c.Nodes[0].Control.Paused {
		t.Error("repairs are paused")
	}
	own := func(r *http.Request) { root(r); r.Header.Set("Sec-Fetch-Site", "same-origin") }
	w := request(p, http.MethodPost, "/shard-repair/pause", "{}", own)
	if w.Code != http.StatusNoContent || !c.Nodes[0].Control.Paused {
		t.Errorf("from its own page: %d %s", w.Code, w.Body)
	}
}

func TestALoginEnds(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	now := time.Now()
	p.deps.Logins.now = func() time.Time { return now }
	code := func(user func(*http.Request)) int { return request(p, http.MethodGet, "/state", "", user).Code }

	user := loggedIn(t, p, "paul")
	for range 5 { // it is used, and goes on
		now = now.Add(idleLogin - time.Minute)
		if got := code(user); got != http.StatusOK {
			t.Fatalf("while it is used: %d", got)
		}
	}
	now = now.Add(idleLogin + time.Second)
	if got := code(user); got != http.StatusUnauthorized {
		t.Errorf("when it was not used for long: %d", got)
	}

	user = loggedIn(t, p, "paul")
	for range 2 * int(longLogin/idleLogin) {
		now = now.Add(idleLogin / 2)
		code(user)
	}
	now = now.Add(time.Second)
	if got := code(user); got != http.StatusUnauthorized {
		t.Errorf("after the longest time: %d", got)
	}

	user = loggedIn(t, p, "paul")
	w := request(p, http.MethodPost, "/logout", "{}", user)
	if w.Code != http.StatusNoContent || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("logout: %d %v", w.Code, w.Result().Cookies())
	}
	if got := code(user); got != http.StatusUnauthorized {
		t.Errorf("after logging out: %d", got)
	}

	user = loggedIn(t, p, "paul")
	c.SetUsers(func(all []emeta.UserInfo) []emeta.UserInfo {
		all[0].Hash = all[0].Hash[:len(all[0].Hash)-1] + "x"
		return all
	})
	if got := code(user); got != http.StatusUnauthorized {
		t.Errorf("after a new password: %d", got)
	}
}

func TestLoginsAreBounded(t *testing.T) {
	t.Parallel()
	_, p := secured(t, nil)
	now := time.Now()
	p.deps.Logins.now = func() time.Time { return now }
	first := loggedIn(t, p, "root")
	for range maxLogins {
		now = now.Add(time.Millisecond)
		if _, err := p.deps.Logins.begin("paul", "pw"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.deps.Logins.logins); n > maxLogins {
		t.Errorf("%d logins are remembered", n)
	}
	if w := request(p, http.MethodGet, "/state", "", first); w.Code != http.StatusUnauthorized {
		t.Errorf("the oldest login is still there: %d", w.Code)
	}
}

func TestWithoutAnAdministratorNobodyLogsIn(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	c.SetUsers(func(all []emeta.UserInfo) []emeta.UserInfo { return all[:1] })
	w := request(p, http.MethodPost, "/login", `{"username":"paul","password":"pw"}`, nil)
	if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "CREATE USER") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWithoutAuthenticationEverybodyMayDoEverything(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	p := New(c.deps)
	defer p.Close()
	w := request(p, http.MethodGet, "/session", "", nil)
	var s Session
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || s.Auth || !s.Admin || !s.Ready {
		t.Errorf("%s %v", w.Body, err)
	}
	c.Nodes[0].Control.Records = []entropy.RepairRecord{{ShardID: 2, State: entropy.Running}}
	state := stateOf(t, p, nil)
	if len(state.Shards) != 4 || len(state.Repairs) != 1 ||
		state.Meta["9"].State != "leader" || state.Policies["open.autogen"].Shards != 2 {
		t.Errorf("%+v", state)
	}
	for began := time.Now(); ; { // the node may be late
		w = request(p, http.MethodPost, "/kill-query", `{"node":"2","id":"77"}`, nil)
		if w.Code != http.StatusInternalServerError || time.Since(began) > patience {
			break
		}
	}
	if w.Code != http.StatusNoContent || c.Nodes[1].Killed()[0] != 77 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, bad := range []string{`{}`, `{"node":"5","id":"1"}`, `{"node":"2","id":"x"}`, `{"other":1}`, `[`} {
		if w := request(p, http.MethodPost, "/kill-query", bad, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
}

func TestEventsAreStreamed(t *testing.T) {
	t.Parallel()
	_, p := secured(t, nil)
	s := httptest.NewServer(p)
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+Base+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	as("paul")(r)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	var got []string
	for len(got) < 3 && lines.Scan() {
		if lines.Text() != "" {
			got = append(got, lines.Text())
		}
	}
	if resp.Header.Get("Content-Type") != "text/event-stream" || len(got) < 3 || got[1] != "event: state" ||
		!strings.Contains(got[2], `"open"`) || strings.Contains(got[2], "secret") {
		t.Fatalf("%s %q", resp.Header.Get("Content-Type"), got)
	}
	p.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestQueryRunsAsTheUserOfThePage(t *testing.T) {
	t.Parallel()
	var p *Page
	engine := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, token, _ := r.BasicAuth()
		user := p.deps.Logins.Token(name, token)
		if user == nil && token != "pw" {
			http.Error(w, "not authenticated", http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/query" && r.FormValue("q") == "large" {
			for range 20 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}
		fmt.Fprintf(w, `{"user":%q,"q":%q,"db":%q}`, name, r.FormValue("q"), r.FormValue("db"))
	})
	_, p = secured(t, func(d *Deps) { d.Query = engine })
	for _, user := range []func(*http.Request){as("paul"), loggedIn(t, p, "paul")} {
		w := request(p, http.MethodPost, "/query", `{"q":"SHOW DATABASES","db":"open"}`, user)
		if want := `{"user":"paul","q":"SHOW DATABASES","db":"open"}`; w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	w := request(p, http.MethodPost, "/query", `{"q":"large"}`, as("paul"))
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("an answer that is too large: %d %.100s", w.Code, w.Body)
	}
	if p.deps.Logins.Token("root", "") != nil || p.deps.Logins.Token("root", "made up") != nil {
		t.Error("a token that nobody has logs in")
	}
	l, err := p.deps.Logins.begin("paul", "pw")
	if err != nil {
		t.Fatal(err)
	}
	if p.deps.Logins.Token("root", l.token) != nil {
		t.Error("the token of one user logs another one in")
	}
}

func TestFilesOfThePageHaveNothingInline(t *testing.T) {
	t.Parallel()
	_, p := secured(t, nil)
	w := request(p, http.MethodGet, "", "", nil)
	policy := w.Header().Get("Content-Security-Policy")
	if w.Code != http.StatusOK || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("%d %q", w.Code, policy)
	}
	index := w.Body.String()
	for _, bad := range []string{"<style", "style=", "onclick", "<script>", "http:", "https:"} {
		if strings.Contains(index, bad) {
			t.Errorf("index.html has %s", bad)
		}
	}
	err := fs.WalkDir(embedded, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(name, "uplot") {
			return err
		}
		b, err := fs.ReadFile(embedded, name)
		if err != nil {
			return err
		}
		for _, bad := range []string{"innerHTML", "eval(", "document.write", "insertAdjacentHTML", "new Function"} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s has %s", name, bad)
			}
		}
		if w := request(p, http.MethodGet, "/"+name, "", nil); name != "static/index.html" && w.Code != http.StatusOK {
			t.Errorf("%s: %d", name, w.Code)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"/static/views/", "/static/../page.go", "/nothing", "/static/nothing.js"} {
		if w := request(p, http.MethodGet, gone, "", nil); w.Code == http.StatusOK {
			t.Errorf("%s: %d", gone, w.Code)
		}
	}
	w = request(p, http.MethodDelete, "/state", "", nil)
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
		t.Errorf("DELETE: %d %s", w.Code, w.Header().Get("Allow"))
	}
}
