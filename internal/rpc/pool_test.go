package rpc

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A node that takes connections and says nothing is given up after dial-timeout.
func TestDialTimeout(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &Pool{DialTimeout: 200 * time.Millisecond}
	defer p.Close()
	conn, err := p.Conn(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().UTC()
	err = conn.Invoke(t.Context(), "/any/method", new(emptypb.Empty), new(emptypb.Empty))
	if took := time.Since(began); status.Code(err) != codes.Unavailable || took > 4*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
}
