package transport

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
	"concord/internal/rpc"
)

// counted is a listener whose connections count what goes through them, headers of HTTP/2 included.
type counted struct {
	net.Listener
	bytes atomic.Int64
}

func mustCount(t testing.TB) *counted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &counted{Listener: ln}
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	return countedConn{conn, &c.bytes}, err
}

type countedConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// windows lists n windows, of which some are missing or other ones for side 1.
type windows struct {
	canned
	n      int
	differ map[int]int // window -> 0: side 0 lacks it, 1: side 1 does, 2: another sum
	side   int
}

func (w *windows) Digests(_ context.Context, _ cluster.Shard, _ int64, fn func(*digest.SeriesField) error) error {
	var f digest.SeriesField
	for s := range w.n / digest.Windows {
		f = digest.SeriesField{
			Series: fmt.Appendf(f.Series[:0], "cpu,host=server-%06d,region=eu-west", s), Field: "usage_idle",
			Type: digest.Float,
		}
		for i := range digest.Windows {
			at := s*digest.Windows + i
			f.Windows[i] = digest.Sum{
				Count: 10, Hi: uint64(at) * 0x9e3779b97f4a7c15, Lo: uint64(at) * 0xbf58476d1ce4e5b9,
			}
			switch how, ok := w.differ[at]; {
			case ok && how == w.side:
				f.Windows[i] = digest.Sum{}
			case ok && how == 2 && w.side == 1:
				f.Windows[i].Lo++
			}
		}
		if err := fn(&f); err != nil {
			return err
		}
	}
	return nil
}

func (w *windows) Summarize(ctx context.Context, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	return spool(ctx, w, sh, until, key)
}

// compareOver finds the difference of two copies over a real connection, and returns the bytes on the wire.
func compareOver(t testing.TB, n int, differ map[int]int) (found []reconcile.Difference, wire int64) {
	t.Helper()
	ln := mustCount(t)
	rep, _, _, _ := mustServeOn(t, ln, &windows{n: n, differ: differ, side: 1}, nil)
	if _, err := rep.States(t.Context(), []uint64{7}); err != nil { // the handshake
		t.Fatal(err)
	}
	before := ln.bytes.Load()
	mine := &windows{n: n, differ: differ}
	owners := []reconcile.Owner{
		{List: func(ctx context.Context, fn func(*digest.SeriesField) error) error {
			return mine.Digests(ctx, shard, 0, fn)
		}},
		{
			List: func(context.Context, func(*digest.SeriesField) error) error {
				return fmt.Errorf("the list was asked for")
			},
			Summarize: func(ctx context.Context, key uint64) (reconcile.Summary, error) {
				return rep.Summarize(ctx, shard, math.MaxInt64, key)
			},
		},
	}
	err := reconcile.Rateless{Dir: t.TempDir()}.Differences(t.Context(), owners, func(d reconcile.Difference) error {
		found = append(found, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, ln.bytes.Load() - before
}

func randomWindows(n, differ int, hows ...int) map[int]int {
	rnd := rand.New(rand.NewPCG(11, uint64(differ)))
	out := make(map[int]int, differ)
	for len(out) < differ {
		out[rnd.IntN(n)] = hows[rnd.IntN(len(hows))]
	}
	return out
}

func TestDifferencesCostWhatDiffers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		hows  []int
		bytes int64 // for each window
	}{
		"missing there": {[]int{1}, 60},
		"missing here":  {[]int{0}, 120}, // with the names
		"other sums":    {[]int{2}, 100},
		"all kinds":     {[]int{0, 1, 2}, 120},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n, differ = 64 * 300, 200
			found, wire := compareOver(t, n, randomWindows(n, differ, tt.hows...))
			got := 0
			for _, d := range found {
				got += len(d.Marks)
			}
			if got != differ {
				t.Errorf("found %d windows of %d", got, differ)
			}
			if limit := differ*tt.bytes + 2000; wire > limit {
				t.Errorf("%d bytes on the wire, want at most %d", wire, limit)
			}
		})
	}
}

