package httpclient_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"concord/internal/meta/httpclient"
	"concord/internal/meta/wire"
	"concord/internal/protocol"
	"concord/internal/trust"
)

// newClient returns a client that is closed with the test.
func newClient(t *testing.T, secret trust.Secret) *httpclient.Client {
	c := httpclient.New(nil, secret)
	t.Cleanup(c.Close)
	return c
}

// serve returns the host:port of a meta node that answers as the handler does.
func serve(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// A caller sends a request again by what its error says of it.
func TestErrorSaysWhetherTheRequestWasCarriedOut(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]string{
		200: "body",
		400: "refused, code 400, answered false",
		401: "refused, code 401, answered false",
		503: "refused, code 503, answered true",
		500: "open",
		0:   "refused, code 0, answered false",
	} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if code != 200 {
				w.WriteHeader(code)
			}
			fmt.Fprint(w, "body")
		})
		if code == 0 {
			server = "127.0.0.1:1" // nobody listens
		}
		a, err := newClient(t, "").Do(t.Context(), httpclient.Request{Method: "GET", Server: server, Limit: 100})
		got := string(a.Body)
		var f *httpclient.Refusal
		if errors.As(err, &f) {
			got = fmt.Sprintf("refused, code %d, answered %v", f.Code, f.Answered)
		} else if err != nil {
			got = "open"
		}
		if got != want || a.Code != code {
			t.Errorf("%d: %s, and the code of the answer is %d; want %s", code, got, a.Code, want)
		}
	}
}

// The credentials go to the leader, too, where the first node sends the request.
func TestRequestGoesOnToTheLeaderWithItsCredentials(t *testing.T) {
	t.Parallel()
	const secret = trust.Secret("s")
	leader := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if err := secret.Verify(token); err != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
		w.Header().Set(wire.LeaderHeader, "true")
		w.Header().Set(wire.ClockHeader, "7")
		fmt.Fprint(w, r.URL.Path)
	})
	follower := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+leader+r.URL.Path, http.StatusTemporaryRedirect)
	})
	a, err := newClient(t, secret).Do(t.Context(), httpclient.Request{
		Method: "POST", Server: follower, Path: "/execute", Body: []byte("{}"), Limit: 100,
	})
	if err != nil || string(a.Body) != "/execute" || a.From != leader || !a.Leads || a.Clock != 7 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNodesThatSendEachOtherRequestsAreNotFollowedForEver(t *testing.T) {
	t.Parallel()
	node := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
	})
	_, err := newClient(t, "").Do(t.Context(), httpclient.Request{Method: "GET", Server: node, Limit: 100})
	if err == nil || !strings.Contains(err.Error(), "do not agree who leads") {
		t.Error(err)
	}
}

func TestRefusedSecretSaysWhatToSet(t *testing.T) {
	t.Parallel()
	node := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	_, err := newClient(t, "s").Ask(t.Context(), "GET", node, "/identity", nil)
	if err == nil || !strings.Contains(err.Error(), "internal-shared-secret must be the same on all nodes") {
		t.Error(err)
	}
}

// A node tells its version with each request, and does not take the answer of a node that is too old for it.
func TestAnswersOfNodesThatAreTooOldAreRefused(t *testing.T) {
	t.Parallel()
	for theirs, taken := range map[string]bool{"": false, "1": false, "2": true, "3": true} {
		told := make(chan string, 1)
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			told <- r.Header.Get(protocol.Header)
			if theirs != "" {
				w.Header().Set(protocol.Header, theirs)
			}
		})
		c := newClient(t, "")
		c.Speaks = protocol.Speaks{Current: 3, Oldest: 2}
		_, err := c.Do(t.Context(), httpclient.Request{Method: "GET", Server: server, Limit: 100})
		if (err == nil) != taken || err != nil && (!errors.Is(err, protocol.ErrTooOld) ||
			!errors.As(err, new(*httpclient.Refusal))) {
			t.Errorf("version %q: %v", theirs, err)
		}
		if got := <-told; got != "3" {
			t.Errorf("the node says that it speaks version %q", got)
		}
	}
}
