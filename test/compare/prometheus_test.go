//go:build compare && linux

package compare

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var listening = regexp.MustCompile(`msg="Listening on" address=(127\.0\.0\.1:\d+)`)

// prometheus runs a Prometheus on a free loopback port until the returned
// function or the end of the test, and returns its address when it is ready.
func prometheus(ctx context.Context, t *testing.T, config string) (addr string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when this test panics
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found, ended := make(chan string, 1), make(chan struct{})
	var log strings.Builder // of the goroutine, until ended
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
		cmd.Wait()
	}()
	stop = func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
	}
	t.Cleanup(stop)
	select {
	case addr = <-found:
	case <-ended:
		t.Fatalf("Prometheus ended:\n%s", log.String())
	case <-ctx.Done():
		t.Fatal("Prometheus does not listen: ", ctx.Err())
	}
	await(ctx, t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + addr + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return addr, stop
}

func await(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("in vain: %s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// TestPrometheus has a real Prometheus scrape and write through two nodes of a
// cluster and to a plain node, and one for each node read and answer PromQL.
func TestPrometheus(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skipf("Prometheus is not installed (%v): %s", err, install)
	}
	const series = 12
	s := mustStart(t, "tsi1", false)
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	for _, addr := range []string{s.plain.HTTPAddr(), s.nodes[0].HTTPAddr()} {
		got, err := Ask(ctx, addr, "", `CREATE DATABASE prom WITH REPLICATION 1 NAME "autogen"`, Form{})
		if err != nil || strings.Contains(got, "error") {
			t.Fatal(got, err)
		}
	}
	s.settle(t)

	var scrapes atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := scrapes.Add(1)
		for i := range series {
			fmt.Fprintf(w, "room_temperature{room=\"%d\",floor=\"%d\"} %d.5\n", i, i%3, int64(i)+n%10)
			fmt.Fprintf(w, "room_doors_total{room=\"%d\"} %d\n", i, n*int64(i+1))
		}
	}))
	t.Cleanup(target.Close)
	began := time.Now()
	write := func(addr, rooms string) string {
		return fmt.Sprintf(`
- url: http://%s/api/v1/prom/write?db=prom
  queue_config: {batch_send_deadline: 100ms}
  write_relabel_configs:
  - {source_labels: [room], regex: '%s', action: keep}`, addr, rooms)
	}
	_, stop := prometheus(ctx, t, fmt.Sprintf(`
global: {scrape_interval: 100ms, scrape_timeout: 100ms}
scrape_configs:
- job_name: rooms
  static_configs: [{targets: ['%s']}]
remote_write:%s%s%s
`, strings.TrimPrefix(target.URL, "http://"),
		write(s.nodes[0].HTTPAddr(), "[0-5]"), write(s.nodes[1].HTTPAddr(), "[6-9]|1."), write(s.plain.HTTPAddr(),
			".+")))

	// Samples of a series come in their order: when there are later ones, all until the end are there.
	await(ctx, t, "twenty scrapes", func() bool { return scrapes.Load() >= 20 })
	end := time.Now()
	later := fmt.Sprintf(`SELECT last(value) FROM room_temperature, room_doors_total WHERE time > %d GROUP BY *`,
		end.UnixNano())
	for _, addr := range []string{s.plain.HTTPAddr(), s.nodes[2].HTTPAddr()} {
		await(ctx, t, "all series at "+addr, func() bool {
			got, err := Ask(ctx, addr, "prom", later, Form{})
			return err == nil && strings.Count(got, `"room":`) == 2*series
		})
	}
	stop()

	read := func(node string) string {
		addr, _ := prometheus(ctx, t,
			fmt.Sprintf("remote_read:\n- {url: 'http://%s/api/v1/prom/read?db=prom', read_recent: true}\n", node))
		return addr
	}
	plain := read(s.plain.HTTPAddr())
	for i, n := range s.nodes {
		node := read(n.HTTPAddr())
		for _, q := range []string{
			`room_temperature`, `room_temperature{floor="1"}`, `room_temperature{floor!="1"}`,
			`room_temperature{room=~"1|3|5|7"}`, `room_temperature{room!~"1.*"}`, `{__name__=~"room_.+"}`,
			`{__name__=~"room_.+",floor=""}`, `sum by (floor) (room_temperature)`, `rate(room_doors_total[1s])`,
			`max_over_time(room_temperature[1s])`, `count({job="rooms"})`, `topk(3, room_temperature)`, `absent(none)`,
		} {
			want, got := promQL(ctx, t, plain, q, began, end), promQL(ctx, t, node, q, began, end)
			if len(want) < 60 || !Same(want, got) {
				t.Errorf("through node %d: %s\n%s", i+1, q, cmp.Diff(want, got))
			}
		}
	}
}

// promQL asks for a range and returns the data of the answer.
func promQL(ctx context.Context, t *testing.T, addr, q string, from, to time.Time) string {
	t.Helper()
	v := url.Values{
		"query": {q}, "start": {fmt.Sprint(from.Unix())}, "end": {fmt.Sprint(to.UnixMilli() / 1000)}, "step": {"0.1"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/query_range?"+v.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Status != "success" || len(answer.Warnings) > 0 {
		t.Fatalf("%s: %v %s", q, err, b)
	}
	return string(answer.Data)
}
