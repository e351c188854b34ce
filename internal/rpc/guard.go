package rpc

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"concord/internal/trust"
)

const (
	// maxStrangers bounds the connections that have not proven the shared secret yet. Each costs some 100 kB.
	maxStrangers = 128
	// strangerTime is how long a connection may take to prove it.
	strangerTime = 10 * time.Second
)

// Guard lets calls in that carry a token signed with the shared secret. It looks at the headers of a call: a call
// without the secret is refused before any byte of its message is kept. Connections without such a call end after a
// while, and the oldest of them ends when there are too many. Without a secret the guard lets in all.
type Guard struct {
	secret trust.Secret

	mu        sync.Mutex
	strangers map[string]*stranger // by remote address
}

// NewGuard returns the guard of one server.
func NewGuard(secret trust.Secret) *Guard {
	return &Guard{secret: secret, strangers: make(map[string]*stranger)}
}

// Option makes a server ask the guard.
func (g *Guard) Option() grpc.ServerOption {
	if g.secret == "" {
		return grpc.EmptyServerOption{}
	}
	return grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
		if err := g.proven(call.Header); err != nil {
			return ctx, status.Error(codes.Unauthenticated, err.Error())
		}
		if p, ok := peer.FromContext(ctx); ok {
			g.admit(p.Addr.String())
		}
		return ctx, nil
	})
}

// proven returns why the headers of a call do not prove the secret.
func (g *Guard) proven(header metadata.MD) error {
	refused := trust.ErrRefused
	for _, v := range header.Get("authorization") {
		token, ok := strings.CutPrefix(v, "Bearer ")
		if !ok {
			continue
		}
		if refused = g.secret.Verify(token); refused == nil {
			return nil
		}
	}
	return refused
}

// Listener is the listener of the server.
func (g *Guard) Listener(ln net.Listener) net.Listener {
	if g.secret == "" {
		return ln
	}
	return &guarded{Listener: ln, guard: g}
}

type guarded struct {
	net.Listener
	guard *Guard
}

func (l *guarded) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.guard.meet(c)
	}
	return c, err
}

// stranger is a connection that has not proven the secret. One that has ended counts until its time is over.
type stranger struct {
	conn  net.Conn
	since time.Time
	limit *time.Timer
}

// meet adds a connection to the strangers, and ends the oldest of them when there are too many.
func (g *Guard) meet(c net.Conn) {
	addr := c.RemoteAddr().String()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(addr) // an earlier connection from the same port, which has ended
	if len(g.strangers) >= maxStrangers {
		oldest := ""
		for a, s := range g.strangers {
			if oldest == "" || s.since.Before(g.strangers[oldest].since) {
				oldest = a
			}
		}
		go g.drop(oldest).Close() // over TLS, that may take a while
	}
	s := &stranger{conn: c, since: time.Now()}
	s.limit = time.AfterFunc(strangerTime, func() {
		g.mu.Lock()
		late := g.strangers[addr] == s
		if late {
			g.drop(addr)
		}
		g.mu.Unlock()
		if late {
			c.Close()
		}
	})
	g.strangers[addr] = s
}

// admit makes a connection one of a node.
func (g *Guard) admit(addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(addr)
}

// drop removes a stranger, and returns its connection; nil for none. mu must be held.
func (g *Guard) drop(addr string) net.Conn {
	s := g.strangers[addr]
	if s == nil {
		return nil
	}
	s.limit.Stop()
	delete(g.strangers, addr)
	return s.conn
}

// bearer sends a token with every call.
type bearer struct{ signer *trust.Signer }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t, err := b.signer.Token()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + t}, nil
}

// RequireTransportSecurity is false: TLS is the operator's choice, and below gRPC here.
func (bearer) RequireTransportSecurity() bool { return false }
