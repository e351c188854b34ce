package datanode

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// idleServer answers while the parts of a node do not run. Meta nodes and other data nodes can ask who the node is, and
// it can join. All else is refused with the reason.
type idleServer struct {
	node *Node
	grpc *grpc.Server
	http *http.Server                // nil before openHTTP: a node that only starts has its port closed
	tls  *tlsconfig.TLSConfigManager // of http
	done []chan struct{}
}

// openIdleServer begins to answer other nodes.
func (n *Node) openIdleServer() *idleServer {
	l := &idleServer{node: n}
	guard := rpc.NewGuard(n.cfg.Meta.InternalSharedSecret)
	l.grpc = rpc.NewServer(guard.Option(), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.Unavailable, l.why())
	}))
	rpc.RegisterMembershipServer(l.grpc, &membership{node: n, idle: true})
	l.run(func() error { return l.grpc.Serve(guard.Listener(n.listener.forOneServer())) })
	return l
}

func (l *idleServer) run(serve func() error) {
	done := make(chan struct{})
	l.done = append(l.done, done)
	go func() {
		defer close(done)
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) &&
			!errors.Is(err, grpc.ErrServerStopped) {
			l.node.log.Error("Answering why this node serves nothing ended", zap.Error(err))
		}
	}()
}

func (l *idleServer) why() string {
	reason := l.node.Refusal()
	if reason == "" {
		reason = "it starts"
	}
	return fmt.Sprintf("data node %s %s: %s", l.node.tcpAddr, rpc.ServesNothing, reason)
}

// openHTTP begins to answer clients.
func (l *idleServer) openHTTP() error {
	if l.http != nil || !l.node.cfg.HTTPD.Enabled {
		return nil
	}
	c := l.node.cfg.http()
	manager, err := tlsconfig.NewServerTLSConfigManager(l.node.certs.monitor, c.TLSManagerOpts()...)
	if err != nil {
		return fmt.Errorf("[http] https: %w", err)
	}
	ln, err := manager.Listen("tcp", c.BindAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on [http] bind-address %s: %w", c.BindAddress, err), manager.Close())
	}
	l.http = &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(l.node.log)}
	l.tls = manager
	l.run(func() error { return l.http.Serve(ln) })
	return nil
}

// ServeHTTP answers as the engine does when a request fails.
func (l *idleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Influxdb-Version", l.node.version)
	w.Header().Set("X-Influxdb-Build", l.node.cfg.HTTPD.BuildType)
	if r.URL.Path == "/ping" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	why := l.why()
	w.Header().Set("X-Influxdb-Error", why)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	json.NewEncoder(w).Encode(map[string]string{"error": why})
}

// closeIdleServer ends the answers. Those that are on their way get a moment.
func (n *Node) closeIdleServer() {
	l := n.place.idle
	if l == nil {
		return
	}
	n.place.idle = nil
	if l.http != nil {
		l.http.Close()
		l.tls.Close()
	}
	hard := time.AfterFunc(time.Second, l.grpc.Stop)
	l.grpc.GracefulStop()
	hard.Stop()
	for _, done := range l.done {
		<-done
	}
}
