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
