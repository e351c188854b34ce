package server

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"

	"concord/internal/bolt"
	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// ErrNotInitialised is what a meta node without a cluster answers.
var ErrNotInitialised = errors.New("this meta node is in no cluster yet: run influxd-ctl add-meta")

// errNoLeader means: try another meta node, or later.
var errNoLeader = errors.New("the meta nodes have no leader at the moment: try again; " +
	"without a majority of them there is none")

// errUncertain means: the change may have been made, or not.
var errUncertain = errors.New("the meta nodes lost their leader while the change was under way, or most of them hang. " +
	"It may have been made: look, then try again")

const (
	leaderTimeout = 15 * time.Second
	commitLimit   = wire.CommitTimeout + 2*time.Second // for most members to store a change
	openTimeout   = 2 * time.Second                    // for another process to close raft.db
	keepSnapshots = 2
	raftTimeout   = 10 * time.Second // of one request of Raft to another meta node
)

// store replicates the cluster's state: commands go through the Raft log, and every committed one is applied to the
// fsm.
type store struct {
	raft  *raft.Raft
	fsm   *fsm
	log   *raftLog
	trans *raft.NetworkTransport
	id    raft.ServerID
	addr  string // what other meta nodes dial
	dir   string
	zap   *zap.Logger

	commitLimit time.Duration
	caughtUpIn  atomic.Uint64 // the last term at whose begin all that was committed before is known to be applied
}

// openStore starts Raft on dir and stream, and closes stream when it fails.
func openStore(
	dir string, ln *stream, advertised string, log *zap.Logger, tune func(*raft.Config),
) (_ *store, err error) {
	s := &store{addr: advertised, dir: dir, zap: log, commitLimit: commitLimit}
	defer func() {
		if err != nil {
			ln.Close()
			s.close()
		}
	}()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	if err := s.openLog(filepath.Join(dir, "raft.db")); err != nil {
		return nil, err
	}
	ln.id = s.id
	rlog := hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: logWriter{log}, DisableTime: true})
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, rlog)
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	// One request at a time is under way to a member. With more, which the library pipelines, a leader may never send
	// entries again to a member that has refused some, and Raft may never stop:
	// https://github.com/grafana/pyroscope/pull/5518.
	s.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: ln, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: raftTimeout, Logger: rlog,
	})
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = s.id, rlog
	if tune != nil {
		tune(c)
	}
	s.fsm = openFSM(dir, log)
	if s.raft, err = startRaft(c, s.fsm, s.log, snaps, transport{s.trans}); err != nil {
		return nil, fmt.Errorf("start raft on %s: %w: %s", dir, err, s.comeBack())
	}
	if err := s.checkAddr(); err != nil {
		return nil, err
	}
	return s, nil
}

// openLog opens raft.db and reads all of it: Raft panics over what it does not understand.
func (s *store) openLog(path string) error {
	err := bolt.Check(path, openTimeout)
	if err == nil {
		options := raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: openTimeout}}
		var db *raftboltdb.BoltStore
		if db, err = raftboltdb.New(options); err == nil {
			s.log = &raftLog{db}
		}
	}
	var damaged *bolt.DamagedError
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("%s is in use: is another influxd-meta running?", path)
	case errors.As(err, &damaged):
		return fmt.Errorf("%w: %s", err, s.comeBack())
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	}
	if err := s.log.verify(); err != nil {
		return fmt.Errorf("%s is damaged: %w: %s", path, err, s.comeBack())
	}
	term, err := s.log.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return fmt.Errorf("%s is damaged: %w: %s", path, err, s.comeBack())
	}
	// The cached state is apart from the log, and is there once a node is a member.
	if _, err := os.Stat(filepath.Join(s.dir, savedFile)); err == nil && term == 0 {
		return fmt.Errorf("%s is missing or empty, and this meta node was in a cluster: %s", path, s.comeBack())
	}
	if s.id, err = serverID(s.log.BoltStore); err != nil {
		return fmt.Errorf("%s is damaged: the node's ID: %w: %s", path, err, s.comeBack())
	}
	return nil
}

// comeBack says how a member that lost its log comes back: with a full copy, before it votes.
func (s *store) comeBack() string {
	return fmt.Sprintf("with other meta nodes, move %s away, start with an empty one, and add this node again "+
		"at another meta node (influxd-ctl -bind <other>:8091 add-meta); alone, bring the folder back from a copy", s.dir)
}

// startRaft turns a panic over what is on disk into an error.
func startRaft(
	c *raft.Config, f *fsm, log *raftLog, snaps raft.SnapshotStore, trans raft.Transport,
) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return raft.NewRaft(c, f, log, log, snaps, trans)
}

// checkAddr refuses to run under another Raft address than the cluster knows: nobody would answer.
func (s *store) checkAddr() error {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	for _, srv := range f.Configuration().Servers {
		if srv.ID == s.id && string(srv.Address) != s.addr {
			return fmt.Errorf("the cluster knows this meta node as %s, and its [meta] bind-address with hostname now is %s: "+
				"change it back, or remove the node and add it again", srv.Address, s.addr)
		}
	}
	return nil
}

