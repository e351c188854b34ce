package ctl_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestACommandOverTLSUsesOneConnection(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"entropy watch -interval 1ms",
		"leave -y -data data1:8088", // with clients of two timeouts
	} {
		var looks, connections atomic.Int64
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/shard-repair/repairs" && looks.Add(1) < 10 {
				fmt.Fprint(w, `{"repairs":[{"id":"1","state":"running","node":"data1:8088","added":"1","ended":"0"}]}`)
				return
			}
			fmt.Fprint(w, answers[r.Method+" "+r.URL.Path])
		}))
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections.Add(1)
			}
		}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		if out, err := run(t, srv.Listener.Addr().String(), strings.Fields("-bind-tls -k "+args)...); err != nil {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("%s: %d connections, want 1", args, n)
		}
	}
}
