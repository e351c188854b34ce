package deletes

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxql"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

const deletable = "cpu,host=a v=1 1000\ncpu,host=b v=1 2000\nmem,host=a v=1 1000\n" +
	`odd\ "name"\,'é/,host=it\ is\ 'é' v=1 1000`

func TestDeleteReachesAllNodes(t *testing.T) {
	odd := `odd "name",'é/`
	for _, tt := range []struct {
		name string
		do   func(*Service) error
		want map[string]int // left; nil when the shard is gone
	}{
		{"measurement", func(d *Service) error {
			return d.DeleteMeasurement(db, odd)
		}, map[string]int{"cpu": 2, "mem": 1, odd: 0}},
		{"series of a tag", deleteOf(`DELETE FROM cpu WHERE host = 'b'`), map[string]int{"cpu": 1, "mem": 1, odd: 1}},
		{"tag of odd value", deleteOf(`DELETE WHERE host = 'it is \'é\''`), map[string]int{"cpu": 2, "mem": 1, odd: 0}},
		{"odd measurement", deleteOf(`DELETE FROM "odd \"name\",'é/"`), map[string]int{"cpu": 2, "mem": 1, odd: 0}},
		{"regex", deleteOf(`DELETE FROM /^(cpu|.*\/)$/ WHERE host =~ /a|é/`), map[string]int{"cpu": 1, "mem": 1, odd: 0}},
		{
			"time range", deleteOf(`DELETE FROM cpu WHERE time < now() AND time >= '1970-01-01T00:00:00.000002Z'`),
			map[string]int{"cpu": 1, "mem": 1, odd: 1},
		},
		{"other policy", deleteOf(`DELETE FROM "other".cpu`), map[string]int{"cpu": 2, "mem": 1, odd: 1}},
		{"retention policy", func(d *Service) error { return d.DeleteRetentionPolicy(db, policy) }, nil},
		{"database", func(d *Service) error { return d.DeleteDatabase(db) }, nil},
		{"shard", func(d *Service) error { return d.DeleteShard(shardID) }, nil},
		{"shard nobody has", func(d *Service) error { return d.DeleteShard(99) }, map[string]int{"cpu": 2, "mem": 1, odd: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "ok", "ok", "ok")
			if err := c.node(t).WritePoints(db, policy, all, nil, mustPoints(t, deletable)); err != nil {
				t.Fatal(err)
			}
			if err := tt.do(c.node(t).deletes); err != nil {
				t.Fatal(err)
			}
			for i, s := range c.stores {
				if tt.want == nil {
					if n := count(t, s, "cpu"); n != -1 {
						t.Errorf("node %d still has the shard, with %d points", i+1, n)
					}
					continue
				}
				got := map[string]int{}
				for m := range tt.want {
					got[m] = count(t, s, m)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("node %d: %s", i+1, diff)
				}
			}
		})
	}
}

func deleteOf(text string) func(*Service) error {
	return func(d *Service) error {
		sources, cond, err := parseDelete(text)
		if err != nil {
			return err
		}
		return d.DeleteSeries(db, sources, cond)
	}
}

func TestDeleteNamesNodesNotReached(t *testing.T) {
	c := newTestCluster(t, "ok", "ok", "down")
	c.meta.Owners = []uint64{1, 2}
	if err := c.node(t).WritePoints(db, policy, all, nil, mustPoints(t, deletable)); err != nil {
		t.Fatal(err)
	}
	d := c.node(t).deletes
	err := deleteOf(`DELETE FROM cpu`)(d)
	if err == nil || !strings.HasPrefix(err.Error(), "the delete did not reach "+c.meta.Nodes[2].TCPAddr+": ") ||
		!strings.HasSuffix(err.Error(), "run it again when the node is back") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	for i, s := range c.stores[:2] {
		if n := count(t, s, "cpu"); n != 0 {
			t.Errorf("node %d has %d points, want none", i+1, n)
		}
	}
	if err := d.DeleteDatabase(db); err != nil {
		t.Errorf("drop database with a node down: %v", err)
	}
}

