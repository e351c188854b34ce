//go:build bench

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"concord/internal/devcluster"
	"concord/test/compare/plain"
	"concord/test/process"
)

// A million series, as in line-protocol-1M.txt of the engine's tests: five measurements, six tags of ten values, one
// field. There is one point of each.
const (
	manySeries      = 1_000_000
	seriesBatch     = 10_000
	seriesDB        = "many"
	seriesSettle    = time.Minute // between the end of a repair and the look at the memory
	memoryOfPlain   = 1.3         // that a node may have after a repair
	seriesReplicas  = 2
	seriesWriteTurn = 10 // batches that a system writes before the next one does
)

// seriesRow is what is asked, and how long it may take.
type seriesRow struct {
	name, text string
	every      int     // it is asked in one of so many rounds
	most       float64 // of the time of influxdb-cluster
	// peer is what influxdb-cluster took beside the plain node's time in a former run: the yardstick when it is not
	// here.
	peer float64
	// atOnce is how many milliseconds it may take in any case.
	atOnce float64
}

var seriesRows = []seriesRow{
	{"count(v0) of 200,000 series", "SELECT count(v0) FROM m0", 1, 0.5, 0.44, 0},
	{"sum(v0) GROUP BY tag0", "SELECT sum(v0) FROM m0 GROUP BY tag0", 1, 0.5, 0.5, 0},
	{"SHOW SERIES EXACT CARDINALITY", "SHOW SERIES EXACT CARDINALITY", 3, 1, 1.07, 0},
	{"SHOW SERIES CARDINALITY, the first", "SHOW SERIES CARDINALITY", 1 << 30, 1, 1, 10},
	{"SHOW SERIES LIMIT 10", "SHOW SERIES LIMIT 10", 3, 1, 1.05, 0},
	{"SHOW TAG VALUES WITH KEY = tag0", "SHOW TAG VALUES WITH KEY = tag0", 1, 1, 1, 10},
	{"SHOW MEASUREMENTS", "SHOW MEASUREMENTS", 1, 1, 1, 10},
}

const (
	peerWritesOfPlain  = 2.15
	peerSlowestOfPlain = 3.4
)

// place is a node of a system that is asked.
type place struct {
	system int
	name   string
	client devcluster.Client
	pid    int
}

// TestSeries measures a million series beside one plain node of the same engine, which is a process of its own, and
// beside influxdb-cluster when there is a checkout of it. The systems take turns.
func TestSeries(t *testing.T) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = writers
	c := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"data": {"query-log-enabled": false, "index-version": "tsi1"}, "http": {"log-enabled": false},
		"anti-entropy": {"check-interval": "5m", "settle": "1m"},
	}})
	var nodes []devcluster.Client
	for _, n := range c.Data {
		nodes = append(nodes, n.Client())
	}
	single, pid := startPlain(t)
	systems := []system{
		{name: "Concord", nodes: nodes, db: seriesDB, level: "all"},
		{name: "plain node", nodes: []devcluster.Client{single}, db: seriesDB, level: "one"},
	}
	if *peerFlag != "" {
		peers, _ := startPeer(t, *peerFlag, "tsi1")
		systems = append(systems, system{name: peerName, nodes: peers, db: seriesDB, level: "all"})
	}
	for _, s := range systems {
		replicas := seriesReplicas
		if len(s.nodes) == 1 {
			replicas = 0
		}
		create(t.Context(), t, s, replicas)
	}
	report := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer report.Flush()
	writeSeries(t, report, systems)

	var places []place
	for i, s := range systems {
		if len(s.nodes) == 1 {
			places = append(places, place{i, s.name, s.nodes[0], pid})
			continue
		}
		if s.name == peerName { // it makes three shards of two copies, so all of its nodes are alike
			places = append(places, place{i, s.name, s.nodes[0], 0})
			continue
		}
		owner, other := placesOf(t, s)
		places = append(places,
			place{i, s.name + ", an owner", s.nodes[owner], 0}, place{i, s.name + ", another node", s.nodes[other], 0})
	}
	fmt.Fprintln(report)
	askSeries(t, report, systems, places)
	report.Flush()
	fmt.Println()
	repairSeries(t, report, c, systems[0], pid)
}

