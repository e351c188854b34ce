package fuzz

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"concord/internal/devcluster"
	"concord/test/process"
)

// anonymous is the memory of a process that no file backs, in bytes. Mapped files of shards are not what a query takes.
func anonymous(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no RssAnon", pid)
}

// heap is what a node has in use, as it says itself.
func heap(ctx context.Context, n *process.Node) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/debug/vars", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var vars struct {
		Memstats struct{ HeapAlloc int64 }
	}
	err = json.NewDecoder(resp.Body).Decode(&vars)
	return vars.Memstats.HeapAlloc, err
}

// latencies are how long the requests of the plain client took.
type latencies struct {
	mu   sync.Mutex
	took []time.Duration
	errs []string
}

// plain writes a point and reads it back, again and again, as a client does that means no harm.
func (l *latencies) plain(ctx context.Context, nodes []*process.Node) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c, begun := nodes[i%len(nodes)].Client(), time.Now()
		err := l.once(ctx, c, i)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.took = append(l.took, time.Since(begun))
		if err != nil {
			l.errs = append(l.errs, err.Error())
		}
		l.mu.Unlock()
	}
}

func (l *latencies) once(ctx context.Context, c devcluster.Client, i int) error {
	if err := c.Write(ctx, "plain", "one", fmt.Appendf(nil, "steady,host=h%d v=%d", i%10, i)); err != nil {
		return err
	}
	_, err := c.Query(ctx, "plain", fmt.Sprintf("SELECT last(v) FROM steady WHERE host = 'h%d'", i%10))
	return err
}

// figures are the median, the 99th percentile and the longest.
func (l *latencies) figures() (n int, median, p99, most time.Duration, errs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := slices.Sorted(slices.Values(l.took))
	if n = len(t); n > 0 {
		median, p99, most = t[n/2], t[n*99/100], t[n-1]
	}
	return n, median, p99, most, l.errs
}

// kinds are how long requests took, by kind.
type kinds struct {
	mu sync.Mutex
	of map[string]*kind
}

type kind struct {
	n         int
	all, most time.Duration
}

func (k *kinds) add(name string, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = make(map[string]*kind)
	}
	if k.of[name] == nil {
		k.of[name] = &kind{}
	}
	one := k.of[name]
	one.n++
	one.all += took
	one.most = max(one.most, took)
}

// String is a table: the kinds that took longest together come first.
func (k *kinds) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := slices.SortedFunc(maps.Keys(k.of), func(a, b string) int { return cmp.Compare(k.of[b].all, k.of[a].all) })
	var b strings.Builder
	for _, name := range names {
		one := k.of[name]
		fmt.Fprintf(&b, "%8d %-31s %8.1f s together, %7.1f ms each, %6.1f s at most\n",
			one.n, name, one.all.Seconds(), one.all.Seconds()*1000/float64(one.n), one.most.Seconds())
	}
	return b.String()
}
