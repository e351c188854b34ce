package shardcopy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/compactions"
	"concord/internal/drops"
	"concord/internal/enginetest"
	"concord/internal/rpc"
)

func mustStore(t *testing.T) *tsdb.Store {
	t.Helper()
	s := enginetest.New(t.TempDir(), tsdb.TSI1IndexName)
	s.EngineOptions.CompactionDisabled = true // tests count files and bytes
	return enginetest.Open(t, s)
}

func mustWrite(t *testing.T, s *tsdb.Store, id uint64, lines string) {
	t.Helper()
	enginetest.Shard(t, s, id)
	enginetest.Write(t, s, id, lines)
}

// mustDelete deletes the points of measurement m that a condition names.
func mustDelete(t *testing.T, s *tsdb.Store, cond string) {
	t.Helper()
	if err := s.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: "m"}},
		influxql.MustParseExpr(cond)); err != nil {
		t.Fatal(err)
	}
}

func importInto(t *testing.T, s *tsdb.Store, id uint64, r io.Reader) error {
	return Import(t.Context(), drops.New(s, nil), "db", "rp", id, r)
}

// mustNotCompact keeps the files of a shard as they are. To write its cache allows compactions.
func mustNotCompact(t *testing.T, s *tsdb.Store, id uint64) {
	t.Helper()
	if _, err := compactions.Hold(s.Shard(id)); err != nil {
		t.Fatal(err)
	}
}

