package httpapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"

	"concord/internal/budget"
)

// asked is what the engine's handler got.
type asked struct {
	q, body, id string
	called      bool
}

// serve sends one request through bounds.
func serve(t *testing.T, b *bounds, r *http.Request) (int, string, asked) {
	t.Helper()
	var got asked
	b.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the body: %v", err)
		}
		got = asked{q: r.FormValue("q"), body: string(body), id: r.FormValue("node_id"), called: true}
		w.WriteHeader(http.StatusNoContent)
	})
	if b.requests == nil {
		b.requests = &budget.Requests{}
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Code, w.Body.String(), got
}

func form(q string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/query", strings.NewReader(url.Values{"q": {q}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func file(t *testing.T, q string) *http.Request {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	f, err := m.CreateFormFile("q", "statements")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, q)
	m.Close()
	r := httptest.NewRequest(http.MethodPost, "/query", &b)
	r.Header.Set("Content-Type", m.FormDataContentType())
	return r
}

func post(path string, body []byte) *http.Request {
	return httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
}

// zip compresses as clients of /write do.
func zip(body []byte) []byte {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(body)
	z.Close()
	return zipped.Bytes()
}

// zeros are n bytes, compressed as Prometheus does.
func zeros(n int) []byte { return snappy.Encode(nil, make([]byte, n)) }

