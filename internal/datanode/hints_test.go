package datanode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/entropy/local"
	"concord/internal/handoff"
	"concord/internal/meta/client"
	"concord/internal/rpc"
)

// mustNode is a node with the metadata client alone, whose copy of the metadata is what state says. No
// meta node answers it.
func mustNode(t *testing.T, identity string, state []byte, change ...func(*Config)) *Node {
	t.Helper()
	cfg := NewConfig()
	cfg.Meta.Dir, cfg.HintedHandoff.Dir = t.TempDir(), t.TempDir()
	for _, fn := range change {
		fn(cfg)
	}
	for name, b := range map[string][]byte{"node.json": []byte(identity), "cluster.state": state} {
		if len(b) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(cfg.Meta.Dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := New(cfg, "", zap.NewNop(), Seams{})
	var err error
	if n.Meta, err = client.Open(client.Deps{Dir: cfg.Meta.Dir}); err != nil {
		t.Fatal(err)
	}
	n.onClose(n.Meta.Close)
	n.pool = &rpc.Pool{}
	n.onClose(n.pool.Close)
	n.Store = tsdb.NewStore(t.TempDir())
	n.memory = local.NewMemory(n.Store, t.TempDir(), zap.NewNop())
	n.cfg.Data.Dir = t.TempDir()
	if err := errors.Join(n.openCopies(), n.openOrder()); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(time.Minute)
	for n.Meta.State().Data.ClusterID != 0 && !n.copies.Ready() {
		select {
		case <-deadline:
			t.Fatal("the other node, which is away, was not asked")
		case <-time.After(time.Millisecond):
		}
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// Until a node has heard of a leader, it does not know how old its hints are: none is dropped for its age.
func TestHintsDoNotAgeBeforeALeaderIsHeardOf(t *testing.T) {
	t.Parallel()
	own := time.Now().AddDate(1, 0, 0)
	n := New(NewConfig(), "", zap.NewNop(), Seams{Now: func() time.Time { return own }})
	var err error
	if n.Meta, err = client.Open(client.Deps{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	defer n.Meta.Close()
	if earliest, latest := n.timeBounds(); !earliest.Equal(time.Unix(0, 0)) || !latest.Equal(own) {
		t.Errorf("it is between %s and %s", earliest, latest)
	}
}

const identity = `{"node-id":1,"cluster-id":42,"meta-servers":["127.0.0.1:1"]}`

func mustState(t *testing.T) []byte {
	t.Helper()
	st := cluster.NewState()
	st.Index, st.Data = 1, &meta.Data{ClusterID: 42}
	st.DataNodes = []cluster.Node{{ID: 1, TCPAddr: "127.0.0.1:1"}, {ID: 2, TCPAddr: "127.0.0.1:2"}}
	b, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOnlyRealMetadataTellsThatANodeIsGone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		state      []byte
		due, known bool
	}{
		"a missing copy": {},
		"a damaged copy": {state: []byte("damaged")},
		"a whole copy":   {state: mustState(t), due: true, known: true},
	} {
		n := mustNode(t, identity, tc.state)
		if due, known := n.due(2, handoff.WholeDatabase); due != tc.due || known != tc.known {
			t.Errorf("%s: due %v, known %v", name, due, known)
		}
		if due, known := n.due(3, handoff.WholeDatabase); due || known != tc.known {
			t.Errorf("%s: a node that is not in it: due %v, known %v", name, due, known)
		}
	}
}

// keep leaves a queue on disk.
func (n *Node) keep(t *testing.T) {
	t.Helper()
	s := handoff.New(n.cfg.HintedHandoff, handoff.Deps{Due: func(uint64, uint64) (bool, bool) { return false, false }})
	if err := s.Open(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(2, 7, handoff.Entry{Kind: handoff.Write, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestQueuesThatNobodySendsStopTheStart(t *testing.T) {
	t.Parallel()
	off := mustNode(t, identity, mustState(t), func(cfg *Config) { cfg.HintedHandoff.Enabled = false })
	for say, n := range map[string]*Node{"enabled is false": off, "in no cluster": mustNode(t, "", nil)} {
		if err := n.checkKept(); err != nil {
			t.Errorf("%s, without queues: %v", say, err)
		}
		n.keep(t)
		if err := n.openWrites(); err == nil || !strings.Contains(err.Error(), say) ||
			!strings.Contains(err.Error(), n.cfg.HintedHandoff.Dir) {
			t.Errorf("%s: %v", say, err)
		}
	}
	n := mustNode(t, identity, nil)
	n.keep(t)
	if err := n.openWrites(); err != nil || !n.HintsPending(7) {
		t.Error("a member that sends them does not start with them:", err)
	}
}

// What hinted handoff delivers when a node starts is compared with the deletes that ran before.
func TestDeletesAreKnownBeforeHintsAreDelivered(t *testing.T) {
	t.Parallel()
	n := mustNode(t, identity, mustState(t))
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: "db", Name: "m", Id: "d", Version: 5}
	if err := n.ran.Record(drop); err != nil {
		t.Fatal(err)
	}
	if err := n.openWrites(); err != nil {
		t.Fatal(err)
	}
	old := models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(1, 0))
	left, end := n.deleted.BeginWrite(7, "db", "rp", 4, []models.Point{old})
	if err := end(nil); err != nil || len(left) > 0 {
		t.Errorf("%d points are written that a delete removed: %v", len(left), err)
	}
}

func TestNodeThatLeavesForgetsItsHints(t *testing.T) {
	t.Parallel()
	n := mustNode(t, identity, mustState(t))
	if err := n.openWrites(); err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: "db", Name: "m", Id: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.handoff.Append(2, handoff.WholeDatabase, handoff.Entry{Kind: handoff.Delete, Data: b}); err != nil {
		t.Fatal(err)
	}
	if _, err := (&membership{node: n}).Leave(t.Context(), &rpc.LeaveRequest{}); err != nil {
		t.Fatal(err)
	}
	if kept, err := handoff.Kept(n.cfg.HintedHandoff.Dir); err != nil || len(kept) > 0 {
		t.Errorf("kept: %v, %v", kept, err)
	}
}

// It was removed, and does not serve. It may be told before it forgets its cluster by itself, join, and crash.
func TestNodeThatServesNothingAndLeavesKeepsItsHintsAside(t *testing.T) {
	t.Parallel()
	n := mustNode(t, identity, mustState(t))
	n.keep(t)
	m := &membership{node: n, idle: true}
	n.life.Lock()
	if _, err := m.Leave(t.Context(), &rpc.LeaveRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("while its parts are opened it answers %v", err)
	}
	n.life.Unlock()
	former := n.Meta.NodeID()
	if err := n.endFormer(former); status.Code(err) != codes.Unavailable {
		t.Errorf("its parts are open, and it answers %v", err)
	}
	n.place.base = len(n.stop) // as if they were not
	if _, err := m.Leave(t.Context(), &rpc.LeaveRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		filepath.Join(n.cfg.HintedHandoff.Dir, fmt.Sprintf("former-node%d-1", former), "*", "*", "*.hh"),
		n.ranLogFile() + fmt.Sprintf(".former-node%d-1", former),
	} {
		if found, err := filepath.Glob(pattern); err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v", pattern, found, err)
		}
	}
	if kept, err := handoff.Kept(n.cfg.HintedHandoff.Dir); err != nil || len(kept) > 0 {
		t.Errorf("left: %v, %v", kept, err)
	}
}