// onePoint is a shard with one point, as it is exported.
func onePoint(t *testing.T) []byte {
	t.Helper()
	s := mustStore(t)
	mustWrite(t, s, 7, "m,host=a v=1 1")
	var b bytes.Buffer
	if err := Export(s, 7, Range{}, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func series(t *testing.T, s *tsdb.Store, id uint64) int64 {
	t.Helper()
	sh := s.Shard(id)
	if sh == nil {
		return -1
	}
	return sh.SeriesN()
}

// TestDeletesAreCarriedOutOnTheFilesThatLeave deletes from a file on disk, and from the cache.
func TestDeletesAreCarriedOutOnTheFilesThatLeave(t *testing.T) {
	t.Parallel()
	src, dst := mustStore(t), mustStore(t)
	mustWrite(t, src, 7, "m,host=a v=1 1\nm,host=b v=1 1\nm,host=c v=1 1")
	if err := flush(src, 7); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, src, 7, "m,host=d v=1 1")
	for _, host := range []string{"b", "d"} {
		mustDelete(t, src, "host = '"+host+"'")
	}
	var b bytes.Buffer
	if err := Export(src, 7, Range{}, &b); err != nil {
		t.Fatal(err)
	}
	if err := importInto(t, dst, 9, &b); err != nil {
		t.Fatal(err)
	}
	if n := series(t, dst, 9); n != 2 {
		t.Errorf("the copy has %d series, want 2", n)
	}
	if n := series(t, src, 7); n != 2 {
		t.Errorf("the source has %d series, want 2", n)
	}
}

// The engine does not see the first tombstones of a file for which it is asked while a delete writes them.
func TestWhatTheEngineDoesNotKnowAsDeletedDoesNotLeave(t *testing.T) {
	t.Parallel()
	for name, hosts := range map[string][]string{"some series": {"b"}, "all": {"a", "b"}} {
		src, dst := mustStore(t), mustStore(t)
		mustWrite(t, src, 7, "m,host=a v=1 1\nm,host=b v=1 1")
		if err := flush(src, 7); err != nil {
			t.Fatal(err)
		}
		mustNotCompact(t, src, 7)
		engine := enginetest.Engine(t, src.Shard(7))
		for _, f := range engine.FileStore.Files() {
			batch := f.BatchDelete()
			for _, host := range hosts {
				key := tsm1.SeriesFieldKeyBytes("m,host="+host, "v")
				if err := batch.DeleteRange([][]byte{key}, 1, 1); err != nil {
					t.Fatal(err)
				}
			}
			f.TombstoneStats()
			if err := batch.Commit(); err != nil {
				t.Fatal(err)
			}
			if f.HasTombstones() {
				t.Fatal("the engine is right: tsmfile.CheckTombstones is not needed any more")
			}
		}
		var b bytes.Buffer
		if err := Export(src, 7, Range{}, &b); err != nil {
			t.Fatal(err)
		}
		if err := importInto(t, dst, 9, &b); err != nil {
			t.Fatal(err)
		}
		if n := series(t, dst, 9); n != int64(2-len(hosts)) {
			t.Errorf("%s deleted: the copy has %d series", name, n)
		}
		for _, f := range engine.FileStore.Files() {
			if !f.HasTombstones() {
				t.Errorf("%s deleted: the engine does not know the tombstones", name)
			}
		}
	}
}

// The store takes the right to write its cache to a file from a shard that it finds idle.
func TestShardThatWasIdleCanBeRead(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(*Server) error{
		"export": func(s *Server) error { return Export(s.Store.Store, 7, Range{}, io.Discard) },
		"describe": func(s *Server) error {
			about, err := s.Describe(t.Context(), &rpc.DescribeRequest{ShardIds: []uint64{7}, Flush: true})
			if err == nil && about.Shards[0].NotWhole != "" {
				err = errors.New(about.Shards[0].NotWhole)
			}
			return err
		},
	} {
		s := newServer(t)
		mustWrite(t, s.Store.Store, 7, "m v=1 1")
		if err := flush(s.Store.Store, 7); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, s.Store.Store, 7, "m v=1 2")
		if err := s.Store.Shard(7).Free(); err != nil { // the store had found it idle just before the write
			t.Fatal(err)
		}
		if err := read(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImportRefusesWhatIsNoShard(t *testing.T) {
	t.Parallel()
	archive := func(name string, data []byte) io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Typeflag: tar.TypeReg})
		w.Write(data)
		w.Close()
		return &b
	}
	full := mustStore(t)
	mustWrite(t, full, 7, "m v=1 1")
	if err := importInto(t, full, 7, archive("db/rp/7/000000001-000000001.tsm", nil)); err == nil ||
		!strings.Contains(err.Error(), "not empty") || series(t, full, 7) != 1 {
		t.Errorf("over data: %v", err)
	}
	for name, r := range map[string]io.Reader{
		"garbage":         strings.NewReader(strings.Repeat("garbage", 1000)),
		"a name outside":  archive("../../../etc/x.tsm", []byte("x")),
		"a damaged file":  archive("db/rp/7/000000001-000000001.tsm", []byte("garbage")),
		"a broken stream": io.MultiReader(archive("db/rp/7/000000001-000000001.tsm", nil), errReader{}),
	} {
		s := mustStore(t)
		if err := importInto(t, s, 7, r); err == nil {
			t.Errorf("%s is imported", name)
		}
		if n := series(t, s, 7); n > 0 {
			t.Errorf("%s leaves a shard with %d series", name, n)
		}
	}
	// An empty shard is a shard.
	s := mustStore(t)
	var b bytes.Buffer
	tar.NewWriter(&b).Close()
	if err := importInto(t, s, 7, &b); err != nil || series(t, s, 7) != 0 {
		t.Errorf("an empty shard: %v", err)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errTorn }

// source serves one shard, slowly.
type source struct {
	rpc.UnimplementedShardsServer
	chunks []*rpc.ExportChunk
	block  bool // after the chunks
}

func (s *source) Describe(context.Context, *rpc.DescribeRequest) (*rpc.DescribeResponse, error) {
	return &rpc.DescribeResponse{Shards: []*rpc.ShardDescription{{ShardId: 7, Exists: true, Size: 100}}}, nil
}

func (s *source) Export(_ *rpc.ExportRequest, stream grpc.ServerStreamingServer[rpc.ExportChunk]) error {
	for _, c := range s.chunks {
		if err := stream.Send(c); err != nil {
			return err
		}
	}
	if s.block {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

func mustServe(t *testing.T, srv rpc.ShardsServer) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer()
	rpc.RegisterShardsServer(s, srv)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

func newServer(t *testing.T) *Server {
	t.Helper()
	pool := &rpc.Pool{}
	t.Cleanup(func() { pool.Close() })
	return &Server{Store: drops.New(mustStore(t), nil), Pool: pool, Log: zap.NewNop()}
}

func TestKilledCopyStaysKilled(t *testing.T) {
	t.Parallel()
	addr := mustServe(t, &source{chunks: []*rpc.ExportChunk{{Data: make([]byte, 100)}}, block: true})
	s := newServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Copy(ctx, &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr})
		ended <- err
	}()
	for running := false; !running; {
		resp, err := s.Copies(ctx, &rpc.CopiesRequest{})
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		running = len(resp.Copies) == 1 && resp.Copies[0].Current == 100 && resp.Copies[0].Total == 100
	}
	if _, err := s.Copy(
		ctx, &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr},
	); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second copy of the shard: %v", err)
	}
	if _, err := s.KillCopy(ctx, &rpc.KillCopyRequest{ShardId: 8, Source: addr}); status.Code(err) != codes.NotFound {
		t.Errorf("kill of a copy that is not: %v", err)
	}
	if _, err := s.KillCopy(ctx, &rpc.KillCopyRequest{ShardId: 7, Source: addr}); err != nil {
		t.Fatal(err)
	}
	if s.Store.Shard(7) != nil {
		t.Error("something of the copy is left")
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the copy was killed") {
		t.Errorf("the copy ended with %v", err)
	}
	if resp, _ := s.Copies(ctx, &rpc.CopiesRequest{}); len(resp.Copies) != 0 {
		t.Errorf("it is still listed: %v", resp.Copies)
	}
}

