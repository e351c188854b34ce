package devcluster_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"concord/internal/page"
)

// heapPeak returns by how many bytes the heap of this process grew at most while do ran.
func heapPeak(do func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // garbage is not to count
	runtime.GC()
	heap := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	before, peak := heap(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.Tick(2 * time.Millisecond); ; {
			select {
			case <-tick:
				peak = max(peak, heap()-before)
			case <-stop:
				return
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return peak
}

// endless is a body of 600 MB that is in no memory.
func endless(begin string) io.Reader {
	return io.MultiReader(strings.NewReader(begin), io.LimitReader(letters{}, 600<<20))
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// TestBodiesOfAnySizeTakeLittleMemory sends 600 MB, and 1 GB as gzip, to every route of a data node and a meta node. It
// is not parallel: it measures the memory of all.
func TestBodiesOfAnySizeTakeLittleMemory(t *testing.T) {
	notWithRace(t)
	ctx, c := mustStart(t, 1)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	var member, zipped bytes.Buffer
	z := gzip.NewWriter(&member)
	io.Copy(z, io.LimitReader(letters{}, 16<<20))
	z.Close()
	for range 64 {
		zipped.Write(member.Bytes())
	}
	data := []string{
		"POST /query?db=db", "POST /write?db=db", "POST /api/v2/write?bucket=db", "POST /api/v2/delete?bucket=db",
		"POST /api/v1/prom/write?db=db", "POST /api/v1/prom/read?db=db", "POST /api/v2/buckets", "PATCH /api/v2/buckets/db",
		"DELETE /api/v2/buckets/db", "POST /api/v2/buckets/db/labels", "POST /shard-repair/check", "POST /shard-repair/repair",
		"POST /shard-repair/cancel-repair", "POST /shard-repair/resolve", "POST /shard-repair/pause", "POST /shard-repair/resume",
		"POST /shard-repair/max-rate", "GET /shard-status", "GET /ping", "GET /status", "GET /health", "GET /metrics",
		"GET /debug/vars", "GET /debug/pprof/cmdline", "POST /none",
	}
	meta := []string{
		"POST /restore/begin", "POST /restore/shard", "POST /execute", "POST /activate-data", "POST /add-data", "POST /add-meta",
		"POST /adopt", "POST /adopt-cluster", "POST /copy-shard", "POST /kill-copy-shard", "POST /influxdb/v2/acl/grants",
		"POST /influxdb/v2/acl/restrictions", "POST /ldap/v1/config", "POST /node-labels", "POST /rebalance",
		"POST /remove-data", "POST /remove-shard", "POST /role", "POST /user", "POST /truncate-shards",
		"POST /undrain-data", "POST /update-data", "POST /shard-repair/check", "POST /shard-repair/cancel-repair",
		"GET /status", "GET /metrics", "GET /ping", "GET /show-cluster", "POST /none",
	}
	for _, r := range page.Routes() {
		if r.Method == http.MethodPost {
			data, meta = append(data, "POST "+page.Base+r.Path), append(meta, "POST "+page.Base+r.Path)
		}
	}
	for addr, routes := range map[string][]string{c.Data[0].HTTPAddr(): data, c.Meta.HTTPAddr(): meta} {
		for _, route := range routes {
			method, path, _ := strings.Cut(route, " ")
			peak := heapPeak(func() {
				for _, kind := range []string{"JSON", "form", "gzip"} {
					body, header := endless(`{"database":"`), http.Header{"Content-Type": {"application/json"}}
					switch kind {
					case "form":
						body, header = endless("q="), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
					case "gzip":
						body, header = bytes.NewReader(zipped.Bytes()), http.Header{"Content-Encoding": {"gzip"}}
					}
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Header = header
					// The node may close the connection while the body is being sent.
					if resp, err := http.DefaultClient.Do(req); err == nil {
						resp.Body.Close()
						if resp.StatusCode == 200 && strings.Contains(path, "restore") {
							t.Errorf("%s, %s: %s", route, kind, resp.Status)
						}
					}
					cancel()
				}
			})
			if peak > 200<<20 {
				t.Errorf("%s: the memory grew by %d MB", route, peak>>20)
			}
		}
	}
	mustQuery(ctx, t, c, 0, "db", "SHOW MEASUREMENTS")
}
