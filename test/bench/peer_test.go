//go:build bench

package bench

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"concord/internal/devcluster"
	"concord/test/compare/plain"
	"concord/test/process"
)

var (
	peerFlag = flag.String("peer", "", "checkout of chengshiwen/influxdb-cluster, which TestPeer builds and "+
		"measures; empty leaves it out")
	beforeFlag  = flag.String("before", "", "commit of a former build of Concord, which TestPeer measures, too")
	batchesFlag = flag.Int("batches", 300, "batches of 5,000 points that TestPeer writes to each system")
	onlyFlag    = flag.String("only", "", `what TestPeer measures: "writes", or both writes and queries when empty`)
	profileFlag = flag.String("profiles", "",
		"folder for CPU profiles of data nodes while TestPeer writes; empty for none")
)

const (
	peerHosts    = 1000
	peerReplicas = 2
	peerStep     = 10 * time.Second
)

// peerQueries are what dashboards and people ask.
var peerQueries = []struct {
	name, text string
	most       float64 // of the peer's time
}{
	{"count/sum/mean", "SELECT count(usage), sum(usage), mean(usage) FROM cpu WHERE $all", 0.35},
	{"mean GROUP BY region", "SELECT mean(usage) FROM cpu WHERE $all GROUP BY region", 0.35},
	{"max GROUP BY time(1h)", "SELECT max(usage) FROM cpu WHERE $all GROUP BY time(1h)", 0.35},
	{"mean, max GROUP BY time(1h), dc", "SELECT mean(usage), max(usage) FROM cpu WHERE $all GROUP BY time(1h), dc",
		0.35},
	{"mean GROUP BY time(1m), region", "SELECT mean(usage) FROM cpu WHERE $all GROUP BY time(1m), region", 0.15},
	{"mean of one series", "SELECT mean(usage) FROM cpu WHERE $all AND host = 'host-$n'", 0.8},
	{"percentile GROUP BY dc", "SELECT percentile(usage, 95) FROM cpu WHERE $all GROUP BY dc", 0.8},
	{"last GROUP BY host", "SELECT last(usage) FROM cpu WHERE $all GROUP BY host", 0.8},
	{"ORDER BY time DESC LIMIT 100", "SELECT usage FROM cpu WHERE $all ORDER BY time DESC LIMIT 100", 0.8},
	{"raw LIMIT 20000", "SELECT usage, load FROM cpu WHERE $all LIMIT 20000", 0.8},
	{"derivative(mean)", "SELECT derivative(mean(usage), 1m) FROM cpu WHERE $all GROUP BY time(5m), dc", 0.8},
	{"top", "SELECT top(usage, 10) FROM cpu WHERE $all", 0.8},
	{"count(distinct)", "SELECT count(distinct(requests)) FROM cpu WHERE $all", 0.8},
	{"SHOW TAG VALUES", "SHOW TAG VALUES WITH KEY = host", 0.8},
	{"SHOW SERIES LIMIT 100", "SHOW SERIES LIMIT 100", 0.8},
	{"SHOW FIELD KEYS", "SHOW FIELD KEYS", 0.8},
}

// TestPeer compares Concord with one plain node of the same engine, with influxdb-cluster and with a former build:
// three data nodes and one meta node each, all processes on this machine. What one request takes drifts with the
// machine, so the systems take turns.
func TestPeer(t *testing.T) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = writers
	systems := peerSystems(t)
	for _, s := range systems {
		replicas := peerReplicas
		if len(s.nodes) == 1 {
			replicas = 0
		}
		create(t.Context(), t, s, replicas)
	}
	report := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer report.Flush()
	profiled := profile(t, systems)
	comparePeerWrites(t, report, systems)
	profiled.Wait()
	if *onlyFlag == "writes" {
		return
	}
	fmt.Fprintln(report)
	comparePeerQueries(t, report, systems)
}