// writeSeries writes all series to each system, with one client.
func writeSeries(t *testing.T, report io.Writer, systems []system) {
	t.Helper()
	total, slowest := make([]float64, len(systems)), make([]float64, len(systems))
	for from := 0; from < manySeries; from += seriesWriteTurn * seriesBatch {
		for k := range systems {
			i := (k + from/seriesBatch) % len(systems)
			s := systems[i]
			for b := range seriesWriteTurn {
				body := seriesLines(from + b*seriesBatch)
				begin := time.Now()
				var err error
				if !process.Poll(time.Minute, func() bool { // on a busy machine one may time out
					err = s.nodes[b%len(s.nodes)].Write(t.Context(), s.db, s.level, body)
					return err == nil
				}) {
					t.Fatalf("%s: %v", s.name, err)
				}
				took := time.Since(begin).Seconds()
				total[i] += took
				slowest[i] = max(slowest[i], took)
			}
		}
	}
	fmt.Fprintln(report, "a million series in batches of 10,000\tall\tof the plain node\tslowest batch\tof the plain node\ttarget")
	for i, s := range systems {
		row := fmt.Sprintf("%s\t%.1f s\t%.2f\t%.2f s\t%.2f", s.name, total[i], total[i]/total[1], slowest[i], slowest[i]/slowest[1])
		if i == 0 {
			most, mostSlowest := peerWritesOfPlain, peerSlowestOfPlain
			if len(systems) > 2 {
				most, mostSlowest = total[2]/total[1], slowest[2]/slowest[1]
			}
			row += fmt.Sprintf("\t%.2f: %s; %.2f: %s", most, verdict(total[0]/total[1], most),
				mostSlowest, verdict(slowest[0]/slowest[1], mostSlowest))
		}
		fmt.Fprintln(report, row)
	}
}

// askSeries asks all places the same, in turns.
func askSeries(t *testing.T, report io.Writer, systems []system, places []place) {
	t.Helper()
	single := slices.IndexFunc(places, func(p place) bool { return p.system == 1 })
	head := "query"
	for _, p := range places {
		if head += "\t" + p.name; p.system == 0 {
			head += "\tof the plain node"
		}
	}
	fmt.Fprintln(report, head+"\ttarget")
	for _, row := range seriesRows {
		took := make([][]float64, len(places))
		for r := range (*rounds + row.every - 1) / row.every {
			for k := range places {
				i := (k + r) % len(places)
				begin := time.Now()
				ask(t, places[i].client.Base, seriesDB, row.text)
				took[i] = append(took[i], time.Since(begin).Seconds()*1000)
			}
		}
		base := median(took[single])
		line, worst, peer := row.name, 0.0, row.peer*base
		if len(systems) > 2 {
			peer = math.Inf(1)
		}
		for i, p := range places {
			m := median(took[i])
			line += fmt.Sprintf("\t%.1f ms", m)
			switch p.system {
			case 0:
				line += fmt.Sprintf("\t%.2f", m/base)
				worst = max(worst, m)
			case 2:
				peer = min(peer, m)
			}
		}
		most := max(row.most*peer, row.atOnce)
		fmt.Fprintf(report, "%s\t%.1f ms: %s\n", line, most, verdict(worst, most))
	}
}

func verdict(is, most float64) string {
	if is > most {
		return "missed"
	}
	return "ok"
}

// repairSeries takes a file away from the second owner, has the cluster check and repair its copy, and tells the memory
// of all processes.
func repairSeries(t *testing.T, report *tabwriter.Writer, c *process.Cluster, s system, plainPID int) {
	t.Helper()
	before := memoryOf(t, c, plainPID)
	owners := ownersOf(t, s)
	sick := c.Data[owners[1]]
	c.Await("the points of the second owner are in files", func() bool { return len(filesOf(sick)) > 0 })
	sick.Stop(syscall.SIGTERM)
	lost := filesOf(sick)[0]
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	sick.Start()
	if !process.Poll(10*time.Minute, sick.Up) {
		t.Fatalf("%s does not come up", sick.Name)
	}
	client := c.Data[0].Client()
	check := func(what string, clean bool) {
		t.Helper()
		if !process.Poll(15*time.Minute, func() bool {
			s, _, err := client.EntropyStatus(t.Context())
			return err == nil && len(s.Queued)+len(s.Processing)+len(s.Unreachable) == 0 && (len(s.Shards) == 0) == clean
		}) {
			t.Fatalf("%s: waited in vain\n%s", what, c.Ctl("entropy", "show"))
		}
	}
	c.Ctl("entropy", "check")
	check("the check finds the difference", false)
	status, _, err := client.EntropyStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sh := range status.Shards {
		c.Ctl("entropy", "repair", sh.ID)
	}
	check("the repair ends", true)
	ended := time.Now()
	for _, p := range c.Data {
		if n := count(t, p.Client()); n != manySeries/5 {
			t.Errorf("%s counts %d points after the repair", p.Name, n)
		}
	}
	if wait := time.Until(ended.Add(seriesSettle)); wait > 0 {
		<-time.After(wait)
	}
	after := memoryOf(t, c, plainPID)
	fmt.Fprintf(report, "resident memory\tbefore\t%s after a check and a repair\tof the plain node\ttarget\n", seriesSettle)
	for i, name := range []string{"first owner, which drives the repair", "second owner, which lacked a file", "another node", "plain node"} {
		at := len(c.Data)
		if i < len(c.Data) {
			at = owners[i]
		}
		fmt.Fprintf(report, "%s\t%.0f MB\t%.0f MB\t%.2f", name, before[at], after[at], after[at]/after[len(c.Data)])
		if i < len(c.Data) {
			fmt.Fprintf(report, "\t%.1f: %s", memoryOfPlain, verdict(after[at]/after[len(c.Data)], memoryOfPlain))
		}
		fmt.Fprintln(report)
	}
}

