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

// Deps is what a server is made of.
type Deps struct {
	Config httpd.Config
	Certs  *tlsconfig.TLSCertMonitor

	Handler *httpd.Handler // answers what is within bounds
	// Deletes answers /api/v2/delete in place of Handler, nil for Handler itself. The engine asks one authorizer who
	// may write and who may delete: so these are two handlers with an authorizer each.
	Deletes *httpd.Handler
	// OneRequest returns a handler for one read of Prometheus or one delete of /api/v2, in place of another one; nil
	// for that one. It may be nil.
	OneRequest func(*httpd.Handler) *httpd.Handler
	// Page returns the page of the cluster, which asks its queries of a handler; it is nil for no page.
	Page func(queries http.Handler) Page

	Queries  *budget.Budget   // from which queries take their memory; nil for no limit
	Requests *budget.Requests // where statements find their request
	Load     *Load            // counts what clients ask
	Values   func() int64     // how many fields clients have written; nil for unknown
}

// Page is the page of the cluster. Close ends its streams.
type Page interface {
	http.Handler
	Close() error
}

// Server is the HTTP API of one node: the engine's handler on a TCP port and, when asked for, a Unix socket.
type Server struct {
	deps Deps
	log  *zap.Logger
	http http.Server
	page Page // nil for none

	patience time.Duration // for how long Close waits for requests: closeTimeout

	serving sync.WaitGroup
	tls     *tlsconfig.TLSConfigManager // nil before Open
}

// New returns a server that Open starts.
func New(d Deps) *Server {
	s := &Server{deps: d, log: zap.NewNop(), patience: closeTimeout}
	d.Load.CountPoints(func() int64 {
		n, _ := d.Handler.Statistics(nil)[0].Values["pointsWrittenOK"].(int64)
		return n
	})
	b := &bounds{
		next: d.Handler, maxBody: int64(d.Config.MaxBodySize), queries: d.Queries,
		requests: d.Requests, load: d.Load, deletes: d.Deletes, one: d.OneRequest,
	}
	if d.Page != nil {
		s.page = d.Page(b)
		b.page = s.page
	}
	s.http.Handler, s.http.ReadHeaderTimeout = b, headerTimeout
	return s
}

// WithLogger sets the logger; call it before Open.
func (s *Server) WithLogger(log *zap.Logger) {
	s.log = log.With(zap.String("service", "httpd"))
	s.deps.Handler.Logger = s.log
	if s.deps.Deletes != nil {
		s.deps.Deletes.Logger = s.log
	}
}

// Open listens and begins to serve.
func (s *Server) Open() (err error) {
	cfg := s.deps.Config
	s.deps.Handler.Open()
	if s.deps.Deletes != nil {
		s.deps.Deletes.Open()
	}
	s.tls, err = tlsconfig.NewServerTLSConfigManager(s.deps.Certs,
		append(cfg.TLSManagerOpts(), tlsconfig.WithLogger(s.log))...)
	if err != nil {
		return fmt.Errorf("[http] https: %w", err)
	}
	ln, err := s.tls.Listen("tcp", cfg.BindAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on [http] bind-address %s: %w", cfg.BindAddress, err), s.tls.Close())
	}
	listeners := []net.Listener{ln}
	if cfg.MaxConnectionLimit > 0 {
		listeners[0] = httpd.LimitListener(ln, cfg.MaxConnectionLimit)
	}
	if cfg.UnixSocketEnabled {
		socket, err := s.listenUnix()
		if err != nil {
			return errors.Join(fmt.Errorf("[http] bind-socket %s: %w", cfg.BindSocket, err), ln.Close(),
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
		s.log.Info("Listening on HTTP", zap.Stringer("addr", ln.Addr()), zap.Bool("https", cfg.HTTPSEnabled))
	}
	return nil
}

// listenUnix makes the socket anew: a process that was killed leaves its own behind.
func (s *Server) listenUnix() (net.Listener, error) {
	cfg := s.deps.Config
	path := cfg.BindSocket
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
	if p := cfg.UnixSocketPermissions; p != 0 {
		err = os.Chmod(path, os.FileMode(p))
	}
	if g := cfg.UnixSocketGroup; err == nil && g != nil && *g != 0 {
		err = os.Chown(path, -1, int(*g))
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Close waits for the requests that are under way, for ten seconds at most, and then ends them. The page closes before:
// its streams do not end by themselves.
func (s *Server) Close() (err error) {
	if s.page != nil {
		err = s.page.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	switch e := s.http.Shutdown(ctx); {
	case errors.Is(e, context.DeadlineExceeded):
		s.log.Warn("Requests are ended that did not end by themselves", zap.Duration("waited", s.patience))
		err = errors.Join(err, s.http.Close())
	case e != nil:
		err = errors.Join(err, e, s.http.Close())
	}
	s.serving.Wait()
	s.deps.Handler.Close()
	if s.deps.Deletes != nil {
		s.deps.Deletes.Close()
	}
	return errors.Join(err, s.tls.Close())
}

// Statistics are those of the handlers, with valuesWrittenOK, which the engine does not count.
func (s *Server) Statistics(tags map[string]string) []models.Statistic {
	bind := models.NewTags(map[string]string{"bind": s.deps.Config.BindAddress})
	out := s.deps.Handler.Statistics(bind.Merge(tags).Map())
	if s.deps.Deletes != nil {
		for name, v := range s.deps.Deletes.Statistics(nil)[0].Values {
			total, ok := out[0].Values[name].(int64)
			if more, isInt := v.(int64); ok && isInt {
				out[0].Values[name] = total + more
			}
		}
	}
	if s.deps.Values != nil {
		out[0].Values["valuesWrittenOK"] = s.deps.Values()
	}
	return out
}

// PrepareReload checks the certificates of a new configuration. The function that it returns uses them.
func (s *Server) PrepareReload(cfg httpd.Config) (apply func() error, err error) {
	if cfg.HTTPSEnabled != s.deps.Config.HTTPSEnabled {
		return nil, errors.New("https-enabled cannot change while the node runs")
	}
	return s.tls.PrepareReconfigure(cfg.TLSManagerOpts()...)
}