// peerSystems starts what is compared: Concord comes first.
func peerSystems(t *testing.T) []system {
	t.Helper()
	start := func(build *process.Build) (nodes []devcluster.Client, pids []int) {
		c := process.Start(t, process.Options{Meta: 1, Data: 3, Build: build, Settings: map[string]map[string]any{
			"data": {"query-log-enabled": false}, "http": {"log-enabled": false}, "monitor": {"store-enabled": false},
			"anti-entropy": {"check-interval": "5m", "settle": "1m"}, // the defaults: tests check more often
		}})
		for _, n := range c.Data {
			nodes, pids = append(nodes, n.Client()), append(pids, n.PID())
		}
		return nodes, pids
	}
	single, err := plain.Start(plain.Options{Dir: t.TempDir(), Index: "inmem"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { single.Close() })
	cluster := func(name string, nodes []devcluster.Client, pids []int) system {
		return system{name: name, nodes: nodes, pids: pids, db: "bench", level: "all"}
	}
	nodes, pids := start(nil)
	systems := []system{
		cluster("Concord", nodes, pids),
		{name: "plain node", nodes: []devcluster.Client{{Base: "http://" + single.HTTPAddr()}}, db: "bench",
			level: "one"},
	}
	if *peerFlag != "" {
		nodes, pids := startPeer(t, *peerFlag, "inmem")
		systems = append(systems, cluster(peerName, nodes, pids))
	}
	if *beforeFlag != "" {
		build, err := process.BuildCommit(*beforeFlag)
		if err != nil {
			t.Fatal(err)
		}
		nodes, pids := start(&build)
		systems = append(systems, cluster("before", nodes, pids))
	}
	return systems
}

const peerName = "peer"

// comparePeerWrites writes the same batches to all systems, in rounds that take turns.
func comparePeerWrites(t *testing.T, report io.Writer, systems []system) {
	t.Helper()
	const writeRounds = 12
	rates, took, cpu := make([][]float64, len(systems)), make([][]float64, len(systems)),
		make([][]float64, len(systems))
	for r := range writeRounds {
		var bodies [][]byte
		for i := range *batchesFlag / writeRounds {
			bodies = append(bodies, peerLines(r*(*batchesFlag/writeRounds)+i))
		}
		for i := range systems {
			i = (i + r) % len(systems)
			before := systems[i].cpu(t)
			rate, each := systems[i].timed(t, bodies)
			rates[i], took[i] = append(rates[i], rate), append(took[i], each...)
			used := systems[i].cpu(t) - before
			cpu[i] = append(cpu[i], float64(used.Nanoseconds())/1e3/float64(len(bodies)*batch))
		}
	}
	fmt.Fprintln(report, "writes of 5,000 points\tpoints a second\tof Concord's\tmedian\tp99\tCPU time of a point")
	for i, s := range systems {
		slices.Sort(took[i])
		each := "not measured"
		if len(s.pids) > 0 {
			each = fmt.Sprintf("%.2f µs", median(cpu[i]))
		}
		fmt.Fprintf(report, "%s\t%.0f\t%.2f\t%.1f ms\t%.1f ms\t%s\n", s.name, median(rates[i]),
			median(rates[i])/median(rates[0]), median(took[i]), took[i][len(took[i])*99/100], each)
	}
}

// cpu is the CPU time that the data nodes have used. Unlike their rate, it depends little on what else the machine
// does.
func (s system) cpu(t *testing.T) (all time.Duration) {
	t.Helper()
	for _, pid := range s.pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), ") ") // the name of the program may have spaces
		for _, field := range strings.Fields(after)[11:13] {
			ticks, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			all += time.Duration(ticks) * time.Second / 100 // Linux counts hundredths everywhere
		}
	}
	return all
}

