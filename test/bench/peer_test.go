//go:build bench

package bench

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"concord/internal/devcluster"
	"concord/test/compare/plain"
	"concord/test/process"
)

var (
	peerFlag    = flag.String("peer", "", "checkout of chengshiwen/influxdb-cluster, which TestPeer builds and measures; empty leaves it out")
	batchesFlag = flag.Int("batches", 300, "batches of 5,000 points that TestPeer writes to each system")
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
	{"mean, max GROUP BY time(1h), dc", "SELECT mean(usage), max(usage) FROM cpu WHERE $all GROUP BY time(1h), dc", 0.35},
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

// TestPeer compares Concord with one plain node of the same engine and with influxdb-cluster: three data nodes and one meta
// node each, all processes on this machine. What one request takes drifts with the machine, so the systems take turns.
func TestPeer(t *testing.T) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = writers
	concord := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"data": {"query-log-enabled": false}, "http": {"log-enabled": false}, "monitor": {"store-enabled": false},
	}})
	single, err := plain.Start(plain.Options{Dir: t.TempDir(), Index: "inmem"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { single.Close() })
	systems := []system{
		{"Concord", nil, "bench", "all"},
		{"plain node", []devcluster.Client{{Base: "http://" + single.HTTPAddr()}}, "bench", "one"},
	}
	for _, n := range concord.Data {
		systems[0].nodes = append(systems[0].nodes, n.Client())
	}
	if *peerFlag != "" {
		systems = append(systems, system{"peer", startPeer(t, *peerFlag), "bench", "all"})
	}
	for i, s := range systems {
		create(t.Context(), t, s, []int{peerReplicas, 0, peerReplicas}[i])
	}
	report := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer report.Flush()

	// Writes, in rounds that take turns.
	figures := make([][]float64, len(systems))
	const writeRounds = 6
	for r := range writeRounds {
		var bodies [][]byte
		for i := range *batchesFlag / writeRounds {
			bodies = append(bodies, peerLines(r*(*batchesFlag/writeRounds)+i))
		}
		for i := range systems {
			i = (i + r) % len(systems)
			figures[i] = append(figures[i], systems[i].write(t.Context(), t, bodies))
		}
	}
	fmt.Fprintln(report, "\twrites of 5,000 points, points a second\tof the plain node\tof the peer")
	for i, s := range systems {
		ofPeer := 0.0
		if len(systems) > 2 {
			ofPeer = median(figures[i]) / median(figures[2])
		}
		fmt.Fprintf(report, "%s\t%.0f\t%.2f\t%.2f\n", s.name, median(figures[i]), median(figures[i])/median(figures[1]), ofPeer)
	}
	fmt.Fprintln(report)

	fmt.Fprintln(report, "query\tConcord\tplain node\tpeer\tof the plain node\tof the peer\ttarget\t")
	end := start.Add(time.Duration(*batchesFlag*batch/peerHosts) * peerStep)
	for _, q := range peerQueries {
		text := strings.ReplaceAll(q.text, "$all", fmt.Sprintf("time >= %d AND time < %d", start.UnixNano(), end.UnixNano()))
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
		row := fmt.Sprintf("%s\t%.2f ms\t%.2f ms", q.name, median(took[0]), median(took[1]))
		if len(systems) > 2 {
			ratio := median(took[0]) / median(took[2])
			verdict := "ok"
			if ratio > q.most {
				verdict = "missed"
			}
			row += fmt.Sprintf("\t%.2f ms\t%.2f\t%.2f\t%.2f\t%s", median(took[2]), median(took[0])/median(took[1]), ratio, q.most, verdict)
		} else {
			row += fmt.Sprintf("\t\t%.2f\t\t\t", median(took[0])/median(took[1]))
		}
		fmt.Fprintln(report, row)
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
	if err != nil || resp.StatusCode != http.StatusOK || bytes.Contains(b, []byte(`"error"`)) || !bytes.Contains(b, []byte(`"series"`)) {
		t.Fatalf("%s: %s: %v %.300s", base, q, err, b)
	}
}

// startPeer builds the peer, starts its nodes and makes them a cluster.
func startPeer(t *testing.T, checkout string) (nodes []devcluster.Client) {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "./cmd/influxd", "./cmd/influxd-meta", "./cmd/influxd-ctl")
	build.Dir, build.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the peer: %v\n%s", err, out)
	}
	meta := freeAddr(t)
	run(t, dir, "influxd-meta", fmt.Sprintf(`
reporting-disabled = true
hostname = "127.0.0.1"
[meta]
  dir = %q
  bind-address = %q
  http-bind-address = %q
`, filepath.Join(dir, "meta"), freeAddr(t), meta))
	ctl := func(args ...string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for {
			out, err := exec.Command(filepath.Join(dir, "influxd-ctl"), append([]string{"-bind", meta}, args...)...).CombinedOutput()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("influxd-ctl of the peer: %v: %s", err, out)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	ctl("add-meta", meta)
	for i := range 3 {
		tcp, client := freeAddr(t), freeAddr(t)
		home := filepath.Join(dir, fmt.Sprint("data", i))
		run(t, dir, "influxd", fmt.Sprintf(`
reporting-disabled = true
bind-address = %q
hostname = "127.0.0.1"
[meta]
  dir = "%[2]s/meta"
[data]
  dir = "%[2]s/data"
  wal-dir = "%[2]s/wal"
  query-log-enabled = false
[http]
  bind-address = %q
  log-enabled = false
[monitor]
  store-enabled = false
[hinted-handoff]
  dir = "%[2]s/hh"
`, tcp, home, client))
		ctl("add-data", tcp)
		nodes = append(nodes, devcluster.Client{Base: "http://" + client})
	}
	return nodes
}

// run starts a process that ends with the test.
func run(t *testing.T, dir, name, config string) {
	t.Helper()
	file := filepath.Join(dir, fmt.Sprintf("%s-%d.conf", name, time.Now().UnixNano()))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, name), "-config", file)
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			tail := log.Bytes()
			t.Logf("%s ends its log with\n%s", name, tail[max(0, len(tail)-2000):])
		}
	})
}

// freeAddr is a loopback address that nothing listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