// A drop may come to a node late, when the database was made again. The node may not remove the new shards.
func TestDropKeepsLaterShards(t *testing.T) {
	for what, drop := range map[string]func(*Service) error{
		"database": func(d *Service) error { return d.DeleteDatabase(db) },
		"policy":   func(d *Service) error { return d.DeleteRetentionPolicy(db, policy) },
	} {
		t.Run(what, func(t *testing.T) {
			c := newTestCluster(t, "ok", "ok")
			n := c.node(t)
			if err := n.WritePoints(db, policy, all, nil, mustPoints(t, deletable)); err != nil {
				t.Fatal(err)
			}
			const later = shardID + 1
			for _, s := range c.stores {
				if err := s.CreateShard(db, policy, later, true); err != nil {
					t.Fatal(err)
				}
			}
			if err := drop(n.deletes); err != nil {
				t.Fatal(err)
			}
			for i, s := range c.stores {
				if left := s.ShardIDs(); !slices.Equal(left, []uint64{later}) {
					t.Errorf("node %d has shards %d, want %d alone", i+1, left, later)
				}
			}
		})
	}
}

func TestDeleteThatCannotBeParsedIsRefused(t *testing.T) {
	for _, text := range []string{"DELETE WHERE " + strings.Repeat("(", 1_000_000), strings.Repeat("x", 17<<20)} {
		if _, _, err := parseDelete(text); err == nil || !strings.HasPrefix(err.Error(), "parse the delete: the query ") {
			t.Errorf("%.30s…: %v", text, err)
		}
	}
}

func TestDeleteTextRoundTrips(t *testing.T) {
	m := func(rp, name string) influxql.Source { return &influxql.Measurement{RetentionPolicy: rp, Name: name} }
	re := func(s string) *influxql.RegexLiteral { return &influxql.RegexLiteral{Val: regexp.MustCompile(s)} }
	src := func(s ...influxql.Source) []influxql.Source { return s }
	expr := func(s string) influxql.Expr {
		return influxql.Reduce(influxql.MustParseExpr(s), &influxql.NowValuer{Now: time.Unix(1, 1).UTC()})
	}
	for _, tt := range []struct {
		sources []influxql.Source
		cond    influxql.Expr
		want    string // empty: refused
	}{
		{src(m("", "cpu")), nil, `DELETE FROM cpu`},
		{src(m("", "two words"), m("", `q"u'o\te`)), nil, `DELETE FROM "two words", "q\"u'o\\te"`},
		{src(m("r p", "é.世界")), nil, `DELETE FROM "r p"."é.世界"`},
		{src(m("", "select"), m("", "1st"), m("", "a\nb")), nil, `DELETE FROM "select", "1st", "a\nb"`},
		{src(&influxql.Measurement{Regex: re(`^a/b\.c "$`)}), nil, `DELETE FROM /^a\/b\.c "$/`},
		{src(&influxql.Measurement{RetentionPolicy: "rp", Regex: re(`.*`)}), nil, `DELETE FROM rp./.*/`},
		{
			nil, expr(`host = 'it\'s' OR (a = 'x' OR b = 'y') AND c !~ /\/z/`),
			`DELETE WHERE host = 'it\'s' OR (a = 'x' OR b = 'y') AND c !~ /\/z/`,
		},
		{nil, expr(`time < now() - 1s`), `DELETE WHERE time < '1970-01-01T00:00:00.000000001Z'`},
		{nil, expr(`time > -5 AND "time" < 1h`), `DELETE WHERE time > -5 AND time < 1h`},
		{src(m("", "a\rb")), nil, ""},
		{src(m("", "a\xffb")), nil, ""},
		{src(&influxql.Measurement{Regex: re("a\nb")}), nil, ""},
		{src(&influxql.Measurement{Regex: re(`a\\`)}), nil, ""},
		{src(&influxql.Measurement{Database: "db", Name: "cpu"}), nil, ""},
		{nil, nil, ""},
	} {
		got, err := deleteText(tt.sources, tt.cond)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("got %q, %v; want %q", got, err, tt.want)
		}
	}
}

func TestDeleteNeedsAMajorityThatHearsOfIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		states []string
		want   string
	}{
		{[]string{"ok", "ok", "down"}, ""},
		{[]string{"ok", "down", "down"}, "the delete reaches 1 of 3 data nodes, and needs more than half"},
		{[]string{"ok", "down"}, ""}, // or there were no deletes while the other is away
	} {
		c := newTestCluster(t, tt.states...)
		w, hh := c.withHandoff(t, 30*time.Second)
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
			t.Fatal(err)
		}
		err := w.deletes.DeleteMeasurement(db, "m")
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.states, err, tt.want)
		}
		if left := count(t, c.stores[0], "m"); (left == 1) != (tt.want != "") {
			t.Errorf("%v: %d points are left", tt.states, left)
		}
		for i, state := range tt.states {
			if kept := hh.Pending(uint64(i+1), 999); kept != (state == "down" && tt.want == "") {
				t.Errorf("%v: kept for node %d: %v", tt.states, i+1, kept)
			}
		}
	}
}

