package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/httpd"

	"concord/internal/budget"
)

// open starts a server on a loopback port and a Unix socket, and returns how to reach it.
func open(t *testing.T, config func(*httpd.Config)) (tcp, unix *http.Client, s *Server) {
	t.Helper()
	cfg := httpd.NewConfig()
	cfg.LogEnabled = false
	cfg.UnixSocketEnabled, cfg.BindSocket = true, filepath.Join(t.TempDir(), "sub", "http.sock")
	if config != nil {
		config(&cfg)
	}
	certs := tlsconfig.NewTLSCertMonitor()
	if err := certs.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { certs.Close() })
	for tries := 1; s == nil; tries++ {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.BindAddress = ln.Addr().String()
		ln.Close()
		opening := New(Deps{
			Config: cfg, Certs: certs, Handler: httpd.NewHandler(cfg), Requests: &budget.Requests{}, Load: &Load{},
		})
		err = opening.Open()
		switch {
		case err == nil:
			s = opening
		case !errors.Is(err, syscall.EADDRINUSE) || tries == 100: // another test may have taken the port in between
			t.Fatal(err)
		}
	}
	dial := func(network, addr string) *http.Client {
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	return dial("tcp", cfg.BindAddress), dial("unix", cfg.BindSocket), s
}

func TestServesOnAPortAndASocketUntilClosed(t *testing.T) {
	t.Parallel()
	tcp, unix, s := open(t, nil)
	for name, c := range map[string]*http.Client{"tcp": tcp, "unix": unix} {
		resp, err := c.Get("http://node/ping")
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	tcp.CloseIdleConnections()
	unix.CloseIdleConnections()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]*http.Client{"tcp": tcp, "unix": unix} {
		if _, err := c.Get("http://node/ping"); err == nil {
			t.Errorf("%s still answers", name)
		}
	}
}

// A client that sends a write and never ends it must not make a stop fail.
func TestCloseEndsRequestsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	_, _, s := open(t, nil)
	s.patience = 50 * time.Millisecond
	conn, err := net.Dial("tcp", s.deps.Config.BindAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The answer 100 shows that the server has begun to read the body.
	fmt.Fprint(conn, "POST /api/v2/delete HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
	answer := bufio.NewReader(conn)
	if line, err := answer.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(answer); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	t.Parallel()
	tcp, _, s := open(t, func(c *httpd.Config) { c.MaxConnectionLimit = 1 })
	defer s.Close()
	first, err := net.Dial("tcp", s.deps.Config.BindAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := tcp.Get("http://node/ping"); err == nil {
		t.Error("a second connection is served")
	}
}