func count(t *testing.T, from devcluster.Client) int {
	t.Helper()
	rows, err := from.Query(t.Context(), seriesDB, "SELECT count(v0) FROM m0")
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	n, err := strconv.Atoi(fmt.Sprint(rows[0][1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// filesOf are the files of points of a node.
func filesOf(n *process.Node) []string {
	files, _ := filepath.Glob(filepath.Join(n.Dir, "data", seriesDB, "autogen", "*", "*.tsm"))
	return files
}

// memoryOf is the resident memory of each data node and of the plain node, in MB.
func memoryOf(t *testing.T, c *process.Cluster, plainPID int) (mb []float64) {
	t.Helper()
	pids := make([]int, 0, len(c.Data)+1)
	for _, n := range c.Data {
		pids = append(pids, n.PID())
	}
	for _, pid := range append(pids, plainPID) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		var kb float64
		if _, err := fmt.Sscan(rest, &kb); err != nil {
			t.Fatal(err)
		}
		mb = append(mb, kb/1000)
	}
	return mb
}

// ownersOf are the indexes of the nodes that own the one shard, in its order, and then of the others.
func ownersOf(t *testing.T, s system) []int {
	t.Helper()
	var have, lack []int
	for i, n := range s.nodes {
		if hasShard(t, n) {
			have = append(have, i)
		} else {
			lack = append(lack, i)
		}
	}
	rows, err := s.nodes[0].Query(t.Context(), seriesDB, "SHOW SHARDS")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		first, second, _ := strings.Cut(fmt.Sprint(row[len(row)-1]), ",")
		if fmt.Sprint(row[1]) == seriesDB && first > second { // nodes have their numbers in the order in which they came
			slices.Reverse(have)
		}
	}
	if len(have) != seriesReplicas {
		t.Fatalf("%s: the shard is on nodes %v, not on %d", s.name, have, seriesReplicas)
	}
	return append(have, lack...)
}

// hasShard reports whether a node has a shard of the database.
func hasShard(t *testing.T, n devcluster.Client) bool {
	t.Helper()
	resp, err := http.Get(n.Base + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all map[string]json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, raw := range all {
		var of struct {
			Name string
			Tags map[string]string
		}
		if json.Unmarshal(raw, &of) == nil && of.Name == "shard" && of.Tags["database"] == seriesDB {
			return true
		}
	}
	return false
}

// placesOf are an owner and a node that owns nothing.
func placesOf(t *testing.T, s system) (owner, other int) {
	t.Helper()
	list := ownersOf(t, s)
	return list[0], list[seriesReplicas]
}

// seriesLines are a batch of the million series, all at one time.
func seriesLines(from int) []byte {
	b := make([]byte, 0, seriesBatch*100)
	for i := from; i < from+seriesBatch; i++ {
		b = fmt.Appendf(b, "m%d,tag0=value%d,tag1=value%d,tag2=value%d,tag3=value%d,tag4=value%d,tag5=value%d v0=1 %d\n",
			i%5, i%10, i/10%10, i/100%10, i/1000%10, i/10_000%10, i/100_000%10, start.UnixNano())
	}
	return b
}

// plainEnv has the folder of the plain node that this process is, when it is one.
const plainEnv = "CONCORD_BENCH_PLAIN"

// servePlain is the process of a plain node: it prints its address, and serves until its input ends.
func servePlain(dir string) error {
	n, err := plain.Start(plain.Options{Dir: dir, Index: "tsi1"})
	if err != nil {
		return err
	}
	defer n.Close()
	fmt.Println(n.HTTPAddr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startPlain starts a plain node as a process of its own.
func startPlain(t *testing.T) (devcluster.Client, int) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), plainEnv+"="+t.TempDir())
	var log bytes.Buffer
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		t.Fatalf("plain node: %v: %s", err, log.String())
	}
	return devcluster.Client{Base: (&url.URL{Scheme: "http", Host: addr}).String()}, cmd.Process.Pid
}
