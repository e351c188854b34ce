package server

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"go.uber.org/zap"

	"concord/internal/protocol"
	"concord/internal/trust"
)

// newStream is Raft's listener of the member with an ID.
func newStream(t *testing.T, id raft.ServerID) *stream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{
		Listener: ln, id: id, advertised: ln.Addr().String(), tls: tlsconfig.NewDisabledTLSConfigManager(),
		signer: &trust.Signer{}, speaks: protocol.Own, tooOld: func(string, error) {},
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openPair opens the store of a cluster with one other member, which is at an address.
func openPair(t *testing.T, other raft.ServerID, addr string) *store {
	t.Helper()
	ln := newStream(t, "")
	st, err := openStore(t.TempDir(), ln, ln.advertised, zap.NewNop(), func(c *raft.Config) {
		c.HeartbeatTimeout, c.ElectionTimeout = 40*time.Millisecond, 40*time.Millisecond
		c.LeaderLeaseTimeout, c.CommitTimeout = 40*time.Millisecond, time.Millisecond
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{ID: st.id, Address: raft.ServerAddress(st.addr)}, {ID: other, Address: raft.ServerAddress(addr)},
	}}).Error(); err != nil {
		t.Fatal(err)
	}
	return st
}

// mustClose closes a store, which takes less than the timeout of one request to another member.
func mustClose(t *testing.T, st *store) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- st.close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(raftTimeout / 2):
		t.Error("Raft does not stop")
	}
}

// A leader that learns of a later term has requests under way to the member that tells it. With pipelined replication,
// the library waited for ever then, and Raft could not stop any more.
func TestLeaderThatWasReplacedStops(t *testing.T) {
	t.Parallel()
	const rounds = 30
	ln := newStream(t, "other")
	other := raft.NewNetworkTransport(ln, 3, raftTimeout, nil)
	t.Cleanup(func() { other.Close() })
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		takes := 0
		for round := 0; ; {
			var rpc raft.RPC
			select {
			case rpc = <-other.Consumer():
			case <-stop:
				return
			}
			switch r := rpc.Command.(type) {
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{Term: r.Term, Granted: true}, nil)
			case *raft.RequestVoteRequest:
				takes = 10
				rpc.Respond(&raft.RequestVoteResponse{Term: r.Term, Granted: true}, nil)
			case *raft.AppendEntriesRequest:
				answer := &raft.AppendEntriesResponse{Term: r.Term, LastLog: r.PrevLogEntry, Success: true}
				if n := len(r.Entries); n > 0 {
					answer.LastLog = r.Entries[n-1].Index
				}
				if takes--; takes == 0 {
					if round++; round == rounds {
						close(done)
					}
				}
				if takes <= 0 {
					answer.Term, answer.Success = r.Term+1, false
				}
				rpc.Respond(answer, nil)
			}
		}
	}()
	st := openPair(t, "other", ln.advertised)
	for range 4 { // changes, so that there is always something to replicate
		go func() {
			for {
				st.raft.Apply(nil, 0)
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
				}
			}
		}()
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Errorf("there were no %d elections", rounds)
	}
	mustClose(t, st)
}

// A member that hangs takes connections and does not answer.
func TestRaftStopsBesideAMemberThatHangs(t *testing.T) {
	t.Parallel()
	ln := newStream(t, "other")
	asked := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Listener.Accept()
		if err == nil {
			asked <- c
		}
	}()
	st := openPair(t, "other", ln.advertised)
	c := <-asked
	defer c.Close()
	mustClose(t, st)
}