// profile takes CPU profiles of all data nodes with processes of their own, when asked for.
func profile(t *testing.T, systems []system) *sync.WaitGroup {
	var wg sync.WaitGroup
	if *profileFlag == "" {
		return &wg
	}
	for _, s := range systems {
		for i, n := range s.nodes[:len(s.pids)] {
			wg.Go(func() {
				resp, err := http.Get(n.Base + "/debug/pprof/profile?seconds=20")
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err == nil {
					err = os.WriteFile(filepath.Join(*profileFlag, fmt.Sprintf("%s-%d.cpu", s.name, i+1)), b, 0o600)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	return &wg
}

// timed sends the batches, and returns points a second and the milliseconds that each batch took.
func (s system) timed(t *testing.T, bodies [][]byte) (rate float64, took []float64) {
	t.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for range writers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				sent := time.Now()
				if err := s.nodes[i%len(s.nodes)].Write(t.Context(), s.db, s.level, bodies[i]); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(sent).Seconds()*1000)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return float64(len(bodies)*batch) / time.Since(begin).Seconds(), took
}

// comparePeerQueries asks all systems the same, in turns.
func comparePeerQueries(t *testing.T, report io.Writer, systems []system) {
	t.Helper()
	head := "query"
	for i, s := range systems {
		if head += "\t" + s.name; i > 0 {
			head += "\tratio"
		}
	}
	fmt.Fprintln(report, head+"\ttarget")
	end := start.Add(time.Duration(*batchesFlag*batch/peerHosts) * peerStep)
	for _, q := range peerQueries {
		text := strings.ReplaceAll(q.text, "$all", fmt.Sprintf("time >= %d AND time < %d", start.UnixNano(),
			end.UnixNano()))
		took := make([][]float64, len(systems))
		for r := range 3**rounds + 1 {
			for i := range systems {
				i = (i + r) % len(systems)
				text := strings.ReplaceAll(text, "$n", fmt.Sprint(r*7%peerHosts))
				begin := time.Now()
				ask(t, systems[i].nodes[r%len(systems[i].nodes)].Base, systems[i].db, text)
				if r > 0 { // the first warms up
					took[i] = append(took[i], time.Since(begin).Seconds()*1000)
				}
			}
		}
		row, verdict := q.name, ""
		for i, s := range systems {
			row += fmt.Sprintf("\t%.2f ms", median(took[i]))
			if i == 0 {
				continue
			}
			ratio := median(took[0]) / median(took[i])
			row += fmt.Sprintf("\t%.2f", ratio)
			if s.name == peerName {
				verdict = fmt.Sprintf("%.2f of the peer: ok", q.most)
				if ratio > q.most {
					verdict = fmt.Sprintf("%.2f of the peer: missed", q.most)
				}
			}
		}
		fmt.Fprintln(report, row+"\t"+verdict)
	}
}

// peerLines are the n-th batch: every host at one time after the other.
func peerLines(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 3))
	b := make([]byte, 0, batch*120)
	for i := range batch {
		k := n*batch + i
		h := k % peerHosts
		b = fmt.Appendf(b, "cpu,host=host-%d,region=region-%d,dc=dc-%d usage=%.2f,load=%.3f,requests=%di %d\n",
			h, h%10, h%4, 100*rng.Float64(), 8*rng.Float64(), rng.IntN(5000),
			start.Add(time.Duration(k/peerHosts)*peerStep).UnixNano())
	}
	return b
}

// ask sends a query and reads the answer.
func ask(t *testing.T, base, db, q string) {
	t.Helper()
	resp, err := http.Get(base + "/query?" + url.Values{"db": {db}, "q": {q}, "epoch": {"ns"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || bytes.Contains(b, []byte(`"error"`)) ||
		!bytes.Contains(b, []byte(`"series"`)) {
		t.Fatalf("%s: %s: %v %.300s", base, q, err, b)
	}
}

// startPeer builds the peer, starts its nodes and makes them a cluster.
func startPeer(t *testing.T, checkout, index string) (nodes []devcluster.Client, pids []int) {
	t.Helper()
	build, err := process.BuildPeer(checkout)
	if err != nil {
		t.Fatal(err)
	}
	c := process.Start(t, process.Options{Meta: 1, Data: 3, Build: &build, Settings: map[string]map[string]any{
		"data": {"index-version": index, "query-log-enabled": false},
	}})
	for _, n := range c.Data {
		nodes, pids = append(nodes, n.Client()), append(pids, n.PID())
	}
	return nodes, pids
}
