package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"concord/internal/meta/client"
	"concord/internal/meta/metatest"
)

// The plan of a backup is asked of the next meta node when one is cut off from the leader. What has a body is sent
// once.
func TestOperateAsksTheNextMetaNodeForWhatHasNoBody(t *testing.T) {
	t.Parallel()
	serve := func(code int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	cutOff := serve(http.StatusServiceUnavailable, `{"error":"no leader"}`)
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	c.Become(1, 7, cutOff, serve(http.StatusOK, "the plan"))
	for _, tt := range []struct {
		body io.Reader
		want string
	}{
		{nil, "the plan"},
		{strings.NewReader("files"), "meta node " + cutOff + ": no leader"},
	} {
		got := ""
		answer, err := c.Operate(t.Context(), http.MethodGet, "/backup/plan", nil, tt.body)
		if err != nil {
			got = err.Error()
		} else {
			b, err := io.ReadAll(answer)
			answer.Close()
			metatest.OK(t, err)
			got = string(b)
		}
		if got != tt.want {
			t.Errorf("with the body %v: %q, want %q", tt.body, got, tt.want)
		}
	}
}