func TestTornAndDamagedStreamsLeaveNothing(t *testing.T) {
	t.Parallel()
	whole := onePoint(t)
	for name, chunks := range map[string][]*rpc.ExportChunk{
		"no checksum":      {{Data: whole}},
		"a wrong checksum": {{Data: whole}, {Last: true, Bytes: uint64(len(whole)), Checksum: 1}},
		"half":             {{Data: whole[:len(whole)/2]}},
	} {
		s := newServer(t)
		_, err := s.Copy(t.Context(), &rpc.CopyRequest{
			ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: mustServe(t, &source{chunks: chunks}),
		})
		if err == nil || s.Store.Shard(7) != nil {
			t.Errorf("%s: %v, and a shard is left: %v", name, err, s.Store.Shard(7) != nil)
		}
	}
}

// A delete that comes while a shard is copied makes the copy begin anew.
func TestCopyBeginsAnewAfterADelete(t *testing.T) {
	t.Parallel()
	src := newServer(t)
	mustWrite(t, src.Store.Store, 7, "m,host=a v=1 1")
	var runs atomic.Bool
	src.DeleteUnderWay = func(uint64) bool { return runs.Swap(false) }
	addr := mustServe(t, src)
	dst := newServer(t)
	asked := 0
	dst.Deletes = func(uint64) uint64 { // one delete, during the first attempt
		asked++
		return uint64(min(asked, 2))
	}
	began := 0
	dst.Begun = func(uint64) error { began++; return nil }
	if _, err := dst.Copy(t.Context(),
		&rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr}); err != nil {
		t.Fatal(err)
	}
	if began != 2 || series(t, dst.Store.Store, 7) != 1 {
		t.Errorf("%d attempts, %d series", began, series(t, dst.Store.Store, 7))
	}
	began = 0
	dst.Deletes = nil
	runs.Store(true)
	if _, err := dst.Copy(t.Context(),
		&rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr}); err != nil || began != 2 {
		t.Errorf("a delete is under way at the source at first: %v after %d attempts", err, began)
	}
	asked = 0
	dst.Deletes = func(uint64) uint64 { asked++; return uint64(asked) }
	if _, err := dst.Copy(
		t.Context(), &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr},
	); err == nil || !strings.Contains(err.Error(), "deletes come all the time") {
		t.Errorf("deletes all the time: %v", err)
	}
	if _, err := dst.Copy(
		t.Context(), &rpc.CopyRequest{ShardId: 7, Database: "..", RetentionPolicy: "rp", Source: addr},
	); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a name that is a path: %v", err)
	}
}