func TestStatementsThatTheParserCannotTakeAreRefused(t *testing.T) {
	t.Parallel()
	deep := "SELECT v FROM " + strings.Repeat("(SELECT v FROM ", 6666) + "m" + strings.Repeat(")", 6666)
	for _, r := range []*http.Request{
		form("SELECT " + strings.Repeat("(", 1_000_000)),
		form("SELECT " + strings.Repeat("-(", 10_000) + "v"),
		form(deep),
		form("SHOW DATABASES;" + deep),
		file(t, deep),
		httptest.NewRequest(http.MethodGet, "/query?q="+url.QueryEscape(deep), nil),
		post("/api/v2/delete", fmt.Appendf(nil, `{"predicate": %q}`, strings.Repeat("(", 100_000))),
	} {
		code, answer, got := serve(t, &bounds{maxBody: 25e6}, r)
		if code != http.StatusBadRequest || !strings.Contains(answer, "deeper than 100 levels") || got.called {
			t.Errorf("%s %s: %d %s", r.Method, r.URL.Path, code, answer)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	const limit = 1000
	long := strings.Repeat("x", 2*limit)
	unannounced := func(r *http.Request) *http.Request { r.ContentLength = -1; return r }
	for name, r := range map[string]*http.Request{
		"a form":                 unannounced(form("SELECT v FROM " + long)),
		"a form, announced":      form("SELECT v FROM " + long),
		"a file":                 unannounced(file(t, "SELECT v FROM "+long)),
		"a delete":               unannounced(post("/api/v2/delete", []byte(long))),
		"a bucket":               unannounced(post("/api/v2/buckets", []byte(long))),
		"a repair":               unannounced(post("/shard-repair/check", []byte(long))),
		"Prometheus reads":       unannounced(post("/api/v1/prom/read", []byte(long))),
		"Prometheus reads zeros": post("/api/v1/prom/read", zeros(2*limit)),
		"Prometheus sends zeros": post("/api/v1/prom/write", zeros(2*limit)),
		"a write, announced":     post("/write", []byte(long)),
	} {
		code, answer, got := serve(t, &bounds{maxBody: limit}, r)
		if code != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "larger than 1000 bytes") ||
			got.called {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
}

// TestClientThatSendsTooMuchHearsSo has clients that send all of a body before they read, as many do, and one that
// waits for leave to send. The half of the body beyond the limit is more than the buffers of sockets hold.
func TestClientThatSendsTooMuchHearsSo(t *testing.T) {
	t.Parallel()
	const limit = 16 << 20
	server := httptest.NewServer(&bounds{maxBody: limit})
	defer server.Close()
	body := append([]byte("q="), bytes.Repeat([]byte("x"), 2*limit-2)...)
	for _, tt := range []struct{ path, header string }{
		{"/write", ""}, {"/query", ""}, {"/api/v2/delete", ""}, {"/write", "Expect: 100-continue\r\n"},
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
			"Content-Length: %d\r\n%s\r\n", tt.path, len(body), tt.header)
		if tt.header == "" {
			if _, err := conn.Write(body); err != nil {
				t.Errorf("%s: %v", tt.path, err)
				continue
			}
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %s", tt.path, resp.Status)
		}
	}
}

// TestNoLimitIsNoneForWritesAlone: max-body-size is 0.
func TestNoLimitIsNoneForWritesAlone(t *testing.T) {
	t.Parallel()
	large := make([]byte, 30<<20)
	for path, want := range map[string]int{
		"/write": 204, "/api/v2/write": 204, "/query": 413, "/api/v2/delete": 413, "/api/v1/prom/read": 413,
	} {
		r := post(path, large)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if code, answer, got := serve(t, &bounds{}, r); code != want || got.called != (want == 204) {
			t.Errorf("%s: %d %s", path, code, answer)
		}
	}
	for path, want := range map[string]int{"/api/v1/prom/write": 204, "/api/v1/prom/read": 413} {
		if code, answer, _ := serve(t, &bounds{}, post(path, zeros(30<<20))); code != want {
			t.Errorf("%s compressed: %d %s", path, code, answer)
		}
	}
}

// TestCompressedZerosAreRefusedUnread: 1 GB that became 50 MB.
func TestCompressedZerosAreRefusedUnread(t *testing.T) {
	one := zeros(1 << 20)
	var before, after runtime.MemStats
	bomb := append(append([]byte{0x80, 0x80, 0x80, 0x80, 0x04}, one[3:]...), bytes.Repeat(one[3:], 9)...) // says 1 GB
	runtime.ReadMemStats(&before)
	code, _, _ := serve(t, &bounds{maxBody: 25e6}, post("/api/v1/prom/read", bomb))
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; code != http.StatusRequestEntityTooLarge || used > 16<<20 {
		t.Errorf("status %d, %d bytes taken", code, used)
	}
}

func TestWhatIsWithinBoundsArrivesWhole(t *testing.T) {
	t.Parallel()
	body := []byte(strings.Repeat("m v=1\n", 100))
	for _, tt := range []struct {
		path string
		body []byte
	}{
		{"/write", body}, {"/api/v2/write", body}, {"/api/v1/prom/write", snappy.Encode(nil, body)},
		{"/api/v1/prom/write", nil}, {"/api/v1/prom/write", []byte{1}},
		{"/api/v1/prom/read", snappy.Encode(nil, body)}, {"/api/v2/delete", []byte(`{"predicate": "a = 'b'"}`)},
		{"/api/v2/buckets", body},
	} {
		if code, answer, got := serve(t, &bounds{maxBody: 1000}, post(tt.path, tt.body)); code != 204 ||
			got.body != string(tt.body) {
			t.Errorf("%s: %d %s, %d bytes of %d", tt.path, code, answer, len(got.body), len(tt.body))
		}
	}
	r := post("/write", zip(body))
	r.Header.Set("Content-Encoding", "gzip")
	if code, answer, got := serve(t, &bounds{maxBody: 1000}, r); code != 204 || got.body != string(body) {
		t.Errorf("compressed lines: %d %s, %d bytes of %d", code, answer, len(got.body), len(body))
	}
	for _, r := range []*http.Request{form("SHOW DATABASES"), httptest.NewRequest(
		http.MethodGet, "/query?q=SHOW+DATABASES&node_id=7", nil,
	)} {
		if code, answer, got := serve(t, &bounds{}, r); code != 204 || got.q != "SHOW DATABASES" || got.id != "1" {
			t.Errorf("%d %s, the engine got %+v", code, answer, got)
		}
	}
}

func TestAQueryLeavesNothingInTheBudget(t *testing.T) {
	t.Parallel()
	b := &bounds{queries: budget.New(1 << 20)}
	if code, _, _ := serve(t, b, form("SHOW DATABASES")); code != 204 || b.queries.Used() != 0 ||
		b.requests.Get(1) != nil {
		t.Errorf("status %d, %d bytes used", code, b.queries.Used())
	}
	long := "SELECT v FROM m WHERE a = '" + strings.Repeat("x", 10_000) + "'"
	if code, answer, got := serve(t, b, form(long)); code != 400 || !strings.Contains(answer, "max-query-memory") ||
		got.called {
		t.Errorf("%d %s", code, answer)
	}
}

// CSV has no place for warnings and errors of a statement: they follow the rows.
func TestCSVTellsWarningsAndErrors(t *testing.T) {
	t.Parallel()
	note := budget.Note{Kind: "warning", Text: "this answer may be incomplete: shard 7, and \"8\""}
	const noted = "warning\n\"this answer may be incomplete: shard 7, and \"\"8\"\"\"\n"
	for _, tt := range []struct {
		accept string
		rows   string
		want   string
	}{
		{"application/csv", "name,tags,time,v\nm,,1,2\n", "name,tags,time,v\nm,,1,2\n\n" + noted},
		{"text/csv;q=0.5, image/png", "", noted},
		{"application/json", "{}", "{}"},
		{"", "{}", "{}"},
	} {
		requests := &budget.Requests{}
		b := &bounds{requests: requests, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if csv := strings.Contains(tt.accept, "csv"); csv == (r.Header.Get("Accept-Encoding") != "") {
				t.Errorf("%s: the answer is to be compressed: %t", tt.accept, !csv)
			}
			io.WriteString(w, tt.rows)
			id, err := strconv.ParseUint(r.FormValue("node_id"), 10, 64)
			if err != nil {
				t.Error(err)
			}
			request := requests.Get(id)
			request.Rows(len(tt.rows))
			request.Note(note.Kind, note.Text)
		})}
		r := form("SELECT v FROM m")
		r.Header.Set("Accept-Encoding", "gzip")
		if tt.accept != "" {
			r.Header.Set("Accept", tt.accept)
		}
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		if got := w.Body.String(); got != tt.want {
			t.Errorf("%q: the answer is %q, want %q", tt.accept, got, tt.want)
		}
	}
}
