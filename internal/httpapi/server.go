// Package httpapi serves the engine's HTTP API to clients.
//
// The engine's own HTTP service hands requests to its handler as they come. Here every request first passes bounds.go,
// which refuses what could take more memory or time than a request may.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/httpd"
	"go.uber.org/zap"

	"concord/internal/budget"
)

const (
	// headerTimeout is how long a client may take to send the header of a request.
	headerTimeout = time.Minute
	// closeTimeout is how long requests may go on when the server closes.
	closeTimeout = 10 * time.Second
)

// Server is the HTTP API of one node: the engine's handler on a TCP port and, when asked for, a Unix socket.
type Server struct {
	Handler *httpd.Handler // to be completed before Open
	Values  func() int64   // how many fields clients have written; to be set before Open
	Page    http.Handler   // of the cluster, nil for none; to be set before Open
	// OneRequest returns a handler for one read of Prometheus or one delete of /api/v2, in place of another one; nil
	// for that one. It may be nil; to be set before Open.
	OneRequest func(*httpd.Handler) *httpd.Handler

	// Deletes answers /api/v2/delete in place of Handler, nil for Handler itself; to be set before Open. The engine
	// asks one authorizer who may write and who may delete: so these are two handlers with an authorizer each.
	Deletes *httpd.Handler

	cfg   httpd.Config
	certs *tlsconfig.TLSCertMonitor
	log   *zap.Logger
	http  http.Server

	serving sync.WaitGroup
	tls     *tlsconfig.TLSConfigManager // nil before Open
}

// New returns a server that Open starts. Queries take their memory from the budget, and their statements find their
// request in requests. What clients ask is counted in load.
func New(
	cfg httpd.Config, certs *tlsconfig.TLSCertMonitor, queries *budget.Budget, requests *budget.Requests, load *Load,
) *Server {
	s := &Server{Handler: httpd.NewHandler(cfg), cfg: cfg, certs: certs, log: zap.NewNop()}
	load.CountPoints(func() int64 {
		n, _ := s.Handler.Statistics(nil)[0].Values["pointsWrittenOK"].(int64)
		return n
	})
	s.http.Handler = &bounds{
		next: s.Handler, maxBody: int64(cfg.MaxBodySize), queries: queries,
		requests: requests, load: load, page: &s.Page, deletes: &s.Deletes,
		one: &s.OneRequest,
	}
	s.http.ReadHeaderTimeout = headerTimeout
	return s
}

// WithLogger sets the logger; call it before Open.
func (s *Server) WithLogger(log *zap.Logger) {
	s.log = log.With(zap.String("service", "httpd"))
	s.Handler.Logger = s.log
	if s.Deletes != nil {
		s.Deletes.Logger = s.log
	}
}

// Open listens and begins to serve.
func (s *Server) Open() (err error) {
	s.Handler.Open()
	if s.Deletes != nil {
		s.Deletes.Open()
	}
	s.tls, err = tlsconfig.NewServerTLSConfigManager(s.certs,
		append(s.cfg.TLSManagerOpts(), tlsconfig.WithLogger(s.log))...)
	if err != nil {
		return fmt.Errorf("[http] https: %w", err)
	}
	ln, err := s.tls.Listen("tcp", s.cfg.BindAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on [http] bind-address %s: %w", s.cfg.BindAddress, err), s.tls.Close())
	}
	listeners := []net.Listener{ln}
	if s.cfg.MaxConnectionLimit > 0 {
		listeners[0] = httpd.LimitListener(ln, s.cfg.MaxConnectionLimit)
	}
	if s.cfg.UnixSocketEnabled {
		socket, err := s.listenUnix()
		if err != nil {
			return errors.Join(fmt.Errorf("[http] bind-socket %s: %w", s.cfg.BindSocket, err), ln.Close(),
				s.tls.Close())
		}
		listeners = append(listeners, socket)
	}
	for _, ln := range listeners {
		s.serving.Go(func() {
			if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("Serving HTTP ended", zap.Stringer("addr", ln.Addr()), zap.Error(err))
			}
		})
		s.log.Info("Listening on HTTP", zap.Stringer("addr", ln.Addr()), zap.Bool("https", s.cfg.HTTPSEnabled))
	}
	return nil
}

// listenUnix makes the socket anew: a process that was killed leaves its own behind.
func (s *Server) listenUnix() (net.Listener, error) {
	path := s.cfg.BindSocket
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if p := s.cfg.UnixSocketPermissions; p != 0 {
		err = os.Chmod(path, os.FileMode(p))
	}
	if g := s.cfg.UnixSocketGroup; err == nil && g != nil && *g != 0 {
		err = os.Chown(path, -1, int(*g))
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Close waits for the requests that are under way, for ten seconds at most.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.serving.Wait()
	s.Handler.Close()
	if s.Deletes != nil {
		s.Deletes.Close()
	}
	return errors.Join(err, s.tls.Close())
}

// ServeHTTP answers a request of another part of this process, within the bounds of those of clients.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.Handler.ServeHTTP(w, r) }

// Statistics are those of the handlers, with valuesWrittenOK, which the engine does not count.
func (s *Server) Statistics(tags map[string]string) []models.Statistic {
	out := s.Handler.Statistics(models.NewTags(map[string]string{"bind": s.cfg.BindAddress}).Merge(tags).Map())
	if s.Deletes != nil {
		for name, v := range s.Deletes.Statistics(nil)[0].Values {
			total, ok := out[0].Values[name].(int64)
			if more, isInt := v.(int64); ok && isInt {
				out[0].Values[name] = total + more
			}
		}
	}
	if s.Values != nil {
		out[0].Values["valuesWrittenOK"] = s.Values()
	}
	return out
}

// PrepareReload checks the certificates of a new configuration. The function that it returns uses them.
func (s *Server) PrepareReload(cfg httpd.Config) (apply func() error, err error) {
	if cfg.HTTPSEnabled != s.cfg.HTTPSEnabled {
		return nil, errors.New("https-enabled cannot change while the node runs")
	}
	return s.tls.PrepareReconfigure(cfg.TLSManagerOpts()...)
}
