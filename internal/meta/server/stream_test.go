package server

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/protocol"
	"concord/internal/trust"
)

// connect connects Raft of a node that speaks one version to that of a node that speaks another. It returns what each
// of them makes of it.
func connect(t *testing.T, from, to protocol.Speaks, id string) (dialled, accepted error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tls := tlsconfig.NewDisabledTLSConfigManager()
	layer := func(speaks protocol.Speaks) *stream {
		return &stream{
			Listener: ln, id: "me", tls: tls, signer: &trust.Signer{Secret: "secret"}, speaks: speaks,
			tooOld: func(string, error) {},
		}
	}
	server, client := layer(to), layer(from)
	t.Cleanup(func() { server.Close(); client.Close() })
	done := make(chan error, 1)
	go func() {
		c, err := server.Accept()
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 5))
		}
		done <- err
	}()
	c, dialled := client.Dial(destination(raft.ServerID(id), raft.ServerAddress(ln.Addr().String())), 5*time.Second)
	if dialled == nil {
		fmt.Fprint(c, "hello")
	}
	return dialled, <-done
}

func TestRaftConnectsNodesThatMayBeMixed(t *testing.T) {
	t.Parallel()
	first, second, strict := protocol.Speaks{Current: 1, Oldest: 1}, protocol.Speaks{Current: 2, Oldest: 1},
		protocol.Speaks{Current: 3, Oldest: 2}
	for _, tc := range []struct{ from, to protocol.Speaks }{
		{first, first}, {first, second}, {second, first}, {second, second}, {second, strict}, {strict, second},
		{strict, strict},
	} {
		if dialled, accepted := connect(t, tc.from, tc.to, "me"); dialled != nil || accepted != nil {
			t.Errorf("%+v to %+v: %v, %v", tc.from, tc.to, dialled, accepted)
		}
		dialled, _ := connect(t, tc.from, tc.to, "another")
		if dialled == nil || !strings.Contains(dialled.Error(), "lost its folder") {
			t.Errorf("%+v to another member that speaks %+v: %v", tc.from, tc.to, dialled)
		}
	}
	dialled, accepted := connect(t, first, strict, "me")
	if dialled == nil || !strings.Contains(dialled.Error(), "may not be mixed") || accepted == nil ||
		!strings.Contains(accepted.Error(), "may not be mixed") {
		t.Errorf("a node that is too old connects: %v, %v", dialled, accepted)
	}
	dialled, _ = connect(t, strict, first, "me")
	if dialled == nil || !strings.Contains(dialled.Error(), "may not be mixed") {
		t.Errorf("a node connects to one that is too old: %v", dialled)
	}
}
