package compare

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare/plain"
)

// sides are a cluster and a single node with the same databases.
type sides struct {
	ctx     context.Context
	cluster *devcluster.Cluster
	nodes   []*datanode.Node // of the cluster, those that are asked
	plain   *plain.Node
	admin   Form // how an administrator writes and asks
	turn    int  // whose turn it is
}

// databases by name, and how many replicas they have.
var databases = map[string]int{"one": 1, "two": 2, "three": 3}

func mustStart(t *testing.T, index string, auth bool, dbs ...string) *sides {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Options{Dir: t.TempDir(), DataNodes: 3, DataConfig: func(cfg *datanode.Config) {
		cfg.Data.Index, cfg.HTTPD.AuthEnabled = index, auth
		cfg.AntiEntropy.Enabled = false // nothing here needs repair
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := plain.Start(plain.Options{Dir: dir, Index: index, Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	s := &sides{ctx: ctx, cluster: c, nodes: c.Data, plain: p}
	if auth {
		s.both(t, "", `CREATE USER root WITH PASSWORD 'secret' WITH ALL PRIVILEGES`, Form{})
		s.settle(t)
		s.admin = Form{Name: "root"}.As("root", "secret")
	}
	for _, db := range dbs {
		s.both(t, "", fmt.Sprintf(`CREATE DATABASE %s WITH REPLICATION %d NAME "autogen"`, db, databases[db]), s.admin)
		s.settle(t)
		for _, lines := range Data() {
			for _, addr := range []string{s.plain.HTTPAddr(), s.nodes[0].HTTPAddr()} {
				if err := Write(s.ctx, addr, db, lines, s.admin); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.settle(t)
	return s
}

// settle waits until every node knows all of the metadata.
func (s *sides) settle(t *testing.T) {
	t.Helper()
	if err := s.cluster.Wait(s.ctx, func() bool {
		want := s.cluster.Meta.State().Index
		for _, n := range s.nodes {
			if n.Meta.State().Index < want {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal("the nodes do not learn the metadata:", err)
	}
}

// node is the data node whose turn it is.
func (s *sides) node() string {
	s.turn++
	return s.nodes[s.turn%len(s.nodes)].HTTPAddr()
}

// both asks both sides; the answers must be the same.
func (s *sides) both(t *testing.T, db, statement string, f Form) {
	t.Helper()
	if differ := s.ask(t, db, statement, f); differ != "" {
		t.Error(differ)
	}
}

// ask asks both sides and tells how their answers differ.
func (s *sides) ask(t *testing.T, db, statement string, f Form) (differ string) {
	t.Helper()
	want, err := Ask(s.ctx, s.plain.HTTPAddr(), db, statement, f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Ask(s.ctx, s.node(), db, statement, f)
	if err != nil {
		t.Fatal(err)
	}
	if Same(want, got) {
		return ""
	}
	if rows, told, ok := CSVError(got); ok && Same(want, rows) {
		// A single node loses the error of a statement in CSV. The cluster tells the one that it has in JSON.
		inJSON, err := Ask(s.ctx, s.plain.HTTPAddr(), db, statement, Form{Params: f.Params})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(inJSON, `"error":`+told) {
			return ""
		}
		want = inJSON
	}
	return fmt.Sprintf("%s, %s, node %d: %s\n the cluster answers %s\n the single node   %s",
		db, f.Name, s.turn%len(s.nodes)+1, statement, near(got, want), near(want, got))
}

// near is the part of a where it begins to differ from b.
func near(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return fmt.Sprintf("(%d bytes) …%s…", len(a), strings.TrimSpace(a[max(0, i-200):min(len(a), i+200)]))
}

// changes runs Changes on db, each with the reads that follow it. SELECT INTO
// returns when one owner has the points; the others follow in a moment.
func (s *sides) changes(t *testing.T, db string) {
	t.Helper()
	for _, c := range Changes {
		change, reads := c[0], c[1:]
		if strings.Contains(change, "%") {
			change = fmt.Sprintf(change, db)
		}
		s.both(t, db, change, s.admin)
		s.settle(t)
		for _, r := range reads {
			ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
			var differ string
			err := s.cluster.Wait(ctx, func() bool {
				for range s.nodes {
					if differ = s.ask(t, db, r, s.admin); differ != "" {
						return false
					}
				}
				return true
			})
			cancel()
			if err != nil {
				t.Errorf("after %s\n%s", change, differ)
			}
		}
	}
}

func TestClusterAnswersAsASingleNodeDoes(t *testing.T) {
	t.Parallel()
	s := mustStart(t, "inmem", false, "one", "two")
	for i, statement := range Reads {
		s.both(t, "one", statement, Forms[i%len(Forms)])
		s.both(t, "two", statement, Forms[0])
	}
	s.changes(t, "one")
}

func TestEveryNodeExplains(t *testing.T) {
	t.Parallel()
	s := mustStart(t, "tsi1", false, "one")
	for _, n := range s.nodes {
		for statement, want := range map[string][]string{
			`EXPLAIN SELECT mean(usage) FROM cpu GROUP BY host`: {
				"mean(usage::float)", "NUMBER OF SERIES: 33", "CACHED VALUES: 1320",
			},
			`EXPLAIN ANALYZE SELECT mean(usage) FROM cpu GROUP BY host`: {
				"execution_time", "remote_iterator", "float_blocks_decoded",
			},
		} {
			got, err := Ask(s.ctx, n.HTTPAddr(), "one", statement, Forms[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s does not tell %s: %s", statement, w, got)
				}
			}
		}
	}
}

func TestSameSeesWhatDiffers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{`[1,"a"]`, `[1,"a"]`, true},
		{`[0.1]`, `[0.10000000000000002]`, true},
		{`[5]`, `[4.999999999999999]`, true},
		{`[-1e300]`, `[-1.0000000000000002e300]`, true},
		{`[0.1]`, `[0.1000001]`, false},
		{`[9007199254740993]`, `[9007199254740992]`, false},
		{`[1]`, `[-1]`, false},
		{`[1,2]`, `[1]`, false},
		{`["a"]`, `["b"]`, false},
		{`[1.5]a`, `[1.5]b`, false},
	} {
		if got := Same(tt.a, tt.b); got != tt.same {
			t.Errorf("Same(%s, %s) = %t", tt.a, tt.b, got)
		}
	}
}
