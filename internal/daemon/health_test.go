package daemon

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPing(t *testing.T) {
	t.Parallel()
	var answer atomic.Int32
	answer.Store(http.StatusNoContent)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ping" {
			t.Errorf("asks for %s", r.URL.Path)
		}
		w.WriteHeader(int(answer.Load()))
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	of := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	_, port, _ := net.SplitHostPort(of(plain))
	if err := ping(of(plain), false); err != nil {
		t.Error(err)
	}
	if err := ping(":"+port, false); err != nil {
		t.Errorf("without a host: %v", err)
	}
	if err := ping(of(secure), true); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	answer.Store(http.StatusServiceUnavailable)
	if err := ping(of(plain), false); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a node that refuses is healthy: %v", err)
	}
	plain.Close()
	if err := ping(of(plain), false); err == nil {
		t.Error("a node that does not run is healthy")
	}
}
