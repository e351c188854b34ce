//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

var listening = regexp.MustCompile(`msg=Listening .*service=(\w+) addr=(\S+)`)

// listenersOf are the addresses of a node's listeners by service, in the order of its configuration.
func listenersOf(n *process.Node) map[string][]string {
	log := n.Log()
	if i := strings.LastIndex(log, "Starting"); i >= 0 {
		log = log[i:]
	}
	out := make(map[string][]string)
	for _, m := range listening.FindAllStringSubmatch(log, -1) {
		out[m[1]] = append(out[m[1]], m[2])
	}
	return out
}

// sendTo sends texts on one connection, as a packet of its own each over UDP.
func sendTo(t *testing.T, network, addr string, texts ...string) {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, text := range texts {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
}

func rowsOf(t *testing.T, n *process.Node, q string) string {
	t.Helper()
	rows, err := n.Client().Query(context.Background(), "", q)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(rows)
}

func awaitRows(t *testing.T, p *process.Cluster, n *process.Node, q, want string) {
	t.Helper()
	p.Await(fmt.Sprintf("%s at %s gives %s", q, n.Name, want), func() bool {
		return rowsOf(t, n, q) == want
	})
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestListeners sends what clients of graphite, OpenTSDB and UDP send to one node, and reads it at another one. A
// reload and a stop lose nothing, bad input is one line, and a write without enough owners is seen.
func TestListeners(t *testing.T) {
	t.Parallel()
	at := func(more map[string]any) map[string]any {
		out := map[string]any{"enabled": true, "bind-address": "127.0.0.1:0"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	p := process.Start(t, process.Options{Meta: 1, Data: 3,
		Settings: map[string]map[string]any{"monitor": {"store-enabled": true, "store-interval": "1s"}},
		Lists: map[string][]map[string]any{
			"graphite": {
				at(map[string]any{"consistency-level": "all",
					"templates": []string{"servers.* .host.measurement.field*"}, "tags": []string{"region=north"}}),
				at(map[string]any{"protocol": "udp", "database": "graphite2", "retention-policy": "week"}),
			},
			"opentsdb": {at(map[string]any{"consistency-level": "quorum"})},
			"udp": {
				at(map[string]any{"precision": "s", "batch-timeout": "1h", "batch-size": 100_000}),
				at(map[string]any{"precision": "ms", "database": "udp2"}),
			},
		}})
	one, two, three := p.Data[0], p.Data[1], p.Data[2]
	const sec = 1700000000

	// Each of several sections of a kind is a listener.
	g := listenersOf(one)["graphite"]
	if len(g) != 2 || len(listenersOf(one)["udp"]) != 2 {
		t.Fatalf("listeners %v", listenersOf(one))
	}
	sendTo(t, "tcp", g[0], fmt.Sprintf("servers.a.cpu.load 1.5 %d\nservers.b.cpu.load 2 %d\n", sec, sec))
	sendTo(t, "udp", g[1], fmt.Sprintf("disk.used 7 %d\n", sec))
	awaitRows(t, p, two, `SELECT load, host, region FROM graphite..cpu`,
		fmt.Sprintf("[[%d000000000 1.5 a north] [%d000000000 2 b north]]", sec, sec))
	awaitRows(t, p, two, `SELECT value FROM graphite2.week."disk.used"`, fmt.Sprintf("[[%d000000000 7]]", sec))

	o := listenersOf(two)["opentsdb"][0]
	sendTo(t, "tcp", o, fmt.Sprintf("put sys.cpu %d 4 host=a\nput sys.cpu %d001 5 host=a\n", sec, sec))
	awaitRows(t, p, three, `SELECT count(value), sum(value) FROM opentsdb.."sys.cpu"`, "[[0 2 9]]")
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprintf(w,
		`[{"metric":"sys.mem","timestamp":%d,"value":18,"tags":{"host":"a"}},{"metric":"sys.mem","timestamp":%d,"value":"2","tags":{"host":"b"}}]`, sec, sec)
	w.Close()
	req, err := http.NewRequest(http.MethodPost, "http://"+o+"/api/put?details", &z)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("OpenTSDB answers %s", resp.Status)
	}
	awaitRows(t, p, one, `SELECT count(value), sum(value) FROM opentsdb.."sys.mem"`, "[[0 2 20]]")

	// Each bad packet is one line of the log and one of the statistics, and the good ones go on.
	u := listenersOf(three)["udp"]
	sendTo(t, "udp", u[1], "bad", "also bad v=1 x", fmt.Sprintf("m v=1 %d000", sec))
	awaitRows(t, p, one, `SELECT v FROM udp2..m`, fmt.Sprintf("[[%d000000000 1]]", sec))
	if n := strings.Count(three.Log(), "A packet has a bad line"); n != 2 {
		t.Errorf("%d lines of bad packets", n)
	}
	for url, want := range map[string]string{"/debug/vars": `"pointsParseFail":2`, "/metrics": "udp"} {
		if text := get(t, "http://"+three.HTTP+url); !strings.Contains(text, want) || !strings.Contains(text, "udp") {
			t.Errorf("%s has no %s", url, want)
		}
	}
	p.Await("_internal has the listeners", func() bool {
		rows := rowsOf(t, three, `SHOW MEASUREMENTS ON _internal`)
		return strings.Contains(rows, "[udp]") && strings.Contains(rows, "[graphite]") &&
			strings.Contains(rows, "[opentsdb]")
	})

	// The first listener of UDP writes nothing for an hour, so that what it read is written as the node stops.
	conn, err := net.Dial("udp", u[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const packets = 500
	for i := range packets {
		if i == packets/2 {
			three.Signal(syscall.SIGHUP)
		}
		if i%50 == 0 {
			// A burst that the buffer of the system holds: what does not fit in there, nobody has read.
			p.Await("the last burst is read", func() bool {
				return strings.Contains(get(t, "http://"+three.HTTP+"/debug/vars"),
					fmt.Sprintf(`"pointsRx":%d,`, 2*i)) || i == 0
			})
		}
		fmt.Fprintf(conn, "m,h=a v=%d %d\nm,h=b v=%d %d", i, sec+i, i, sec+i)
	}
	three.Stop(syscall.SIGTERM)
	awaitRows(t, p, one, `SELECT count(v) FROM udp..m`, fmt.Sprintf("[[0 %d]]", 2*packets))

	// An owner is away: the level all is not reached, and the log and the statistics say so.
	two.Stop(syscall.SIGKILL)
	sendTo(t, "tcp", g[0], fmt.Sprintf("servers.c.cpu.load 1.5 %d\n", sec+1))
	p.Await("a write that fails is seen", func() bool {
		return strings.Contains(one.Log(), "Points of a listener were not written") &&
			strings.Contains(get(t, "http://"+one.HTTP+"/debug/vars"), `"pointsTxFail":1`)
	})
}

// TestQueryLog has the queries of clients in a file, also when that was moved away.
func TestQueryLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "query.log")
	p := process.Start(t, process.Options{Meta: 1, Data: 1, Settings: map[string]map[string]any{
		"data": {"query-log-path": path, "query-log-enabled": false},
	}})
	n := p.Data[0]
	has := func(path, text string) bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(b), text)
	}
	rowsOf(t, n, "SHOW DATABASES")
	if !has(path, `"query":"SHOW DATABASES"`) {
		t.Errorf("the query is not in %s", path)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	n.Signal(syscall.SIGHUP)
	p.Await("the file is made again", func() bool { _, err := os.Stat(path); return err == nil })
	p.Await("queries are in the new file", func() bool {
		rowsOf(t, n, "SHOW USERS")
		return has(path, `"query":"SHOW USERS"`)
	})
	rowsOf(t, n, `CREATE USER me WITH PASSWORD 'hunter2'`)
	if !has(path, "CREATE USER me") || has(path, "hunter2") || strings.Contains(n.Log(), "SHOW USERS") {
		t.Error("passwords must not be in the file, and queries not in the log")
	}
}

// TestCollectd reads what Debian's collectd sends: plain, signed and encrypted. The node gets the values in one batch,
// which is full only when it stops.
func TestCollectd(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("collectd")
	if err != nil {
		program = "/usr/sbin/collectd"
	}
	const types = "/usr/share/collectd/types.db"
	for _, path := range []string{program, types} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("collectd is not installed (Debian: apt-get install collectd-core): %v", err)
		}
	}
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwords")
	if err := os.WriteFile(passwords, []byte("me: secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	levels := []struct{ database, takes, sends string }{
		{"plain", "none", "None"}, {"signed", "sign", "Sign"}, {"encrypted", "encrypt", "Encrypt"},
		{"refused", "encrypt", "Sign"},
	}
	var list []map[string]any
	for _, l := range levels {
		list = append(list, map[string]any{
			"enabled": true, "bind-address": "127.0.0.1:0", "database": l.database, "typesdb": types,
			"auth-file":      passwords,
			"security-level": l.takes, "batch-timeout": "1h", "batch-size": 100_000,
		})
	}
	p := process.Start(t, process.Options{Meta: 1, Data: 2, Lists: map[string][]map[string]any{"collectd": list}})
	addrs := listenersOf(p.Data[0])["collectd"]
	if len(addrs) != len(levels) {
		t.Fatalf("listeners %v", addrs)
	}

	var conf strings.Builder
	fmt.Fprintf(&conf, "Hostname \"here\"\nFQDNLookup false\nInterval 1\nBaseDir %q\nPIDFile %q\nTypesDB %q\n",
		dir, filepath.Join(dir, "pid"), types)
	conf.WriteString("LoadPlugin load\nLoadPlugin memory\nLoadPlugin network\n<Plugin network>\n")
	for i, l := range levels {
		host, port, err := net.SplitHostPort(addrs[i])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&conf, "<Server %q %q>\n SecurityLevel %q\n", host, port, l.sends)
		if l.sends != "None" {
			conf.WriteString(" Username \"me\"\n Password \"secret\"\n")
		}
		conf.WriteString("</Server>\n")
	}
	conf.WriteString("</Plugin>\n")
	file := filepath.Join(dir, "collectd.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	client := exec.Command(program, "-f", "-C", file)
	client.Stdout, client.Stderr = &out, &out
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	rows := func(n *process.Node) string { return get(t, "http://"+n.HTTP+"/debug/vars") }
	read := regexp.MustCompile(`"pointsRx":([1-9]\d*)`)
	p.Await("the listeners have values", func() bool { return len(read.FindAllString(rows(p.Data[0]), -1)) >= 3 })
	client.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("collectd: %v\n%s", err, out.String())
		}
	case <-time.After(time.Minute):
		client.Process.Kill()
		t.Fatalf("collectd does not end: %s", out.String())
	}
	p.Data[0].Stop(syscall.SIGTERM)

	want := ""
	for _, l := range levels[:3] {
		got := rowsOf(t, p.Data[1], fmt.Sprintf(`SELECT count(value) FROM %s../load_.*|memory_value/`, l.database))
		if want == "" {
			want = got
		}
		if got != want || !strings.HasPrefix(got, "[[0 ") || strings.Count(got, "[0 ") != 4 {
			t.Errorf("%s: %s, want %s", l.database, got, want)
		}
	}
	if got := rowsOf(t, p.Data[1], `SELECT count(value) FROM refused../.*/`); !strings.Contains(got,
		"database not found") {
		t.Errorf("values that are not encrypted: %s", got)
	}
	if log := p.Data[0].Log(); !strings.Contains(log, "A packet of collectd is bad") {
		t.Error("the log says nothing of packets that were refused")
	}
}
