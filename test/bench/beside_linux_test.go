//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"concord/internal/enginetest"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// hold is a way in which background work is held back beside writes.
type hold struct {
	name   string
	share  float64      // of the processors that it may use; 0 is no work, 1 no limit
	follow bool         // the share follows the latency of writes, and begins with share
	procs  int          // GOMAXPROCS, in times of the processors
	lower  func() error // of the priority of its threads; nil runs it on any thread
}

func idle() error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}

func nice() error { return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19) }

// TestBeside compares ways to hold background work back, without a cluster: two goroutines decode and hash blocks, as a
// digest does, beside writes of 50 points over HTTP into the engine, each two milliseconds, from another process. The
// ways take turns, for a second and a half each, so that what else the machine does meets all of them.
func TestBeside(t *testing.T) {
	const rounds, turn = 8, 1500 * time.Millisecond
	ways := []hold{
		{name: "no background work", procs: 1},
		{name: "no background work, procs x2", procs: 2},
		{name: "no limit", share: 1, procs: 1},
		{name: "1/20", share: .05, procs: 1},
		{name: "1/20, procs x2", share: .05, procs: 2},
		{name: "follows latency", share: .05, follow: true, procs: 1},
		{name: "SCHED_IDLE", share: 1, procs: 1, lower: idle},
		{name: "SCHED_IDLE, procs x2", share: 1, procs: 2, lower: idle},
		{name: "nice 19, procs x2", share: 1, procs: 2, lower: nice},
		{name: "SCHED_IDLE, procs x2, 1/4", share: .25, procs: 2, lower: idle},
		{name: "SCHED_IDLE, procs x2, 1/20", share: .05, procs: 2, lower: idle},
		{name: "SCHED_IDLE, procs x2, follows latency", share: .05, follow: true, procs: 2, lower: idle},
	}
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	server := &writeServer{store: mustWritable(t), latencies: make([][]time.Duration, len(ways))}
	server.way.Store(-1)
	server.start(t)
	block := randomBlock(t)
	points, took := make([]int64, len(ways)), make([]time.Duration, len(ways))
	for round := range rounds {
		for i := range ways {
			i = (i + round) % len(ways)
			w := ways[i]
			runtime.GOMAXPROCS(w.procs * cores)
			ctx, cancel := context.WithCancel(t.Context())
			var done atomic.Int64
			var wg sync.WaitGroup
			if w.share > 0 {
				limit := rate.NewLimiter(rate.Limit(w.share*float64(cores)*1e9), int(time.Millisecond))
				if w.share == 1 {
					limit.SetLimit(rate.Inf)
				}
				if w.follow {
					wg.Go(func() {
						server.follow(ctx, w.share, func(s float64) { limit.SetLimit(rate.Limit(s * float64(cores) * 1e9)) })
					})
				}
				for range 2 {
					wg.Go(func() { digestAgain(ctx, w.lower, limit, block, &done) })
				}
			}
			<-time.After(turn / 5) // until it has settled
			before, begun := done.Load(), time.Now()
			server.way.Store(int64(i))
			<-time.After(turn)
			server.way.Store(-1)
			points[i] += done.Load() - before
			took[i] += time.Since(begun)
			cancel()
			wg.Wait()
		}
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "held back\twrites\tp50\tp90\tp99\tmillion points a second in the background\n")
	for i, w := range ways {
		l := server.latencies[i]
		if len(l) == 0 {
			t.Fatal("no writes beside ", w.name)
		}
		slices.Sort(l)
		at := func(percent int) time.Duration { return l[(len(l)-1)*percent/100].Round(10 * time.Microsecond) }
		fmt.Fprintf(out, "%s\t%d\t%v\t%v\t%v\t%.1f\n",
			w.name, len(l), at(50), at(90), at(99), float64(points[i])/took[i].Seconds()/1e6)
	}
	out.Flush()
}

