package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

const (
	anyLevel = models.ConsistencyLevelAny
	one      = models.ConsistencyLevelOne
	quorum   = models.ConsistencyLevelQuorum
	all      = models.ConsistencyLevelAll
)

func TestWriteIsJudgedByItsLevel(t *testing.T) {
	t.Parallel()
	timeout, failed := coordinator.ErrTimeout, coordinator.ErrWriteFailed
	for _, tt := range []struct {
		nodes  string
		owners []uint64
		level  models.ConsistencyLevel
		want   error
	}{
		{"ok", []uint64{1}, all, nil},
		{"ok ok ok", []uint64{1, 2, 3}, all, nil},
		{"ok ok ok", []uint64{2, 3}, all, nil},
		{"ok ok down", []uint64{1, 2, 3}, quorum, nil},
		{"ok ok down", []uint64{1, 2, 3}, all, failed},
		{"ok down down", []uint64{1, 2, 3}, one, nil},
		{"ok down down", []uint64{1, 2, 3}, anyLevel, nil},
		{"ok down down", []uint64{1, 2, 3}, quorum, failed},
		{"ok ok down", []uint64{2, 3}, one, nil},
		{"ok ok down", []uint64{1, 3}, quorum, failed},
		{"ok down down", []uint64{2, 3}, anyLevel, failed},
		{"ok down down", []uint64{2, 3}, all, failed},
		{"ok hung hung", []uint64{1, 2, 3}, one, nil},
		{"ok hung hung", []uint64{1, 2, 3}, quorum, timeout},
		{"ok ok hung", []uint64{1, 2, 3}, quorum, nil},
		{"ok ok hung", []uint64{1, 2, 3}, all, timeout},
		{"ok hung", []uint64{2}, one, timeout},
		{"ok down hung", []uint64{2, 3}, one, timeout},
		{"ok hung hung", []uint64{2, 3, 1}, one, nil},
		{"ok down ok", []uint64{2, 3, 1}, quorum, nil},
		{"ok", []uint64{9}, one, failed},
		{"ok", nil, one, failed},
		{"ok", []uint64{1}, models.ConsistencyLevel(9), models.ErrInvalidConsistencyLevel},
	} {
		t.Run(fmt.Sprintf("%s/%v/%d", tt.nodes, tt.owners, tt.level), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, strings.Fields(tt.nodes)...)
			c.meta.Owners = tt.owners
			w := c.writer(t)
			if strings.Contains(tt.nodes, "hung") {
				w.WriteTimeout = 2 * time.Second // two that hang have three quarters of it when they decide types
			}
			if tt.nodes == "ok ok hung" {
				w.WriteTimeout = 8 * time.Second // the second owner has less than half of it, be it busy or not
			}
			points := mustPoints(t, "cpu,host=a v=1 1000\ncpu,host=b v=2 2000")
			err := w.WritePoints(db, "", tt.level, nil, points)
			for tries := 0; tt.want == nil && errors.Is(err, timeout) && tries < 5; tries++ { // a busy machine
				err = w.WritePoints(db, "", tt.level, nil, points)
			}
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			w.Close() // every owner that can has the points, whatever the answer
			if errors.Is(tt.want, models.ErrInvalidConsistencyLevel) {
				return
			}
			for _, id := range tt.owners {
				if int(id) <= len(c.stores) && c.stores[id-1] != nil {
					if n := count(t, c.stores[id-1], "cpu"); n != 2 {
						t.Errorf("node %d has %d points, want 2", id, n)
					}
				}
			}
		})
	}
}

// An owner that turns out to have newer values of some points after the client was told of a timeout gets the others:
// the other owners have them.
func TestOwnerThatIsBehindAfterATimeoutGetsTheRest(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	mustWrite(t, c.stores[0], "m v=0 2")
	w := c.writer(t)
	w.WriteTimeout = 8 * time.Second      // waited out; half of it is enough for the other owner on a busy machine
	newer := w.Order.Clock.Next() + 1<<40 // its clock does not know
	_, write, err := w.Order.Journal.Begin(shardID, newer, mustPoints(t, "m v=0 2"), true)
	if err != nil {
		t.Fatal(err)
	}
	write.Done()
	busy := w.writing.Of(shardID)
	busy.Lock()
	err = w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=2 2\nm v=3 3"))
	busy.Unlock()
	if !errors.Is(err, coordinator.ErrTimeout) {
		t.Fatal(err)
	}
	w.Close() // waits for what goes on
	for node, want := range []string{"[0 3]", "[2 3]"} {
		if got := fmt.Sprint(values(t, c.stores[node], "m")); got != want {
			t.Errorf("node %d has %s, want %s", node+1, got, want)
		}
	}
}

