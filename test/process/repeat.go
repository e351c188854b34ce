package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"

	"concord/internal/rpc"
)

// repeater stands between the two ends of a gRPC connection and makes calls
// arrive twice. It knows no service: messages pass as the bytes they are, with
// metadata, deadline and status.
//
// A call whose client sends one message and no more is sent again: half of them at once,
// so that the two meet at the server, the others after up to late, behind
// calls that were made later, and also when the caller has given up meanwhile. The caller gets the answer of
// the first; that of the second is read to its end and thrown away. That holds for calls with a
// stream of answers, too: their question is one message. A call with a stream of
// questions passes once: what is asked in it depends on the answers, so a
// network that repeated it would have to be the client. Calls still due when the
// connection ends are dropped with it.
type repeater struct {
	upstream *grpc.ClientConn
	late     time.Duration
	ctx      context.Context // of the connection
	wg       sync.WaitGroup  // second calls

	mu  sync.Mutex
	rng *rand.Rand
}

// repeat serves a connection until it ends.
func repeat(c *carried, link Link) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var once sync.Once
	upstream, err := grpc.NewClient("passthrough:///"+c.to,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(rpc.MaxMessage),
			grpc.MaxCallSendMsgSize(rpc.MaxMessage)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			var conn net.Conn
			once.Do(func() { conn = c.server })
			if conn == nil { // the server ended it, and so it ends for the client
				c.reset()
				return nil, net.ErrClosed
			}
			return conn, nil
		}))
	if err != nil {
		panic(err) // no option depends on the connection
	}
	r := &repeater{upstream: upstream, late: link.Late, ctx: ctx, rng: rand.New(rand.NewPCG(link.Seed, 0))}
	s := rpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(r.handle))
	s.Serve(newOnlyConn(c.client))
	cancel()
	upstream.Close()
	s.Stop()
	r.wg.Wait()
}

// open begins a call of the same kind as the client's.
func (r *repeater) open(ctx context.Context, md metadata.MD, method string) (grpc.ClientStream, error) {
	return r.upstream.NewStream(metadata.NewOutgoingContext(ctx, md),
		&grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
}

// handle passes on one call.
func (r *repeater) handle(_ any, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	method, _ := grpc.MethodFromServerStream(down)
	md, _ := metadata.FromIncomingContext(ctx)
	up, err := r.open(ctx, md, method)
	if err != nil {
		return err
	}
	go func() {
		// It ends with the call's context at the latest.
		if questions(down, up, func(only raw) { r.again(ctx, md, method, only) }) != nil {
			cancel()
		}
	}()
	return answers(up, down)
}

// questions passes what the client sends; only is called when that was one message.
func questions(down grpc.ServerStream, up grpc.ClientStream, only func(raw)) error {
	var first raw
	for n := 0; ; n++ {
		var m raw
		switch err := down.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			err = up.CloseSend()
			if n == 1 {
				only(first)
			}
			return err
		case err != nil:
			return err
		}
		if n == 0 {
			first = m
		}
		if err := up.SendMsg(&m); err != nil && !errors.Is(err, io.EOF) { // io.EOF: the answer tells why
			return err
		}
	}
}

// answers passes what the server sends, and its status.
func answers(up grpc.ClientStream, down grpc.ServerStream) error {
	for n := 0; ; n++ {
		var m raw
		err := up.RecvMsg(&m)
		if n == 0 {
			if md, herr := up.Header(); herr == nil {
				if err := down.SetHeader(md); err != nil {
					return err
				}
			}
		}
		if err != nil {
			down.SetTrailer(up.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := down.SendMsg(&m); err != nil {
			return err
		}
	}
}

// again makes a call a second time, with as much time as its caller gave it.
func (r *repeater) again(first context.Context, md metadata.MD, method string, m raw) {
	r.mu.Lock()
	var after time.Duration
	if r.rng.IntN(2) == 0 && r.late > 0 {
		after = time.Duration(r.rng.Int64N(int64(r.late)))
	}
	r.mu.Unlock()
	ctx, cancel := r.ctx, context.CancelFunc(func() {})
	if deadline, ok := first.Deadline(); ok {
		ctx, cancel = context.WithTimeout(r.ctx, after+time.Until(deadline))
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer cancel()
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		up, err := r.open(ctx, md, method)
		if err != nil {
			return
		}
		if up.SendMsg(&m) == nil && up.CloseSend() == nil {
			for up.RecvMsg(new(raw)) == nil {
			}
		}
	}()
}

// raw is a message as it is on the wire.
type raw []byte

// rawCodec leaves messages as they are. It goes by the name of the real one: the name is sent.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	if m, ok := v.(*raw); ok {
		return *m, nil
	}
	return nil, fmt.Errorf("%T is no raw message", v)
}

func (rawCodec) Unmarshal(b []byte, v any) error {
	m, ok := v.(*raw)
	if !ok {
		return fmt.Errorf("%T is no raw message", v)
	}
	*m = append(raw(nil), b...)
	return nil
}

// onlyConn is a listener with one connection, which ends with it.
type onlyConn struct {
	conn   chan net.Conn
	addr   net.Addr
	closed chan struct{}
	once   sync.Once
}

func newOnlyConn(conn net.Conn) *onlyConn {
	l := &onlyConn{conn: make(chan net.Conn, 1), addr: conn.LocalAddr(), closed: make(chan struct{})}
	l.conn <- lastConn{conn, l}
	return l
}

func (l *onlyConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *onlyConn) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *onlyConn) Addr() net.Addr { return l.addr }

// lastConn closes its listener when it is closed.
type lastConn struct {
	net.Conn
	ln *onlyConn
}

func (c lastConn) Close() error {
	c.ln.Close()
	return c.Conn.Close()
}
