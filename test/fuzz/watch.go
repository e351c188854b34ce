package fuzz

import (
	"context"
	"encoding/json"
	"fmt"
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
