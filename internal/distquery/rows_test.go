package distquery

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// endless is a cursor of one series that has no end.
type endless struct {
	query.Cursor
	row  []any
	rows int
}

func (e *endless) Columns() []influxql.VarRef { return make([]influxql.VarRef, len(e.row)) }
func (e *endless) Scan(r *query.Row) bool {
	e.rows++
	r.Values = e.row
	return true
}

func TestRowsAreCountedBeforeTheirPartIsWhole(t *testing.T) {
	t.Parallel()
	for _, row := range [][]any{{1.0}, make([]any, 10_000), {strings.Repeat("x", 1<<20)}} {
		share := budget.New(64 << 20).Open()
		cur := &endless{row: row}
		em := newEmitter(cur, 2_000_000_000, newPartCount(share))
		if _, partial, err := em.next(); err != nil || !partial || share.Held() > rowSize(row) {
			t.Errorf("%d columns: partial %t, %d bytes are held, %v", len(row), partial, share.Held(), err)
		}
		if held := int64(cur.rows) * rowSize(row); held > 8<<20+2*rowSize(row) {
			t.Errorf("%d columns: a part has %d bytes", len(row), held)
		}
		em.part.most = 1 << 40
		if _, _, err := em.next(); !errors.Is(err, budget.ErrExceeded) {
			t.Errorf("%d columns: all rows are one part, and it ended with %v", len(row), err)
		}
		share.Close()
	}
}

// merged is an answer whose parts are joined, as the engine joins them for an answer that is no stream.
func merged(answer string) string {
	var b strings.Builder
	last := ""
	for line := range strings.Lines(answer) {
		if !strings.HasPrefix(line, " ") {
			if line == last {
				continue
			}
			last = line
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestPartsOfAnAnswerAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	var b strings.Builder
	for i := range 12_000 {
		fmt.Fprintf(&b, "cpu v=%d %d\n", i, i)
	}
	for i := range 8_000 {
		fmt.Fprintf(&b, "m%04d v=1 %d\n", i, i)
	}
	c.write(t, b.String())
	requests := &budget.Requests{}
	n, bud := c.limited(t, newPool(t), 1<<20, requests)
	for _, size := range []int{10_000, 2_000_000_000} {
		for _, text := range []string{
			"SELECT v FROM cpu",
			"SELECT max(v) FROM cpu WHERE time >= 0 AND time < 12s GROUP BY time(1ms) fill(0)",
			"SHOW MEASUREMENTS",
		} {
			request := &budget.Request{Share: bud.Open(), Streamed: true}
			opt := query.ExecutionOptions{ChunkSize: size, NodeID: requests.Add(request)}
			got, want := n.run(t, text, opt), c.plain.run(t, text, query.ExecutionOptions{})
			if d := cmp.Diff(want, merged(got)); d != "" {
				t.Errorf("%s with %d rows in a part: %.500s", text, size, d)
			}
			request.Close()
		}
	}
}

// writes are the sizes of what SELECT INTO writes at once.
type writes struct {
	points int
	bytes  int // of the largest write
}

func (w *writes) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	n := 0
	for _, p := range r.Points {
		n += p.StringSize()
	}
	w.points, w.bytes = w.points+len(r.Points), max(w.bytes, n)
	return nil
}

func TestSelectIntoWritesFewLargePointsAtOnce(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1})
	var b strings.Builder
	text := strings.Repeat("x", 50_000)
	for i := range 100 {
		fmt.Fprintf(&b, "cpu s=\"%s\" %d\n", text, i)
	}
	c.write(t, b.String())
	n, _ := c.limited(t, newPool(t), 8<<20, &budget.Requests{})
	to := &writes{}
	n.exec.StatementExecutor.(*Executor).Base.PointsWriter = to
	got := n.run(t, "SELECT s INTO copy FROM cpu", query.ExecutionOptions{})
	if !strings.Contains(got, "100}") || to.points != 100 || to.bytes > 1<<20 {
		t.Errorf("%d points, %d bytes at once: %s", to.points, to.bytes, got)
	}
}