// A series that this node lacks is named by the peer.
func TestSummaryNamesSeries(t *testing.T) {
	t.Parallel()
	c := &canned{}
	for i := range 5000 {
		c.fields = append(c.fields, digest.SeriesField{
			Series: fmt.Appendf(nil, "m,host=%s%05d", strings.Repeat("x", 90), i), Field: "v\x00", Type: digest.Integer,
			Windows: [64]digest.Sum{{Count: 1, Lo: uint64(i)}},
		})
	}
	rep, _, _, _ := mustServe(t, c, nil)
	s, err := rep.Summarize(t.Context(), shard, math.MaxInt64, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Elements() != 5000 {
		t.Errorf("%d elements", s.Elements())
	}
	var hashes []uint64
	for _, f := range c.fields {
		hashes = append(hashes, reconcile.HashOf(5, f.Series, f.Field))
	}
	n := 0
	if err := s.Names(t.Context(), hashes, func(series []byte, field string) error {
		if !bytes.Equal(series, c.fields[n].Series) || field != c.fields[n].Field {
			return fmt.Errorf("name %d is %q %q", n, series, field)
		}
		n++
		return nil
	}); err != nil || n != 5000 {
		t.Errorf("%d names, %v", n, err)
	}
}

func TestSummaryRefusesWhatIsOutOfBounds(t *testing.T) {
	t.Parallel()
	_, _, pool, node := mustServe(t, &canned{}, nil)
	conn, err := pool.Conn(node.TCPAddr)
	if err != nil {
		t.Fatal(err)
	}
	open := &rpc.SummaryQuestion{
		Question: &rpc.SummaryQuestion_Open_{Open: &rpc.SummaryQuestion_Open{ShardId: 7, Start: 0, End: 1}},
	}
	symbols := func(from, to uint64) *rpc.SummaryQuestion {
		return &rpc.SummaryQuestion{
			Question: &rpc.SummaryQuestion_Symbols{Symbols: &rpc.SummaryQuestion_Range{From: from, To: to}},
		}
	}
	names := &rpc.SummaryQuestion{Question: &rpc.SummaryQuestion_Names{
		Names: &rpc.SummaryQuestion_Hashes{Hashes: make([]uint64, reconcile.MaxHashes+1)},
	}}
	for name, questions := range map[string][]*rpc.SummaryQuestion{
		"not opened":      {symbols(0, 1)},
		"empty":           {{}},
		"no shard":        {{Question: &rpc.SummaryQuestion_Open_{Open: &rpc.SummaryQuestion_Open{Start: 0, End: 1}}}},
		"no range":        {{Question: &rpc.SummaryQuestion_Open_{Open: &rpc.SummaryQuestion_Open{ShardId: 7}}}},
		"opened again":    {open, open},
		"descending":      {open, symbols(2, 1)},
		"too many":        {open, symbols(0, reconcile.MaxSymbols+1)},
		"beyond integers": {open, symbols(0, 1<<63)},
		"too many names":  {open, names},
	} {
		stream, err := rpc.NewReconcileClient(conn).Summarize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, q := range questions {
			stream.Send(q)
			if _, err = stream.Recv(); err != nil && i < len(questions)-1 {
				t.Errorf("%s: question %d: %v", name, i, err)
			}
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSummaryEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := &canned{}
	rep, _, _, _ := mustServe(t, c, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	s, err := rep.Summarize(ctx, shard, math.MaxInt64, 5)
	if err != nil {
		t.Fatal(err)
	}
	stopped := fmt.Errorf("paused")
	cancel(stopped)
	if _, err := s.Symbols(ctx, 0, 10); err != stopped {
		t.Errorf("got %v", err)
	}
	// All of them were given back.
	for i := range 2 * maxSummaries {
		s, err := rep.Summarize(t.Context(), shard, math.MaxInt64, 5)
		if err != nil && status.Code(err) != codes.ResourceExhausted {
			t.Fatal(i, err)
		}
		if err == nil {
			got, err := s.Symbols(t.Context(), 0, 3)
			if d := cmp.Diff(3, len(got)); d != "" || err != nil {
				t.Error(d, err)
			}
			s.Close()
		}
	}
}

// BenchmarkDifferencesOnTheWire compares copies of a million windows of which a thousand differ.
func BenchmarkDifferencesOnTheWire(b *testing.B) {
	const n, differ = 1_000_000 / 64 * 64, 1000
	for name, hows := range map[string][]int{
		"missing there": {1}, "missing here": {0}, "other sums": {2}, "all kinds": {0, 1, 2},
	} {
		b.Run(name, func(b *testing.B) {
			at := randomWindows(n, differ, hows...)
			var wire int64
			for b.Loop() {
				var found []reconcile.Difference
				found, wire = compareOver(b, n, at)
				if len(found) == 0 {
					b.Fatal("nothing found")
				}
			}
			b.ReportMetric(float64(wire), "wire-B/op")
		})
	}
}