// The client is told on which nodes the delete did not run, and what becomes of it there.
func TestOutcomeNamesAllThatWentWrong(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	d := c.node(t).deletes
	self, other := c.meta.Nodes[0], c.meta.Nodes[1]
	full, away := errors.New("disk full"), errors.New("away")
	missed := missedNodes{{other, away}}
	ran := d.onAllNodes(nil, func() error { return full }, nil)
	missing := ran
	missing.missed = missed
	failed := "data node " + self.TCPAddr + ": disk full; "
	both := []string{other.TCPAddr + ": away", self.TCPAddr + ": disk full"}
	slices.Sort(both)
	again := ": when these nodes are back, run the delete again"
	for _, tt := range []struct {
		name string
		got  error
		want string
	}{
		{"this store failed", ran.outcome(nil, nil), failed + "it is run again there, and has run on all other nodes"},
		{"another node was away before, too", ran.outcome(missed, nil),
			failed + "it is run again there, and on " + other.TCPAddr + ": away when they are back"},
		{"another node was away since, too", missing.outcome(nil, nil),
			failed + "it is run again there, and on " + other.TCPAddr + ": away when they are back"},
		{"and nothing is kept", missing.outcome(nil, errors.New("queue full")), failed +
			"the delete cannot be kept for " + strings.Join(both, ", ") + " (queue full)" + again},
		{"a node was away and nothing is kept", results{missed: missed}.outcome(nil, errors.New("queue full")),
			"the delete cannot be kept for " + other.TCPAddr + ": away (queue full)" + again},
		{"no store can run it", results{err: full}.outcome(missed, nil), "disk full"},
		{"all ran it", results{}.outcome(missed, nil), ""},
		{"too few ran it", results{missed: missedNodes{{self, away}}}.outcome(missed, nil), "the delete has run on 1 of 3 data nodes; " +
			"it runs on " + other.TCPAddr + ": away, " + self.TCPAddr + ": away when they are back"},
	} {
		got := ""
		if tt.got != nil {
			got = tt.got.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A node that hears that a delete ran on another one hears of a mark of that disk.
func TestWhoHearsOfADeleteHearsOfItsMark(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	var mu sync.Mutex
	heard := make(map[uint64][]uint64) // of which nodes, by node
	var nodes [2]*node
	for i := range nodes {
		n := c.newNode(t, uint64(i+1))
		withLog(t, n)
		n.deletes.deps.Mark = func() *rpc.DiskMark { return &rpc.DiskMark{Node: uint64(i + 1)} }
		n.deletes.deps.HearMark = func(m *rpc.DiskMark) {
			mu.Lock()
			defer mu.Unlock()
			heard[uint64(i+1)] = append(heard[uint64(i+1)], m.GetNode())
		}
		nodes[i] = mustOpen(t, n)
		c.meta.SetAddr(i, mustServe(t, n.server()))
	}
	nodes[0].deletes.deps.Handoff = nothingKept{}
	if err := nodes[0].deletes.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(heard[1], []uint64{2}) || !slices.Equal(heard[2], []uint64{1}) {
		t.Errorf("the nodes have heard of marks of %v", heard)
	}
}

// nothingKept is hinted handoff that keeps nothing.
type nothingKept struct{}

func (nothingKept) Append(uint64, uint64, ...handoff.Entry) error { return errors.New("full") }
func (nothingKept) Back(uint64)                                   {}

// A node that is behind may not know a node that joined. The delete would not run there, and nobody would keep it.
func TestNodeThatIsBehindDeletesNothing(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	n := c.node(t)
	if err := n.WritePoints(db, policy, all, nil, mustPoints(t, deletable)); err != nil {
		t.Fatal(err)
	}
	before := count(t, c.stores[0], "cpu")
	c.meta.Behind = errors.New("this node's metadata is behind")
	if err := deleteOf(`DELETE FROM cpu`)(n.deletes); !errors.Is(err, c.meta.Behind) {
		t.Errorf("the delete: %v", err)
	}
	if left := count(t, c.stores[0], "cpu"); left != before || left == 0 {
		t.Errorf("%d points of %d are left", left, before)
	}
	c.meta.Behind = nil
	if err := deleteOf(`DELETE FROM cpu`)(n.deletes); err != nil {
		t.Error(err)
	}
}
