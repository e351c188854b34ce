//go:build campaign

package fuzz

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"concord/test/process"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the campaign; 0 takes a new one")
	requestsFlag = flag.Int("requests", 1_000_000, "how many requests")
	fromFlag     = flag.Int("from", 0, "the number of the first one: with -requests 1 a single one is sent again")
	knownFlag    = flag.Bool("known", true, "first send what once ended processes, which takes three minutes")
	workersFlag  = flag.Int("workers", 8, "requests at the same time")
	limitFlag    = flag.Duration("limit", time.Minute,
		"how long an answer may take; a query is ended after a quarter of it")
	memoryFlag = flag.Int64("memory", 2<<30, "bytes of memory that a data node may have")
)

func TestMain(m *testing.M) {
	if nodes := os.Getenv(plainVariable); nodes != "" {
		if err := servePlain(nodes); err != nil {
			fmt.Fprintln(os.Stderr, "the plain client:", err)
			os.Exit(1)
		}
		return
	}
	if d, err := time.ParseDuration(os.Getenv(busyVariable)); err == nil {
		end := time.Now().Add(d)
		var all sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			all.Go(func() {
				for time.Now().Before(end) {
				}
			})
		}
		all.Wait()
		return
	}
	process.Main(m)
}

// busyVariable has a process of this program do nothing but keep all processors busy, for as long as it says.
const busyVariable = "CONCORD_FUZZ_BUSY"

// busy keeps the processors busy, and the nodes have nothing to do with it. What the plain client sees beside it is
// what a machine without a free processor does to it, whatever takes the processors.
func busy(ctx context.Context, d time.Duration) error {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), busyVariable+"="+d.String())
	return cmd.Run()
}

// campaign is one run.
type campaign struct {
	*testing.T
	cluster *process.Cluster
	nodes   []*process.Node
	seed    uint64

	sent     sync.Map // what is under way: *request by worker
	kinds    kinds    // how long each kind of request took
	statuses [6]atomic.Int64
	slowest  atomic.Int64 // ns
	most     []int64      // memory of each node, bytes
}

func TestHTTP(t *testing.T) {
	c := &campaign{T: t, seed: *seedFlag}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano() % 1_000_000)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with: make campaign-http SEED=%d REQUESTS=%d", c.seed, *requestsFlag)
		}
	})
	// The garbage collector works within the limit, and queries may hold an eighth of it.
	t.Setenv("GOMEMLIMIT", fmt.Sprint(*memoryFlag*3/4))
	c.cluster = process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"cluster": {"query-timeout": (*limitFlag / 4).String(), "max-query-memory": *memoryFlag / 8},
		"data": {
			"index-version": "tsi1", "query-log-enabled": false, "cache-max-memory-size": "64m",
			"cache-snapshot-memory-size": "8m",
		},
		"http":         {"log-enabled": false, "max-concurrent-write-limit": 4},
		"anti-entropy": {"enabled": false},
		"monitor":      {"store-enabled": false},
	}})
	c.nodes = c.cluster.Data
	c.most = make([]int64, len(c.nodes))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c.prepare(ctx)

	c.plainBeside("alone", func() {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Second):
		}
	})
	c.plainBeside("beside busy processors", func() {
		if err := busy(ctx, 20*time.Second); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	began := c.heaps(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { c.watch(ctx, stop) })
	if *knownFlag {
		c.plainBeside("beside what once ended processes", func() { c.sendKnown(ctx) })
	}
	begun := time.Now()
	c.plainBeside("beside the requests", func() { c.run(ctx) })
	took := time.Since(begun)
	stop()
	watching.Wait()
	t.Logf("seed %d: %d requests in %s, the longest answer after %s; by status: 2xx %d, 4xx %d, 5xx %d, broken %d",
		c.seed, *requestsFlag, took,
		time.Duration(c.slowest.Load()), c.statuses[2].Load(), c.statuses[4].Load(), c.statuses[5].Load(),
		c.statuses[0].Load())
	t.Logf("by kind:\n%s", &c.kinds)
	for i, n := range c.nodes {
		t.Logf("%s: %d MB of memory at most", n.Name, c.most[i]>>20)
	}
	if !t.Failed() {
		c.settle(t.Context(), began)
	}
}

// plainBeside has the plain client send its requests until what is beside it has ended, and tells how long they took.
func (c *campaign) plainBeside(name string, beside func()) {
	stop, err := startPlain(c.nodes)
	if err != nil {
		c.Fatal(err)
	}
	beside()
	l, err := stop()
	if err != nil {
		c.Fatalf("the plain client %s: %v", name, err)
	}
	n, median, p99, most := l.figures()
	c.Logf("the plain client %s: %d requests, median %s, p99 %s, longest %s, %d errors",
		name, n, median, p99, most, len(l.Errors))
	if len(l.Errors) > 0 {
		c.Errorf("the plain client %s: %s", name, l.Errors[0])
	}
}

func (c *campaign) prepare(ctx context.Context) {
	for _, q := range []string{
		"CREATE DATABASE plain WITH REPLICATION 3", "CREATE DATABASE fuzz WITH REPLICATION 2",
		"CREATE DATABASE known WITH REPLICATION 2", "CREATE DATABASE scratch",
	} {
		if _, err := c.nodes[0].Client().Query(ctx, "", q); err != nil {
			c.Fatal(err)
		}
	}
	if err := c.fill(ctx); err != nil {
		c.Fatal(err)
	}
}

// fill writes what statements read.
func (c *campaign) fill(ctx context.Context) error {
	const writes, points = 10, 1000
	for i := range writes {
		var b []byte
		for j := range points {
			b = fmt.Appendf(b, "cpu,host=h%d v=%d,i=%di,s=\"s%d\" %d\n",
				j%100, j, j, j%10, 1_700_000_000_000_000_000+int64(i*points+j)*1e9)
		}
		if err := c.nodes[i%len(c.nodes)].Client().Write(ctx, "fuzz", "all", b); err != nil {
			return err
		}
	}
	return nil
}

// anewEvery is after how many requests the database that they write to is made anew. Points with odd times make a shard
// each, and a thousand shards take most of the memory that a node has here.
const anewEvery = 1000

// anew drops the database that requests write to, and makes it again, while other requests go on.
func (c *campaign) anew(ctx context.Context) {
	for _, q := range []string{"DROP DATABASE fuzz", "CREATE DATABASE fuzz WITH REPLICATION 2"} {
		_, err := c.nodes[0].Client().Query(ctx, "", q)
		if err != nil && !strings.Contains(err.Error(), "conflicts with an existing policy") { // a request has made it
			c.Errorf("%s: %v", q, err)
		}
	}
	if err := c.fill(ctx); err != nil && ctx.Err() == nil {
		c.Logf("the points that statements read are not all written: %v", err)
	}
}

// sendKnown sends what once ended processes to each node: one of them owns nothing of a shard.
func (c *campaign) sendKnown(ctx context.Context) {
	for _, r := range known() {
		for i := range c.nodes {
			r.n = i
			c.sent.Store(0, r)
			c.one(ctx, http.DefaultClient, r)
			c.sent.Delete(0)
		}
	}
	// A million fields are half a gigabyte on each of their owners. The other requests come to nodes without them.
	if _, err := c.nodes[0].Client().Query(ctx, "", "DROP DATABASE known"); err != nil && ctx.Err() == nil {
		c.Error(err)
	}
}

// run sends all requests, unless the campaign fails before.
func (c *campaign) run(ctx context.Context) {
	var next atomic.Int64
	next.Store(int64(*fromFlag))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *workersFlag}}
	defer client.CloseIdleConnections()
	var workers sync.WaitGroup
	for w := range *workersFlag {
		workers.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= *fromFlag+*requestsFlag {
					return
				}
				if (n+1)%anewEvery == 0 {
					c.anew(ctx)
				}
				r := generate(c.seed, n)
				c.sent.Store(w, r)
				c.one(ctx, client, r)
				c.sent.Delete(w)
			}
		})
	}
	workers.Wait()
}