func TestPartialWriteAnswersAsInfluxDBDoes(t *testing.T) {
	const (
		field    = `partial write: field type conflict: input field "v"`
		conflict = field + ` on measurement "cpu" is type boolean, already exists as type float dropped=1` +
			` for database: db0 for retention policy: rp0`
		outside = "partial write: dropped 1 points outside retention policy of duration 1h0m0s"
	)
	both := fmt.Sprintf("cpu v=3 4000\ncpu v=true %d", time.Now().UnixNano())
	for _, tt := range []struct {
		name   string
		owners []uint64
		points string
		rp     time.Duration
		level  models.ConsistencyLevel
		reason string // prefix
		drop   int
		count  int
	}{
		{"type conflict here", []uint64{1}, "cpu v=true 3000\ncpu v=3 4000", 0, one, conflict, 1, 2},
		{"type conflict elsewhere", []uint64{2}, "cpu v=true 3000\ncpu v=3 4000", 0, one, conflict, 1, 2},
		{"type conflict on all", []uint64{1, 2}, "cpu v=true 3000", 0, all, field, 1, 1},
		{"outside the policy", []uint64{1, 2}, "cpu v=3 4000", time.Hour, all, outside, 1, 1},
		{"both", []uint64{2}, both, time.Hour, all, outside, 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "ok", "ok")
			c.meta.Owners = tt.owners
			w := c.writer(t)
			if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "cpu v=1 1000")); err != nil {
				t.Fatal(err)
			}
			c.meta.Duration = tt.rp
			err := w.WritePoints(db, policy, tt.level, nil, mustPoints(t, tt.points))
			partial, ok := err.(tsdb.PartialWriteError) // the HTTP handler asserts without unwrapping
			if !ok || !strings.HasPrefix(err.Error(), tt.reason) || partial.Dropped != tt.drop {
				t.Fatalf("got %T %v", err, err)
			}
			for _, id := range tt.owners {
				if n := count(t, c.stores[id-1], "cpu"); n != tt.count {
					t.Errorf("node %d has %d points, want %d", id, n, tt.count)
				}
			}
		})
	}
}

func TestWriteIsRefused(t *testing.T) {
	c := newTestCluster(t, "ok")
	w := c.writer(t)
	points := mustPoints(t, "cpu v=1 1000")
	if err := w.WritePoints("nope", "", one, nil, points); err == nil || err.Error() != "database not found: nope" {
		t.Error(err)
	}
	w.Meta = replicationtest.Member{Meta: c.meta, Node: 0}
	if err := w.WritePoints(db, policy, one, nil, points); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Error(err)
	}
	w.Meta = replicationtest.Member{Meta: c.meta, Node: 1}
	w.Close()
	if err := w.WritePoints(db, policy, one, nil, points); !errors.Is(err, coordinator.ErrWriteFailed) {
		t.Error(err)
	}
}

func TestLargeWriteGoesInSeveralMessages(t *testing.T) {
	c := newTestCluster(t, "ok", "ok")
	c.meta.Owners = []uint64{2}
	w := c.writer(t)
	w.WriteTimeout = time.Minute // the race detector takes most of the default
	value := strings.Repeat("x", 60<<10)
	var lines strings.Builder
	const n = 300 // 18 MB
	for i := range n {
		fmt.Fprintf(&lines, "cpu v=1,s=\"%s\" %d\n", value, i+1)
	}
	into := &coordinator.IntoWriteRequest{
		Database: db, RetentionPolicy: policy, Points: mustPoints(t, lines.String()),
	}
	if err := w.WritePointsInto(into); err != nil {
		t.Fatal(err)
	}
	if got := count(t, c.stores[1], "cpu"); got != n {
		t.Errorf("%d points, want %d", got, n)
	}
	got := c.served.Statistics(nil)[0].Values
	if got["writeShardReq"] != int64(3) || got["writeShardPointsReq"] != int64(n) || got["writeShardFail"] != int64(0) {
		t.Errorf("got %v", got)
	}
}

