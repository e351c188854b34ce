package httpapi

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/uuid"
	"github.com/klauspost/compress/snappy"

	"concord/internal/budget"
	"concord/internal/statement"
)

const (
	// maxQueryBody bounds a form with a statement: encoded in a URL, each byte may be three.
	maxQueryBody = 4 << 20
	// maxSmallBody bounds the bodies of all requests but writes and queries: descriptions of buckets, deletes,
	// Prometheus reads.
	maxSmallBody = 1 << 20
	// bufferHint is how much memory the engine reserves at most for a body that has only been announced.
	bufferHint = 1 << 20
)

// bounds is an http.Handler that refuses requests which are too large, before the engine's handler reads them.
//
// max-body-size bounds every body, and what a compressed one becomes. Where it is 0, which is no limit, writes alone
// are unlimited.
type bounds struct {
	next     http.Handler
	maxBody  int64 // 0 is no limit
	queries  *budget.Budget
	requests *budget.Requests
	load     *Load          // nil for not counted
	page     http.Handler   // of the cluster; nil for none
	deletes  *httpd.Handler // nil for next
	one      func(*httpd.Handler) *httpd.Handler
}

// user is the handler for a request whose user the engine's handler does not pass on.
func (b *bounds) user(usual http.Handler) http.Handler {
	if of, engine := usual.(*httpd.Handler); engine && b.one != nil {
		if h := b.one(of); h != nil {
			return h
		}
	}
	return usual
}

func (b *bounds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if b.maxBody > 0 && r.ContentLength > b.maxBody {
		tooLarge(w, r, r.Body, b.maxBody)
		return
	}
	if r.URL.Path == pagePath || strings.HasPrefix(r.URL.Path, pagePath+"/") {
		b.servePage(w, r)
		return
	}
	began := time.Now()
	switch r.URL.Path {
	case "/write", "/api/v2/write":
		b.write(w, r)
		if b.load != nil {
			b.load.wrote(time.Since(began))
		}
	case "/api/v1/prom/write":
		b.promWrite(w, r)
	case "/api/v1/prom/read":
		b.promRead(w, r)
	case "/query":
		b.query(w, r)
		if b.load != nil {
			b.load.asked(time.Since(began))
		}
	case "/api/v2/delete":
		b.delete(w, r)
	default:
		if _, ok := b.small(w, r); ok {
			b.next.ServeHTTP(w, r)
		}
	}
}

// pagePath is where the page of the cluster is, and all that it asks for.
const pagePath = "/cluster"

// servePage hands a request to the page, which knows who is logged in.
func (b *bounds) servePage(w http.ResponseWriter, r *http.Request) {
	if b.page == nil {
		refuse(w, http.StatusNotFound, "this server has no page of the cluster")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, b.limit(maxSmallBody))
	b.page.ServeHTTP(w, r)
}

// write looks at the lines on their way to the engine, which bounds how many bytes it reads.
func (b *bounds) write(w http.ResponseWriter, r *http.Request) {
	lines := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		lines = z
		r.Header.Del("Content-Encoding")
	}
	b.pass(w, r, &tagLimit{r: lines})
}

// pass lets the engine read another body in place of the request's.
func (b *bounds) pass(w http.ResponseWriter, r *http.Request, body io.Reader) {
	r.ContentLength = min(r.ContentLength, bufferHint)
	r.Body = struct {
		io.Reader
		io.Closer
	}{body, r.Body}
	b.next.ServeHTTP(w, r)
}

// promWrite looks at the first bytes of the body, which say how large it becomes.
func (b *bounds) promWrite(w http.ResponseWriter, r *http.Request) {
	head := make([]byte, 10) // what a number of 64 bits takes at most
	n, err := io.ReadFull(r.Body, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		refuse(w, http.StatusBadRequest, "read the body: "+err.Error())
		return
	}
	head = head[:n]
	if n, err := snappy.DecodedLen(head); err == nil && b.maxBody > 0 && int64(n) > b.maxBody {
		tooLarge(w, r, r.Body, b.maxBody)
		return
	}
	b.pass(w, r, io.MultiReader(bytes.NewReader(head), r.Body))
}

func (b *bounds) promRead(w http.ResponseWriter, r *http.Request) {
	body, ok := b.small(w, r)
	if !ok {
		return
	}
	if n, err := snappy.DecodedLen(body); err == nil && int64(n) > b.limit(maxSmallBody) {
		tooLarge(w, r, r.Body, b.limit(maxSmallBody))
		return
	}
	b.user(b.next).ServeHTTP(w, r)
}

func (b *bounds) delete(w http.ResponseWriter, r *http.Request) {
	body, ok := b.small(w, r)
	if !ok {
		return
	}
	var d httpd.DeleteBody
	if err := json.Unmarshal(body, &d); err == nil { // else the engine says so
		if err := statement.Client.Expr(d.Predicate); err != nil {
			refuse(w, http.StatusBadRequest, "delete - cannot parse predicate: "+err.Error())
			return
		}
	}
	usual := b.next
	if b.deletes != nil {
		usual = b.deletes
	}
	b.user(usual).ServeHTTP(w, r)
}