func (c *campaign) one(ctx context.Context, client *http.Client, r request) {
	limited, cancel := context.WithTimeout(ctx, *limitFlag)
	defer cancel()
	begun := time.Now()
	node := c.nodes[r.n%len(c.nodes)]
	status, err := send(limited, client, node.HTTP, r)
	took := time.Since(begun)
	for {
		if before := c.slowest.Load(); int64(took) <= before || c.slowest.CompareAndSwap(before, int64(took)) {
			break
		}
	}
	c.statuses[min(status/100, 5)].Add(1)
	c.kinds.add(r.kind, took)
	switch {
	case ctx.Err() != nil:
	case limited.Err() != nil:
		c.Errorf("request %d to %s has no answer after %s: %s", r.n, node.Name, *limitFlag, describe(r))
	case err != nil:
		c.Errorf("request %d to %s: %v: %s", r.n, node.Name, err, describe(r))
	}
}

func describe(r request) string {
	return fmt.Sprintf("%s: %s %.200s, %d bytes: %.300q", r.kind, r.method, r.path, len(r.body), r.body)
}

// watch ends the campaign when a process has ended, or takes too much memory.
func (c *campaign) watch(ctx context.Context, stop func()) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i, n := range c.nodes {
			bytes, err := anonymous(n.PID())
			c.most[i] = max(c.most[i], bytes)
			if !n.Running() || err != nil || bytes > *memoryFlag {
				c.Errorf("%s: %v, %d MB of memory, running %t, while these requests were under way:",
					n.Name, err, bytes>>20, n.Running())
				c.sent.Range(func(_, r any) bool {
					c.Logf("request %d: %s", r.(request).n, describe(r.(request)))
					return true
				})
				stop()
				return
			}
		}
	}
}

func (c *campaign) heaps(ctx context.Context) []int64 {
	out := make([]int64, len(c.nodes))
	for i, n := range c.nodes {
		var err error
		if out[i], err = heap(ctx, n); err != nil {
			c.Fatal(err)
		}
	}
	return out
}

// settle waits until the memory of queries is free. What was written stays, so the databases are dropped first.
func (c *campaign) settle(ctx context.Context, before []int64) {
	for _, db := range []string{"fuzz", "scratch"} {
		if _, err := c.nodes[0].Client().Query(ctx, "", "DROP DATABASE "+db); err != nil {
			c.Error(err)
		}
	}
	const more = 128 << 20
	var now []int64
	if !process.Poll(3*time.Minute, func() bool {
		now = c.heaps(ctx)
		for i := range now {
			if now[i] > 2*before[i]+more {
				return false
			}
		}
		return true
	}) {
		c.Errorf("the memory does not come back down: %d bytes in use, %d before", now, before)
	}
}