// digestAgain reads a block again and again. Threads of a lower priority end with the goroutine: without privileges
// they cannot get their priority back.
func digestAgain(ctx context.Context, lower func() error, limit *rate.Limiter, block []byte, done *atomic.Int64) {
	if lower != nil {
		runtime.LockOSThread()
		if err := lower(); err != nil {
			panic(err)
		}
	}
	var a tsdb.FloatArray
	var point [16]byte
	for ctx.Err() == nil {
		begun := time.Now()
		if err := tsm1.DecodeFloatArrayBlock(block, &a); err != nil {
			panic(err)
		}
		sum := uint64(0)
		for i, at := range a.Timestamps {
			binary.LittleEndian.PutUint64(point[:], uint64(at))
			binary.LittleEndian.PutUint64(point[8:], math.Float64bits(a.Values[i]))
			sum += xxh3.Hash(point[:])
		}
		if sum == 0 {
			panic("nothing was hashed")
		}
		done.Add(int64(a.Len()))
		if limit.Limit() == rate.Inf {
			continue
		}
		if limit.WaitN(ctx, int(min(time.Since(begun), time.Millisecond))) != nil {
			return
		}
	}
}

func randomBlock(t *testing.T) []byte {
	t.Helper()
	values := make(tsm1.Values, 1000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range values {
		values[i] = tsm1.NewValue(int64(i)*1e10, rng.NormFloat64())
	}
	b, err := values.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustWritable(t *testing.T) *tsdb.Store {
	t.Helper()
	s := enginetest.Store(t, tsdb.InmemIndexName)
	enginetest.Shard(t, s, 1)
	return s
}

// writeServer writes what its client sends.
type writeServer struct {
	store *tsdb.Store
	way   atomic.Int64 // that is measured now; -1 is none

	served, spent atomic.Int64 // requests, and their nanoseconds

	mu        sync.Mutex
	latencies [][]time.Duration // as the client sees them, by way
}

func (s *writeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	way, begun := s.way.Load(), time.Now()
	defer func() { s.served.Add(1); s.spent.Add(int64(time.Since(begun))) }()
	b, err := io.ReadAll(r.Body)
	var points []models.Point
	if err == nil {
		points, err = models.ParsePoints(b)
	}
	if err == nil {
		err = s.store.WriteToShard(tsdb.WriteContext{}, 1, points)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, way)
}

const writeTo = "BENCH_WRITE_TO" // the address of a writeServer, for its client

// start serves, and starts the client, which prints the way and the latency of each write.
func (s *writeServer) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	client := exec.Command(os.Args[0], "-test.run", "^TestBesideClient$", "-test.timeout", "1h")
	client.Env = append(os.Environ(), writeTo+"=http://"+ln.Addr().String())
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Process.Kill(); client.Wait() })
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var way int
			var took time.Duration
			if n, _ := fmt.Sscanf(lines.Text(), "write %d %d", &way, &took); n == 2 && way >= 0 {
				s.mu.Lock()
				s.latencies[way] = append(s.latencies[way], took)
				s.mu.Unlock()
			}
		}
	}()
}

// TestBesideClient is the client of a writeServer.
func TestBesideClient(t *testing.T) {
	to := os.Getenv(writeTo)
	if to == "" {
		t.Skip("TestBeside starts it")
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		<-tick.C
		var b []byte
		for i := range 50 {
			n++
			b = fmt.Appendf(b, "w,host=%d v=%d %d\n", i, n, n*1e6)
		}
		begun := time.Now()
		r, err := http.Post(to, "", bytes.NewReader(b))
		if err != nil {
			return // the server has ended
		}
		way, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(r.Status, string(way), err)
		}
		if _, err := strconv.Atoi(strings.TrimSpace(string(way))); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("write %s %d\n", way, time.Since(begun))
	}
}

// follow halves the share when writes take a fifth longer than they did at best of late, and else lets it grow.
func (s *writeServer) follow(ctx context.Context, share float64, set func(float64)) {
	best := 0.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n, spent := s.served.Load(), s.spent.Load()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n = s.served.Load() - n; n == 0 {
			continue
		}
		mean := float64(s.spent.Load()-spent) / float64(n)
		if best *= 1.02; best == 0 || mean < best {
			best = mean
		}
		if mean > 1.2*best {
			share = max(share/2, .01)
		} else {
			share = min(share*1.2, 1)
		}
		set(share)
	}
}