// serverID is this node's name in Raft: random, made once, independent of
// addresses, which may change.
func serverID(log *raftboltdb.BoltStore) (raft.ServerID, error) {
	key := []byte("ServerID")
	id, err := log.Get(key)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		b := make([]byte, 8)
		crand.Read(b)
		id = []byte(hex.EncodeToString(b))
		err = log.Set(key, id)
	}
	if b, e := hex.DecodeString(string(id)); err == nil && (e != nil || len(b) != 8) {
		err = fmt.Errorf("ServerID is %q, not 16 hex digits", id)
	}
	return raft.ServerID(id), err
}

// initialised reports whether this node is in a cluster.
func (s *store) initialised() bool {
	f := s.raft.GetConfiguration()
	return f.Error() == nil && len(f.Configuration().Servers) > 0
}

// bootstrap starts a cluster of this node alone.
func (s *store) bootstrap() error {
	err := s.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{ID: s.id, Address: raft.ServerAddress(s.addr)},
	}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil
	}
	return err
}

// waitReady waits for a leader. One that this node is has applied all that was committed.
func (s *store) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	if err := until(ctx, func() bool { a, _ := s.raft.LeaderWithID(); return a != "" }); err != nil {
		return errNoLeader
	}
	return s.caughtUp()
}

// caughtUp returns when a leader has applied all that was committed before it led.
func (s *store) caughtUp() error {
	if !s.leads() {
		return nil
	}
	if err := s.await(s.raft.Barrier(leaderTimeout)); err != nil {
		return errNoLeader
	}
	return nil
}

// await returns what became of a request to Raft, errUncertain when that takes too long. Raft waits for ever while most
// members answer, and do not store anything: their disks hang.
func (s *store) await(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	timer := time.NewTimer(s.commitLimit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errUncertain
	}
}

// confirmLead returns nil when this node leads, as a majority says, and its state has all that was confirmed. What is
// confirmed in this term is applied here before.
func (s *store) confirmLead() error {
	if !s.initialised() {
		return ErrNotInitialised
	}
	term := s.raft.CurrentTerm()
	if s.caughtUpIn.Load() != term {
		if err := s.await(s.raft.Barrier(leaderTimeout)); err != nil {
			return errNoLeader
		}
		s.caughtUpIn.Store(term)
	}
	if s.await(s.raft.VerifyLeader()) != nil {
		return errNoLeader
	}
	return nil
}

func (s *store) leads() bool { return s.raft.State() == raft.Leader }

// until polls ok.
func until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// check refuses a command that must not be logged. Another node than the leader logs none.
func (s *store) check(c cluster.Command) error {
	if !s.leads() || s.fsm.applied().Check(c) == nil {
		return nil
	}
	// A new leader may not have applied all that was committed.
	if err := s.caughtUp(); err != nil {
		return err
	}
	return s.fsm.applied().Check(c)
}

// apply commits a command. index is that of the state in which its effect is visible.
func (s *store) apply(c cluster.Command) (result any, index uint64, err error) {
	if !s.initialised() {
		return nil, 0, ErrNotInitialised
	}
	if err := s.check(c); err != nil {
		return nil, s.fsm.applied().Index, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, 0, fmt.Errorf("encode command: %w", err)
	}
	f := s.raft.Apply(b, wire.CommitTimeout)
	switch err := s.await(f); {
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, errUncertain):
		return nil, 0, errUncertain
	case errors.Is(err, raft.ErrNotLeader),
		errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return nil, 0, errNoLeader
	case err != nil:
		return nil, 0, fmt.Errorf("commit: %w", err)
	}
	r := f.Response().(outcome)
	return r.result, r.index, r.err
}

// close stops Raft; what is committed is on disk. The connections close before Raft is waited for: it waits for
// answers.
func (s *store) close() error {
	var errs []error
	var stopped raft.Future
	if s.raft != nil {
		stopped = s.raft.Shutdown()
	}
	if s.trans != nil {
		errs = append(errs, s.trans.Close())
	}
	if stopped != nil {
		errs = append(errs, stopped.Error())
	}
	if s.fsm != nil {
		s.fsm.close()
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	return errors.Join(errs...)
}

type hostPort string

func (hostPort) Network() string  { return "tcp" }
func (h hostPort) String() string { return string(h) }

// logWriter passes Raft's lines on: errors as warnings, for Raft tries again,
// and its own warnings, which every start and stop has, for debugging.
type logWriter struct{ log *zap.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	level, line := zap.DebugLevel, strings.TrimSpace(string(b))
	if strings.HasPrefix(line, "[ERROR]") {
		level = zap.WarnLevel
	}
	w.log.Log(level, line)
	return len(b), nil
}