// query checks the statements, and opens the share of memory from which they and their answer take.
func (b *bounds) query(w http.ResponseWriter, r *http.Request) {
	named := requestID(w, r)
	body := r.Body
	r.Body = http.MaxBytesReader(w, body, b.limit(maxQueryBody))
	err := r.ParseForm()
	if err == nil {
		err = r.ParseMultipartForm(maxQueryBody)
	}
	if e := (*http.MaxBytesError)(nil); errors.As(err, &e) {
		tooLarge(w, r, body, e.Limit)
		return
	} // the engine goes on with what there is of a malformed form
	text, err := statements(r)
	if err == nil {
		err = statement.Client.Query(text, params(r))
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "error parsing query: "+err.Error())
		return
	}
	if r.FormValue("async") == "true" { // its statements go on after the answer
		r.Form.Del("node_id")
		b.next.ServeHTTP(w, r)
		return
	}
	request := &budget.Request{Share: b.queries.Open(), ID: named, Streamed: r.FormValue("chunked") == "true"}
	defer request.Close()
	if err := request.Grow(statement.Cost(text)); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	id := b.requests.Add(request)
	defer b.requests.Remove(id)
	// The engine takes nothing else from a request to its statements.
	r.Form.Set("node_id", strconv.FormatUint(id, 10))
	if !wantsCSV(r) {
		b.next.ServeHTTP(w, r)
		return
	}
	r.Header.Del("Accept-Encoding") // what follows comes after the engine's handler has ended a compressed answer
	b.next.ServeHTTP(w, r)
	writeNotes(w, request)
}

// wantsCSV reports whether the engine answers a query as CSV.
func wantsCSV(r *http.Request) bool {
	chosen := headers{}
	httpd.NewResponseWriter(chosen, r)
	return strings.HasSuffix(http.Header(chosen).Get("Content-Type"), "/csv")
}

// headers is an answer of which the headers alone are kept.
type headers http.Header

func (h headers) Header() http.Header         { return http.Header(h) }
func (h headers) Write(b []byte) (int, error) { return len(b), nil }
func (h headers) WriteHeader(int)             {}

// writeNotes adds the warnings and errors of statements to an answer as CSV, in which the engine has no place for them:
// in the form of an error that it knows before there is an answer.
func writeNotes(w io.Writer, request *budget.Request) {
	notes, rows := request.Notes()
	out := csv.NewWriter(w)
	for _, n := range notes {
		if rows {
			out.Flush()
			io.WriteString(w, "\n") // as between two statements
		}
		out.WriteAll([][]string{{n.Kind}, {n.Text}})
		rows = true
	}
}

// The names of the headers with the ID of a request. The engine takes the first of them that a client gives, or makes
// an ID, and answers with both.
var requestIDHeaders = []string{"X-Request-Id", "Request-Id"}

// maxRequestID bounds the bytes of an ID that are logged: clients choose it.
const maxRequestID = 128

// requestID names a request as the engine does, and before it: what is refused here has an ID, too.
func requestID(w http.ResponseWriter, r *http.Request) string {
	id := ""
	for _, name := range requestIDHeaders {
		id = cmp.Or(id, r.Header.Get(name))
	}
	if id == "" {
		id = uuid.TimeUUID().String()
	}
	for _, name := range requestIDHeaders {
		r.Header.Set(name, id)
		w.Header().Set(name, id)
	}
	return id[:min(len(id), maxRequestID)]
}

// statements are what the engine will parse: the parameter q, or a file of that name.
func statements(r *http.Request) (string, error) {
	if q := strings.TrimSpace(r.FormValue("q")); q != "" || r.MultipartForm == nil ||
		len(r.MultipartForm.File["q"]) == 0 {
		return q, nil
	}
	f, err := r.MultipartForm.File["q"][0].Open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

// params are the values of bound parameters as the engine reads them, nil when there are none or they are malformed.
func params(r *http.Request) map[string]any {
	d := json.NewDecoder(strings.NewReader(r.FormValue("params")))
	d.UseNumber()
	var all map[string]any
	if d.Decode(&all) != nil {
		return nil
	}
	return all
}

// small reads a body that is never large, and lets the engine read it again.
func (b *bounds) small(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if r.ContentLength == 0 {
		return nil, true
	}
	limit := b.limit(maxSmallBody)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if errors.As(err, new(*http.MaxBytesError)) {
		tooLarge(w, r, r.Body, limit)
		return nil, false
	} else if err != nil {
		refuse(w, http.StatusBadRequest, "read the body: "+err.Error())
		return nil, false
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return body, true
}

// limit is n, or max-body-size where that is less.
func (b *bounds) limit(n int64) int64 {
	if b.maxBody > 0 {
		return min(n, b.maxBody)
	}
	return n
}

// tooLarge refuses a request whose body has more than limit bytes. It reads twice that of the rest first: a client that
// is still sending when the connection closes sees that, and not the answer. It reads nothing from a client that waits
// for leave to send.
func tooLarge(w http.ResponseWriter, r *http.Request, rest io.Reader, limit int64) {
	if r.Header.Get("Expect") == "" {
		io.Copy(io.Discard, io.LimitReader(rest, 2*limit))
	}
	refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body of the request is larger than %d bytes", limit))
}

// refuse answers as the engine does.
func refuse(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Influxdb-Error", reason)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": reason})
}
