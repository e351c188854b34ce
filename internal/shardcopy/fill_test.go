package shardcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/enginetest"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/rpc"
)

var shard7 = cluster.Shard{ID: 7, Database: "db", RetentionPolicy: "rp"}

// flaky is a source that breaks off after so many messages, and counts the bytes that it sent.
type flaky struct {
	*Server
	messages int64 // negative is no limit
	bytes    atomic.Int64
}

type flakyStream struct {
	grpc.ServerStreamingServer[rpc.FilesChunk]
	f    *flaky
	left int64
}

func (s *flakyStream) Send(c *rpc.FilesChunk) error {
	if s.left == 0 {
		return errors.New("the link broke")
	}
	s.left--
	s.f.bytes.Add(int64(len(c.Data)))
	return s.ServerStreamingServer.Send(c)
}

func (f *flaky) Files(r *rpc.FilesRequest, stream grpc.ServerStreamingServer[rpc.FilesChunk]) error {
	return f.Server.Files(r, &flakyStream{stream, f, f.messages})
}

// filled is a source with a shard of three files, of which one has tombstones, and something in the write cache.
func filled(t *testing.T) *flaky {
	src := newServer(t)
	for i := range 3 {
		var lines strings.Builder
		for j := range 3000 {
			fmt.Fprintf(&lines, "m,host=%d s=\"%x\" %d\n", j%5, crc32.ChecksumIEEE(fmt.Append(nil, i, j)), i*3000+j)
		}
		mustWrite(t, src.Store.Store, 7, lines.String())
		if err := flush(src.Store.Store, 7); err != nil {
			t.Fatal(err)
		}
	}
	mustDelete(t, src.Store.Store, "host = '3' AND time < 4000")
	mustWrite(t, src.Store.Store, 7, "m,host=new s=\"cache\" 1")
	mustNotCompact(t, src.Store.Store, 7)
	return &flaky{Server: src, messages: -1}
}

