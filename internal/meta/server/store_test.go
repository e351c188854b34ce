package server

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
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

// openPair opens the store of a cluster with one other member, which is at an address. A leader stays one for as long
// as lease without an answer.
func openPair(t *testing.T, other raft.ServerID, addr string, lease time.Duration) *store {
	t.Helper()
	ln := newStream(t, "")
	st, err := openStore(t.TempDir(), ln, ln.advertised, zap.NewNop(), func(c *raft.Config) {
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = lease, lease, lease
		c.CommitTimeout = time.Millisecond
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

// member is a member with the ID "other" that calls answer for each request, until stop is closed at the end of the
// test.
func member(t *testing.T, answer func(raft.RPC)) (addr string, stop <-chan struct{}) {
	t.Helper()
	ln := newStream(t, "other")
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: ln, MaxPool: 3, Timeout: raftTimeout, Logger: hclog.NewNullLogger(),
	})
	end := make(chan struct{})
	t.Cleanup(func() { close(end); trans.Close() })
	go func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				answer(rpc)
			case <-end:
				return
			}
		}
	}()
	return ln.advertised, end
}

// agree gives a vote, and takes entries.
func agree(rpc raft.RPC) {
	switch r := rpc.Command.(type) {
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{Term: r.Term, Granted: true}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Term: r.Term, Granted: true}, nil)
	case *raft.AppendEntriesRequest:
		last := r.PrevLogEntry
		if n := len(r.Entries); n > 0 {
			last = r.Entries[n-1].Index
		}
		rpc.Respond(&raft.AppendEntriesResponse{Term: r.Term, LastLog: last, Success: true}, nil)
	}
}

// mustClose closes a store, and returns how long that took.
func mustClose(t *testing.T, st *store) (took time.Duration) {
	t.Helper()
	began, closed := time.Now(), make(chan error, 1)
	go func() { closed <- st.close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("Raft does not stop")
	}
	return time.Since(began)
}

// A leader that learns of a later term has requests under way to the member that tells it. With pipelined replication,
// the library waited for ever then, and Raft could not stop any more.
func TestLeaderThatWasReplacedStops(t *testing.T) {
	t.Parallel()
	const rounds = 30
	takes, round, done := 0, 0, make(chan struct{})
	addr, stop := member(t, func(rpc raft.RPC) {
		switch r := rpc.Command.(type) {
		case *raft.RequestVoteRequest:
			takes = 10
		case *raft.AppendEntriesRequest:
			if takes--; takes == 0 {
				if round++; round == rounds {
					close(done)
				}
			}
			if takes <= 0 {
				time.Sleep(time.Millisecond) // it is far away: more requests follow
				rpc.Respond(&raft.AppendEntriesResponse{Term: r.Term + 1}, nil)
				return
			}
		}
		agree(rpc)
	})
	st := openPair(t, "other", addr, 40*time.Millisecond)
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
		t.Logf("there were no %d elections within a minute: the machine is busy", rounds)
	}
	mustClose(t, st)
}

// A member that hangs takes connections and does not answer. Raft stops before its request to that member times out.
func TestRaftStopsBesideAMemberThatHangs(t *testing.T) {
	t.Parallel()
	const tries = 3 // a busy machine may be late by seconds, but not always
	for try := 1; ; try++ {
		took := mustStopBesideAMemberThatHangs(t)
		if took < raftTimeout/2 {
			return
		}
		if try == tries {
			t.Fatalf("Raft stopped after %v", took)
		}
	}
}

// mustStopBesideAMemberThatHangs returns how long Raft took to stop.
func mustStopBesideAMemberThatHangs(t *testing.T) (took time.Duration) {
	t.Helper()
	ln := newStream(t, "other")
	asked := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Listener.Accept()
		if err == nil {
			asked <- c
		}
	}()
	st := openPair(t, "other", ln.advertised, 40*time.Millisecond)
	c := <-asked
	defer c.Close()
	return mustClose(t, st)
}

// The disk of most members hangs: they answer that they follow, and store nothing. Raft waits for them for ever.
func TestChangeEndsWhileMostMembersStoreNothing(t *testing.T) {
	t.Parallel()
	addr, _ := member(t, func(rpc raft.RPC) {
		if r, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && len(r.Entries) > 0 {
			return
		}
		agree(rpc)
	})
	st := openPair(t, "other", addr, 2*time.Second) // the leader is to stay
	st.commitLimit = 200 * time.Millisecond
	var change, caughtUp error
	for tries, stayed := 0, false; !stayed; tries++ {
		if err := until(t.Context(), st.leads); err != nil {
			t.Fatal(err)
		}
		term := st.raft.CurrentTerm()
		change, caughtUp = st.await(st.raft.Apply(nil, 0)), st.caughtUp()
		// On a busy machine, an answer of the other member may come too late, and the leader steps down.
		stayed = st.leads() && st.raft.CurrentTerm() == term
		if !stayed && tries == 20 {
			t.Fatal("the leader never stays")
		}
	}
	if !errors.Is(change, errUncertain) {
		t.Errorf("a change ends with %v", change)
	}
	if !errors.Is(caughtUp, errNoLeader) {
		t.Errorf("a leader that cannot know whether it is one: %v", caughtUp)
	}
	mustClose(t, st)
}

// A dial to a machine that is off ends with its timeout alone, which is longer than a node may take to stop.
func TestClosedStreamDialsNobody(t *testing.T) {
	t.Parallel()
	ln := newStream(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := ln.dialing(&cancel); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if ctx.Err() == nil {
		t.Error("a dial goes on")
	}
	if _, err := ln.Dial("other@127.0.0.1:1", time.Minute); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial begins: %v", err)
	}
}