func TestStatisticsCountOwners(t *testing.T) {
	c := newTestCluster(t, "ok", "ok", "down")
	w := c.writer(t)
	if err := w.WritePoints(db, policy, quorum, nil, mustPoints(t, "cpu v=1 1000\ncpu v=2 2000")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	stats := w.Statistics(nil)
	want := map[string]interface{}{
		"req": int64(1), "pointReq": int64(2), "pointReqLocal": int64(2), "pointReqRemote": int64(4),
		"pointReqHH": int64(0),
		"writeOk":    int64(1), "writeDrop": int64(0), "writeTimeout": int64(0), "writeError": int64(0),
		"subWriteOk":   int64(1),
		"writePartial": int64(0), "subWriteDrop": int64(0), "pointsWrittenOK": int64(2), "valuesWrittenOK": int64(2),
	}
	if diff := cmp.Diff(want, stats[0].Values); diff != "" {
		t.Error(diff)
	}
	if n := w.ClientValues(); n != 2 {
		t.Errorf("clients have written %d fields, want 2", n)
	}
	got := c.served.Statistics(nil)[0].Values
	if got["writeShardReq"] != int64(1) || got["writeShardPointsReq"] != int64(2) ||
		got["openConnections"] != int64(1) {
		t.Errorf("got %v", got)
	}
}

// strict is a node that refuses every write for good.
type strict struct {
	rpc.UnimplementedReplicationServer
}

func (strict) WriteShard(context.Context, *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	return nil, status.Error(codes.InvalidArgument, "malformed")
}

// Hinted handoff does not keep what an owner refuses for good. When the write is acknowledged, that owner's copy lacks
// it.
func TestOwnerThatRefusesAnAcknowledgedWriteLacksIt(t *testing.T) {
	t.Parallel()
	for level, want := range map[models.ConsistencyLevel]bool{one: true, all: false} {
		c := newTestCluster(t, "ok", "down")
		c.meta.Nodes[1].TCPAddr = mustServe(t, strict{})
		w := c.newWriter(t, 1)
		found := &lacking{}
		w.Copies = found
		w.Open()
		points := mustPoints(t, "m v=1 1")
		learnAll(w, points)
		if err := w.WritePoints(db, policy, level, nil, points); (err == nil) != want {
			t.Errorf("level %d: %v", level, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(found.missed, 2); got != want {
			t.Errorf("level %d: the copy lacks the write: %t, want %t", level, got, want)
		}
	}
}

// dropping is a node that drops so many points of each write.
type dropping struct {
	rpc.UnimplementedReplicationServer
	points int32
}

func (d dropping) WriteShard(context.Context, *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if d.points == 0 {
		return &rpc.WriteShardResponse{}, nil
	}
	return &rpc.WriteShardResponse{Partial: true, Dropped: d.points, Error: "max-values-per-tag limit exceeded"}, nil
}

// The limits of owners are reached at different times. An owner that takes less of a write than another one lacks the
// rest. Of what all owners drop, no copy lacks anything.
func TestOwnerThatTakesAPartOfAWriteLacksTheRest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		level models.ConsistencyLevel
		drops [2]int32 // by nodes 2 and 3
		want  []uint64 // whose copies lack something; node 1 takes all points
	}{
		{one, [2]int32{0, 0}, nil},
		{one, [2]int32{1, 0}, []uint64{2}},
		{all, [2]int32{1, 2}, []uint64{2, 3}},
		{quorum, [2]int32{3, 3}, []uint64{2, 3}},
	} {
		c := newTestCluster(t, "ok", "down", "down")
		for i, n := range tt.drops {
			c.meta.Nodes[i+1].TCPAddr = mustServe(t, dropping{points: n})
		}
		w := c.newWriter(t, 1)
		found := &lacking{}
		w.Copies = found
		w.Open()
		points := mustPoints(t, "m v=1 1\nm v=2 2\nm v=3 3")
		learnAll(w, points)
		_ = w.WritePoints(db, policy, tt.level, nil, points)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(found.missed)
		if !slices.Equal(found.missed, tt.want) {
			t.Errorf("%+v: %v lack something", tt, found.missed)
		}
	}
	same := newVerdict()
	for node := range uint64(4) {
		same.took(lane{node, 1}, 2, "limit of tag a")
	}
	if lack := same.pass(nil); len(lack) > 0 {
		t.Errorf("%v lack what all drop", lack)
	}
	if lack := same.took(lane{4, 1}, 1, "limit of tag a"); len(lack) != 1 || lack[0].node != 4 {
		t.Errorf("%v lack what the last owner dropped", lack)
	}
	other := newVerdict()
	other.took(lane{1, 1}, 2, "limit of tag a")
	other.took(lane{2, 1}, 2, "limit of tag b")
	if lack := other.pass(nil); len(lack) != 2 {
		t.Errorf("%v lack what the other owner has, and not both", lack)
	}
}