// contents is how many points a shard has of each series, and a sum over them.
func contents(t *testing.T, s *tsdb.Store, id uint64) map[string]string {
	t.Helper()
	sh := s.Shard(id)
	if sh == nil {
		return nil
	}
	out := make(map[string]string)
	for _, host := range []string{"0", "1", "2", "3", "4", "new"} {
		series := "m,host=" + host
		region := patch.Region{
			Series: []byte(series), Field: "s", Type: digest.String, Min: math.MinInt64 + 2, Max: math.MaxInt64 - 1,
		}
		n, sum := 0, crc32.NewIEEE()
		err := patch.Read(t.Context(), sh, []patch.Region{region}, patch.Limits{}, func(b patch.Block) error {
			vs, err := b.Decode()
			for _, v := range vs {
				fmt.Fprintln(sum, v.UnixNano(), v.Value())
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		out[series] = fmt.Sprintf("%4d points %x", n, sum.Sum32())
	}
	return out
}

func fillFrom(ctx context.Context, dst *Server, addr string, deletes uint64) error {
	return dst.FillFrom(ctx, shard7, entropy.Source{
		Node: cluster.Node{TCPAddr: addr}, Deletes: deletes,
	}, func(int64, int64) {})
}

func newFilled(t *testing.T) *Server {
	dst := newServer(t)
	dst.Dir = filepath.Join(t.TempDir(), "incoming")
	return dst
}

func gathered(t *testing.T, s *Server) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(s.Dir, "7"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, n := range list {
		names = append(names, n.Name())
	}
	return names
}

// The files would have points that another owner may have deleted already.
func TestNoFilesComeWhileADeleteIsUnderWayAtTheSource(t *testing.T) {
	t.Parallel()
	src, dst := filled(t), newFilled(t)
	var runs atomic.Bool
	runs.Store(true)
	src.DeleteUnderWay = func(uint64) bool { return runs.Load() }
	addr := mustServe(t, src)
	if err := fillFrom(t.Context(), dst, addr, 0); !errors.Is(err, entropy.ErrOvertaken) || len(gathered(t, dst)) > 0 {
		t.Errorf("%v, and %v", err, gathered(t, dst))
	}
	runs.Store(false)
	if err := fillFrom(t.Context(), dst, addr, 0); err != nil {
		t.Error(err)
	}
}

func TestMissingShardIsMadeOfFiles(t *testing.T) {
	t.Parallel()
	src := filled(t)
	dst := newFilled(t)
	var begun []uint64
	dst.Begun = func(id uint64) error { begun = append(begun, id); return nil }
	if err := fillFrom(t.Context(), dst, mustServe(t, src), 0); err != nil {
		t.Fatal(err)
	}
	want := contents(t, src.Store.Store, 7)
	if want["m,host=3"] >= want["m,host=2"] || !strings.HasPrefix(want["m,host=new"], "   1 points") {
		t.Fatalf("the source has %v", want)
	}
	if d := cmp.Diff(want, contents(t, dst.Store.Store, 7)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]uint64{7}, begun); d != "" {
		t.Error(d)
	}
	mustWrite(t, dst.Store.Store, 7, "m,host=later s=\"x\" 1") // it takes writes
	if err := dst.Store.Close(); err != nil {
		t.Fatal(err)
	}
	again := enginetest.Open(t, enginetest.Again(dst.Store.Store))
	if d := cmp.Diff(want, contents(t, again, 7)); d != "" {
		t.Error("after a restart:", d)
	}
	if names := gathered(t, dst); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestEmptyShardIsMadeEmpty(t *testing.T) {
	t.Parallel()
	src, dst := newServer(t), newFilled(t)
	if err := src.Store.CreateShard("db", "rp", 7, true); err != nil {
		t.Fatal(err)
	}
	if err := fillFrom(t.Context(), dst, mustServe(t, src), 0); err != nil || series(t, dst.Store.Store, 7) != 0 {
		t.Errorf("%v, %d series", err, series(t, dst.Store.Store, 7))
	}
}

// However often the link breaks, each byte of a file is sent once.
func TestFillGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	src := filled(t)
	addr := mustServe(t, src)
	whole := newFilled(t)
	if err := fillFrom(t.Context(), whole, addr, 0); err != nil {
		t.Fatal(err)
	}
	size := src.bytes.Swap(0)
	dst := newFilled(t)
	tries := 0
	for src.messages = 3; ; tries++ {
		err := fillFrom(t.Context(), dst, addr, 0)
		if err == nil {
			break
		}
		if tries > 20 || errors.Is(err, entropy.ErrNoFiles) || dst.Store.Shard(7) != nil {
			t.Fatalf("after %d tries: %v; the shard is there: %v", tries, err, dst.Store.Shard(7) != nil)
		}
		src.messages++
	}
	if tries == 0 || src.bytes.Load() != size {
		t.Errorf("%d bytes in %d tries, want %d", src.bytes.Load(), tries+1, size)
	}
	if d := cmp.Diff(contents(t, src.Store.Store, 7), contents(t, dst.Store.Store, 7)); d != "" {
		t.Error(d)
	}
}

// A file that was damaged in the folder where it waited is sent again.
func TestFillTrustsNothingThatWaited(t *testing.T) {
	t.Parallel()
	src := filled(t)
	addr := mustServe(t, src)
	dst := newFilled(t)
	src.messages = 4
	if err := fillFrom(t.Context(), dst, addr, 0); err == nil {
		t.Fatal("the link did not break")
	}
	src.messages = -1
	first := filepath.Join(dst.Dir, "7", gathered(t, dst)[0])
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	for path, data := range map[string][]byte{
		first: b,
		filepath.Join(dst.Dir, "7", "000000099-000000001.tsm"): []byte("of another time"),
		filepath.Join(dst.Dir, "7", "foreign"):                 []byte("foreign"),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := fillFrom(t.Context(), dst, addr, 0); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(contents(t, src.Store.Store, 7), contents(t, dst.Store.Store, 7)); d != "" {
		t.Error(d)
	}
}

func TestFillLeavesAShardThatAWriteBegan(t *testing.T) {
	t.Parallel()
	src := filled(t)
	addr := mustServe(t, src)
	dst := newFilled(t)
	mustWrite(t, dst.Store.Store, 7, "m,host=0 s=\"live\" 1")
	if err := fillFrom(t.Context(), dst, addr, 0); !errors.Is(err, entropy.ErrNoFiles) {
		t.Errorf("before: %v", err)
	}
	during := newFilled(t)
	during.Begun = func(uint64) error { mustWrite(t, during.Store.Store, 7, "m,host=0 s=\"live\" 1"); return nil }
	if err := fillFrom(t.Context(), during, addr, 0); !errors.Is(err, entropy.ErrNoFiles) {
		t.Errorf("meanwhile: %v", err)
	}
	for _, s := range []*Server{dst, during} {
		if got := contents(t, s.Store.Store, 7)["m,host=0"]; !strings.HasPrefix(got, "   1 points") {
			t.Errorf("the shard has %s of host 0, want the one of the write", got)
		}
	}
}

// What a delete made void is compared with the source again, and only what changed is sent.
func TestDeleteOvertakesFill(t *testing.T) {
	t.Parallel()
	src := filled(t)
	addr := mustServe(t, src)
	dst := newFilled(t)
	seen, released := uint64(5), 0
	dst.Hold = func(id, s uint64) (func(), bool) {
		return func() { released++ }, id == 7 && s == seen
	}
	if err := fillFrom(t.Context(), dst, addr, 4); !errors.Is(err, entropy.ErrOvertaken) || dst.Store.Shard(7) != nil {
		t.Fatalf("%v; the shard is there: %v", err, dst.Store.Shard(7) != nil)
	}
	size := src.bytes.Swap(0)
	mustDelete(t, src.Store.Store, "host = '1'")
	if err := fillFrom(t.Context(), dst, addr, 5); err != nil || released != 1 {
		t.Fatal(err, released)
	}
	if got := src.bytes.Load(); got > size/10 {
		t.Errorf("%d of %d bytes were sent again", got, size)
	}
	if d := cmp.Diff(contents(t, src.Store.Store, 7), contents(t, dst.Store.Store, 7)); d != "" ||
		!strings.HasPrefix(contents(t, dst.Store.Store, 7)["m,host=1"], "   0 points") {
		t.Error(d)
	}
}

// cannedFiles sends what it is told to.
type cannedFiles struct {
	rpc.UnimplementedShardsServer
	chunks []*rpc.FilesChunk
}

func (c *cannedFiles) Files(_ *rpc.FilesRequest, stream grpc.ServerStreamingServer[rpc.FilesChunk]) error {
	for _, m := range c.chunks {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func TestFillRefusesWhatIsNoShard(t *testing.T) {
	t.Parallel()
	const name = "000000001-000000001.tsm"
	garbage := bytes.Repeat([]byte("garbage"), 100)
	sum := crc32.Checksum(garbage, castagnoli)
	files := func(name string, size, from int64) *rpc.FilesChunk {
		return &rpc.FilesChunk{Files: []*rpc.FilesChunk_File{{Name: name, Size: size, From: from}}}
	}
	for _, tt := range []struct {
		name   string
		chunks []*rpc.FilesChunk
		want   string
	}{
		{"nothing", nil, "EOF"},
		{"a path", []*rpc.FilesChunk{files("../"+name, 1, 0)}, "not a valid file of a shard"},
		{"a name of no file", []*rpc.FilesChunk{files("fields.idx", 1, 0)}, "not a valid file of a shard"},
		{"a place that is not there", []*rpc.FilesChunk{files(name, 10, 11)}, "not a valid file of a shard"},
		{"a negative place", []*rpc.FilesChunk{files(name, 10, -1)}, "not a valid file of a shard"},
		{"what was never had", []*rpc.FilesChunk{files(name, 10, 5)}, "0 bytes"},
		{"another file", []*rpc.FilesChunk{files(name, 10, 0), {File: 1, Data: garbage}}, "file 1, and not 0"},
		{"too much", []*rpc.FilesChunk{files(name, 10, 0), {Data: garbage}}, "more than its 10 bytes"},
		{
			"too little", []*rpc.FilesChunk{files(name, 1000, 0), {Data: garbage}, {Last: true, Checksum: sum}},
			"another checksum",
		},
		{
			"another checksum",
			[]*rpc.FilesChunk{files(name, int64(len(garbage)), 0), {Data: garbage}, {Last: true, Checksum: sum + 1}},
			"another checksum",
		},
		{"a torn stream", []*rpc.FilesChunk{files(name, int64(len(garbage)), 0), {Data: garbage}}, "EOF"},
		{
			"garbage", []*rpc.FilesChunk{
				files(name, int64(len(garbage)), 0), {Data: garbage}, {Last: true, Checksum: sum},
			},
			"damaged",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := newFilled(t)
			err := fillFrom(t.Context(), dst, mustServe(t, &cannedFiles{chunks: tt.chunks}), 0)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if dst.Store.Shard(7) != nil {
				t.Error("there is a shard")
			}
			if tt.name == "garbage" != errors.Is(err, entropy.ErrNoFiles) {
				t.Errorf("ErrNoFiles: %v", err)
			}
		})
	}
}

func TestFullDiskRefusesFiles(t *testing.T) {
	t.Parallel()
	dst := newFilled(t)
	var asked int64
	dst.CheckDisk = func(n int64) error { asked = n; return errors.New("no space") }
	src := filled(t)
	if err := fillFrom(t.Context(), dst, mustServe(t, src), 0); err == nil ||
		!strings.Contains(err.Error(), "no space") ||
		asked < 1000 {
		t.Errorf("%v for %d bytes", err, asked)
	}
	if names := gathered(t, dst); len(names) > 0 {
		t.Errorf("wrote %v", names)
	}
}

// Nothing is left of a shard that is dropped while its files come, nor of one whose files wait for the next attempt.
func TestDroppedShardLeavesNoFiles(t *testing.T) {
	t.Parallel()
	src := filled(t)
	addr := mustServe(t, src)
	dst := newFilled(t)
	dst.Wait = func(ctx context.Context, _ int) error {
		if err := dst.Dropped(7); err != nil {
			t.Error(err)
		}
		return ctx.Err()
	}
	if err := fillFrom(t.Context(), dst, addr, 0); !errors.Is(err, errDropped) {
		t.Errorf("the fill ends with %v", err)
	}
	if _, err := os.Stat(filepath.Join(dst.Dir, "7")); !errors.Is(err, os.ErrNotExist) || dst.Store.Shard(7) != nil {
		t.Errorf("the fill left %v, %v", gathered(t, dst), err)
	}

	dst.Wait = nil
	src.messages = 2
	if err := fillFrom(t.Context(), dst, addr, 0); err == nil || len(gathered(t, dst)) == 0 {
		t.Fatalf("%v, and %v is there", err, gathered(t, dst))
	}
	if err := dst.Dropped(7); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dst.Dir, "7")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the drop left %v, %v", gathered(t, dst), err)
	}
}

func TestDiscardKeepsWhatIsDue(t *testing.T) {
	t.Parallel()
	s := newFilled(t)
	for _, name := range []string{"7", "8", "x"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, name), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Discard(func(id uint64) bool { return id == 7 }); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(s.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != "7" {
		t.Errorf("%v, %v", left, err)
	}
}

// A source that lacks something itself sends its files only to who asks for what there is.
func TestOnlyWholeCopiesAreSources(t *testing.T) {
	t.Parallel()
	src := filled(t)
	src.NotWhole = func(_ context.Context, shards ...uint64) map[uint64]string {
		why := map[uint64]string{}
		for _, id := range shards {
			why[id] = fmt.Sprintf("shard %d waits for hints", id)
		}
		return why
	}
	addr := mustServe(t, src)
	const why = "its copy of shard 7 is not whole: shard 7 waits for hints"

	dst := newFilled(t)
	if err := fillFrom(t.Context(), dst, addr, 0); !errors.Is(err, entropy.ErrSourceNotWhole) ||
		!strings.Contains(err.Error(), why) || dst.Store.Shard(7) != nil {
		t.Errorf("Fill: %v", err)
	}
	copyReq := &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr}
	if _, err := dst.Copy(t.Context(), copyReq); err == nil || !strings.Contains(err.Error(), why) ||
		dst.Store.Shard(7) != nil {
		t.Errorf("Copy: %v", err)
	}
	about, err := src.Describe(t.Context(), &rpc.DescribeRequest{ShardIds: []uint64{7, 8}})
	if err != nil || about.Shards[0].NotWhole != "shard 7 waits for hints" ||
		about.Shards[1].NotWhole != "shard 8 waits for hints" || about.Shards[1].Exists {
		t.Errorf("Describe: %v, %v", about, err)
	}

	from := entropy.Source{Node: cluster.Node{TCPAddr: addr}, Incomplete: true}
	if err := dst.FillFrom(t.Context(), shard7, from, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(contents(t, src.Store.Store, 7), contents(t, dst.Store.Store, 7)); d != "" {
		t.Error(d)
	}
	copyReq.Incomplete = true
	if _, err := dst.Copy(t.Context(), copyReq); err != nil {
		t.Error(err)
	}
}
